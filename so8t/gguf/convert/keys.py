"""Every `so8t.*` key of a GGUF file: its type, its meaning and where the value comes from.

The nineteen founding keys keep their names and types and carry true values (the founders' files carried constants).
`docs/gguf-keys.md` is generated from this table. Times and commits are not here: they go to the ledger and the card,
so that equal inputs give equal files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf import GGUFValueType

from so8t import __version__, identity
from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_file
from so8t.gguf.convert.source import read_config
from so8t.gguf_file import KeyValue
from so8t.gguf_header import Value
from so8t.params import Params, spare_row

Kind = Literal["founding", "lineage", "readout", "calibration", "seal"]
ROLES = ("allow", "escalate", "deny", "handle", "human")
VERDICT_IDS, AUTHORITY_IDS = "so8t.verdict.token_ids", "so8t.authority.token_ids"
CLASSES = "ALLOW,ESCALATE,DENY"
_T = GGUFValueType


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One row of the table."""

    name: str
    type: GGUFValueType
    kind: Kind
    meaning: str
    source: str
    sub: GGUFValueType | None = None


KEYS: tuple[KeySpec, ...] = (
    KeySpec(
        "so8t.group_structure",
        _T.STRING,
        "founding",
        "group of the rotations: SO8, or none for an unrotated model",
        "bake report, layers",
    ),
    KeySpec(
        "so8t.rotation_dim",
        _T.UINT32,
        "founding",
        "width of a rotation block; 0 = no rotations",
        "bake report, layers",
    ),
    KeySpec(
        "so8t.pet_lambda",
        _T.FLOAT32,
        "founding",
        "weight of PET in the main phase; 0 = untrained or off",
        "bake report, pet_lambda",
    ),
    KeySpec(
        "so8t.safety_weight",
        _T.FLOAT32,
        "founding",
        "weight of the verdict and authority loss; 0 = untrained",
        "bake report, safety_weight",
    ),
    KeySpec(
        "so8t.cmd_weight",
        _T.FLOAT32,
        "founding",
        "weight of the language-model loss; 0 = untrained",
        "bake report, cmd_weight",
    ),
    KeySpec(
        "so8t.triality_enabled",
        _T.STRING,
        "founding",
        "true when the heads share prototypes through triality",
        "bake report, heads",
    ),
    KeySpec(
        "so8t.safety_classes",
        _T.STRING,
        "founding",
        "verdicts, in the order of so8t.verdict.token_ids",
        "so8t.verdict",
    ),
    KeySpec(
        "so8t.safety_threshold",
        _T.FLOAT32,
        "founding",
        "1 - escalation_threshold, smallest p(ALLOW) that allows; 1 until calibrated",
        "release, from the card",
    ),
    KeySpec(
        "so8t.escalation_threshold",
        _T.FLOAT32,
        "founding",
        "p(ESCALATE) + p(DENY) from which nothing is allowed; 0 until calibrated",
        "release, from the card",
    ),
    KeySpec("so8t.multimodal", _T.STRING, "founding", "false: text only", "constant"),
    KeySpec("so8t.ocr_enabled", _T.STRING, "founding", "false: text only", "constant"),
    KeySpec("so8t.ocr.language", _T.STRING, "founding", "empty: no OCR", "constant"),
    KeySpec("so8t.ocr.config", _T.STRING, "founding", "empty: no OCR", "constant"),
    KeySpec("so8t.image.max_width", _T.UINT32, "founding", "0: no images", "constant"),
    KeySpec("so8t.image.max_height", _T.UINT32, "founding", "0: no images", "constant"),
    KeySpec(
        "so8t.memory.sql_enabled", _T.STRING, "founding", "false: a file has no memory", "constant"
    ),
    KeySpec(
        "so8t.memory.conversation_history",
        _T.STRING,
        "founding",
        "false: a file has no memory",
        "constant",
    ),
    KeySpec(
        "so8t.version",
        _T.STRING,
        "founding",
        "version of the software that wrote the file",
        "so8t.__version__",
    ),
    KeySpec(
        "so8t.architecture",
        _T.STRING,
        "founding",
        "stock architecture of the weights",
        "config.json",
    ),
    KeySpec(
        "so8t.base_model", _T.STRING, "lineage", "name of the base model", "params.yaml, base.path"
    ),
    KeySpec(
        "so8t.base_sha256",
        _T.STRING,
        "lineage",
        "digest of the base model",
        "base manifest or bake report",
    ),
    KeySpec(
        "so8t.data_sha256",
        _T.STRING,
        "lineage",
        "digest of the training data; absent for an untrained model",
        "bake report",
    ),
    KeySpec(
        "so8t.baked_layers",
        _T.ARRAY,
        "lineage",
        "layers whose o_proj holds a folded rotation; absent without rotations",
        "bake report",
        _T.INT32,
    ),
    KeySpec(
        "so8t.bake_sha256",
        _T.STRING,
        "lineage",
        "digest of the bake report; absent for an untrained model",
        "bake report",
    ),
    KeySpec(
        VERDICT_IDS,
        _T.ARRAY,
        "readout",
        "token ids whose logits are the verdicts ALLOW, ESCALATE, DENY",
        "params.yaml, base.tokens",
        _T.INT32,
    ),
    KeySpec(
        AUTHORITY_IDS,
        _T.ARRAY,
        "readout",
        "token ids whose logits are handle and human",
        "params.yaml, base.tokens",
        _T.INT32,
    ),
    KeySpec(
        "so8t.calibration.status",
        _T.STRING,
        "calibration",
        "certified or not_certified",
        "release, from the card",
    ),
    KeySpec(
        "so8t.calibration.readout",
        _T.STRING,
        "calibration",
        "prefill or cue",
        "release, from the card",
    ),
    KeySpec(
        "so8t.calibration.temperature",
        _T.FLOAT64,
        "calibration",
        "divides the verdict logits",
        "release, from the card",
    ),
    KeySpec(
        "so8t.calibration.deny",
        _T.FLOAT64,
        "calibration",
        "DENY from this p(DENY)",
        "release, from the card",
    ),
    KeySpec(
        "so8t.calibration.escalate",
        _T.FLOAT64,
        "calibration",
        "ALLOW only below this p(ESCALATE) + p(DENY)",
        "release, from the card",
    ),
    KeySpec(
        "so8t.calibration.card_sha256", _T.STRING, "calibration", "digest of the card", "release"
    ),
    KeySpec(
        "so8t.calibration.semantic_digest",
        _T.STRING,
        "calibration",
        "semantic digest of the file that was calibrated",
        "release, from the card",
    ),
    KeySpec(
        identity.SEAL,
        _T.STRING,
        "seal",
        "SHA-256 over every byte of the file (these 64 characters as zeros)",
        "so8t.identity",
    ),
)
BY_NAME = {spec.name: spec for spec in KEYS}


