"""The table of every `so8t.*` key of a GGUF file: its type, its meaning and its origin.

`docs/gguf-keys.md` is generated from this table. Times and commits are not here: they go to the
conversion ledger and the card, so that equal inputs give equal files. What `convert` writes into
the keys: so8t.gguf.convert.key_values.
"""

from dataclasses import dataclass
from typing import Literal

from gguf import GGUFValueType

from so8t import identity
from so8t.errors import ArtifactError
from so8t.gguf_file import Keys, KeyValue
from so8t.gguf_header import Value

Kind = Literal["founding", "lineage", "readout", "calibration", "seal"]
VERDICT_IDS = "so8t.verdict.token_ids"
AUTHORITY_IDS = "so8t.authority.token_ids"
TITLES: dict[Kind, str] = {
    "founding": "Founding keys",
    "lineage": "Lineage",
    "readout": "Readout",
    "calibration": "Calibration (written by `release`)",
    "seal": "Seal",
}
_T = GGUFValueType  # short, because it is in every row of the table


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One row of the table.

    Attributes:
        name: full name of the key.
        type: its GGUF type.
        kind: which part of the page it belongs to.
        meaning: what the value says.
        source: where the value comes from.
        sub: item type of an array.
    """

    name: str
    type: GGUFValueType
    kind: Kind
    meaning: str
    source: str
    sub: GGUFValueType | None = None


KEYS: tuple[KeySpec, ...] = (
    # The nineteen keys of the project's founders, with their names and types, which is why truth
    # values are texts. PET and triality are ways of training: a penalty on the second difference
    # of hidden states, and verdict heads that share their weights by a symmetry of SO(8).
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
    # Weights of the losses in training; 0 in a base model, which was not trained.
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
    # For readers that know only the founders' keys. The closed values stand until `release`.
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
    # The founders planned images and a memory. Nothing of it is in the file, and the keys say so.
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
    # Of the software, and yet outside the digest: a new version makes no other model.
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
    # Where the file comes from.
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
    # What a reader needs to find the verdict: which rows of the vocabulary the heads became.
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
    # Written by `release`, from the card, in which calibration says how a verdict's numbers
    # become a decision. None of them is in the semantic digest, or the card would not fit its file.
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
    # The last key of every file.
    KeySpec(
        identity.SEAL,
        _T.STRING,
        "seal",
        "SHA-256 over every byte of the file (these 64 characters as zeros)",
        "so8t.identity",
    ),
)
BY_NAME = {spec.name: spec for spec in KEYS}


def typed(values: dict[str, Value]) -> Keys:
    """Give each value the type of the table.

    Args:
        values: by the key's full name.

    Raises:
        ArtifactError: a key that is not in the table.
    """
    unknown = sorted(set(values) - set(BY_NAME))
    if unknown:
        raise ArtifactError(
            f"unknown keys {unknown}",
            where="so8t.gguf.convert.keys",
            fix="add them to the table with type and meaning",
        )
    keys = {}
    for name, value in values.items():
        spec = BY_NAME[name]
        keys[name] = KeyValue(value, spec.type, spec.sub)
    return keys


def table_markdown() -> str:
    """docs/gguf-keys.md."""
    lines = [
        "# GGUF keys",
        "",
        "Generated from `so8t/gguf/convert/keys.py` by `so8t gguf keys`; do not edit.",
        "",
    ]
    for kind, title in TITLES.items():
        lines += [
            f"## {title}",
            "",
            "| key | type | meaning | comes from | in the semantic digest |",
            "|---|---|---|---|---|",
        ]
        lines += [_markdown_row(spec) for spec in KEYS if spec.kind == kind]
        lines.append("")
    return "\n".join(lines)


def _markdown_row(spec: KeySpec) -> str:
    """One key of the page."""
    shown = f"ARRAY[{spec.sub.name}]" if spec.sub else spec.type.name
    is_counted = "yes" if identity.changes_behaviour(spec.name) else "no"
    return f"| `{spec.name}` | {shown} | {spec.meaning} | {spec.source} | {is_counted} |"