def typed(values: dict[str, Value]) -> dict[str, KeyValue]:
    """Give each value the type of the table.

    Raises:
        ArtifactError: a key that is not in the table.
    """
    if unknown := sorted(set(values) - set(BY_NAME)):
        raise ArtifactError(
            f"unknown keys {unknown}",
            where="so8t.gguf.convert.keys",
            fix="add them to the table with type and meaning",
        )
    return {
        name: KeyValue(value, BY_NAME[name].type, BY_NAME[name].sub)
        for name, value in values.items()
    }


def true_keys(
    source: Path, params: Params, *, base: Path, bake: Path | None
) -> dict[str, KeyValue]:
    """The keys that `convert` writes.

    Args:
        source: the Hugging Face directory that is converted.
        params: for the names of the reserved tokens and of the base model.
        base: directory of the base stage (for its digest), read only where there is no bake report.
        bake: the bake report of a retrained model; None for the base model itself.
    """
    report = read_json(bake, fix="dvc repro bake") if bake else {}
    values: dict[str, Value] = {
        "so8t.group_structure": "SO8" if report.get("layers") else "none",
        "so8t.rotation_dim": 8 if report.get("layers") else 0,
        "so8t.pet_lambda": float(report.get("pet_lambda", 0.0)),
        "so8t.safety_weight": float(report.get("safety_weight", 0.0)),
        "so8t.cmd_weight": float(report.get("cmd_weight", 0.0)),
        "so8t.triality_enabled": str((report.get("heads") or {}).get("mode") == "triality").lower(),
        "so8t.safety_classes": CLASSES,
        "so8t.safety_threshold": 1.0,
        "so8t.escalation_threshold": 0.0,
        "so8t.multimodal": "false",
        "so8t.ocr_enabled": "false",
        "so8t.ocr.language": "",
        "so8t.ocr.config": "",
        "so8t.image.max_width": 0,
        "so8t.image.max_height": 0,
        "so8t.memory.sql_enabled": "false",
        "so8t.memory.conversation_history": "false",
        "so8t.version": __version__,
        "so8t.architecture": str((read_config(source).get("architectures") or ["?"])[0]),
        **_lineage(params, report, base, bake),
        **_readout(source, params, report),
    }
    return typed(values)


def _lineage(
    params: Params, report: dict[str, Any], base: Path, bake: Path | None
) -> dict[str, Value]:
    name = (
        Path(params.active.base.path).name if params.active.base.path else f"so8t-{params.profile}"
    )
    values: dict[str, Value] = {"so8t.base_model": name}
    values["so8t.base_sha256"] = str(report["base_sha256"]) if report else base_digest(base)
    if report.get("layers"):  # GGUF knows no empty arrays
        values["so8t.baked_layers"] = [int(i) for i in report["layers"]]
    if bake:
        values |= {
            "so8t.data_sha256": str(report["data_sha256"]),
            "so8t.bake_sha256": sha256_file(bake),
        }
    return values


def base_digest(base: Path) -> str:
    """Digest of the base model: of its description (local models) or of its weights (made from scratch)."""
    manifest = base / "so8t_base.json"
    return sha256_file(manifest if manifest.is_file() else base / "model.safetensors")


def _readout(source: Path, params: Params, report: dict[str, Any]) -> dict[str, Value]:
    """Ids of the five role tokens; those of a baked model must be the ones that were baked."""
    ids = [token_id(source, getattr(params.active.base.tokens, role)) for role in ROLES]
    baked = report.get("head_token_ids") or ids
    if list(baked) != ids:
        raise ArtifactError(
            f"the heads were baked into tokens {baked}, params.yaml names {ids}",
            where=str(source),
            fix="dvc repro bake",
        )
    return {VERDICT_IDS: ids[:3], AUTHORITY_IDS: ids[3:]}


def token_id(source: Path, text: str) -> int:
    """Id of an added token, or of a row behind the last token that `[PADn]` names.

    Raises:
        ArtifactError: the tokenizer has no such token.
    """
    tokenizer = read_config(source, "tokenizer.json")
    added = {entry["content"]: int(entry["id"]) for entry in tokenizer.get("added_tokens") or []}
    if text in added:
        return added[text]
    last = max(
        [*added.values(), *((tokenizer.get("model") or {}).get("vocab") or {}).values()], default=-1
    )
    spare = spare_row(
        text, last + 1, int(read_config(source, "config.json").get("vocab_size") or 0)
    )
    if spare is not None:
        return spare
    raise ArtifactError(
        f"the vocabulary has no token {text}",
        where=str(source / "tokenizer.json"),
        fix="name reserved tokens that it has in params.yaml, base.tokens",
    )


def table_markdown() -> str:
    """docs/gguf-keys.md."""
    titles = {
        "founding": "Founding keys",
        "lineage": "Lineage",
        "readout": "Readout",
        "calibration": "Calibration (written by `release`)",
        "seal": "Seal",
    }
    lines = [
        "# GGUF keys",
        "",
        "Generated from `so8t/gguf/convert/keys.py` by `so8t gguf keys`; do not edit.",
        "",
    ]
    for kind, title in titles.items():
        lines += [
            f"## {title}",
            "",
            "| key | type | meaning | comes from | in the semantic digest |",
            "|---|---|---|---|---|",
        ]
        for spec in (s for s in KEYS if s.kind == kind):
            shown = f"ARRAY[{spec.sub.name}]" if spec.sub else spec.type.name
            counted = "yes" if identity.changes_behaviour(spec.name) else "no"
            lines.append(
                f"| `{spec.name}` | {shown} | {spec.meaning} | {spec.source} | {counted} |"
            )
        lines.append("")
    return "\n".join(lines)
