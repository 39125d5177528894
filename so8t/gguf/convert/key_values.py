"""What `convert` writes into the `so8t.*` keys: facts of the bake report, params.yaml and the base.

The bake report is what the bake stage writes when it folds a trained adapter into the weights of a
stock model. Without one the keys say that nothing was trained.
"""

from pathlib import Path

from so8t import __version__
from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_file
from so8t.gguf.convert.keys import AUTHORITY_IDS, VERDICT_IDS, typed
from so8t.gguf_file import Keys
from so8t.gguf_header import Value
from so8t.model_folder import Json, read_object
from so8t.params import Params, spare_row

# The order of the token ids: three verdicts, then two authorities (who may act on a request).
VERDICT_ROLES = ("allow", "escalate", "deny")
AUTHORITY_ROLES = ("handle", "human")
CLASSES = "ALLOW,ESCALATE,DENY"
ROTATION_DIM = 8  # a rotation acts on blocks of eight dimensions


def true_keys(source: Path, params: Params, *, base: Path, bake: Path | None) -> Keys:
    """The keys that `convert` writes. They are true: the founders' files carried constants.

    Args:
        source: the Hugging Face directory that is converted.
        params: for the names of the reserved tokens and of the base model.
        base: directory of the base stage (for its digest), read only where there is no bake report.
        bake: the bake report of a retrained model; None for the base model itself.

    Raises:
        ArtifactError: a reserved token that the vocabulary lacks, or other tokens than were baked.
    """
    report = read_json(bake, fix="dvc repro bake") if bake else {}
    # An adapter without rotations is baked too, and then its report lists no layers.
    is_rotated = bool(report.get("layers"))
    heads = report.get("heads") or {}
    has_triality = heads.get("mode") == "triality"
    architectures = read_object(source).get("architectures") or ["?"]
    values: dict[str, Value] = {
        "so8t.group_structure": "SO8" if is_rotated else "none",
        "so8t.rotation_dim": ROTATION_DIM if is_rotated else 0,
        "so8t.pet_lambda": float(report.get("pet_lambda", 0.0)),
        "so8t.safety_weight": float(report.get("safety_weight", 0.0)),
        "so8t.cmd_weight": float(report.get("cmd_weight", 0.0)),
        "so8t.triality_enabled": str(has_triality).lower(),
        "so8t.safety_classes": CLASSES,
        # Nothing is allowed until `release` writes the card's thresholds.
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
        "so8t.architecture": str(architectures[0]),
    }
    values |= _lineage(params, report, base, bake)
    values |= _token_ids(source, params, report)
    return typed(values)


def _lineage(params: Params, report: Json, base: Path, bake: Path | None) -> dict[str, Value]:
    """Where the model comes from: base model, training data, bake report."""
    base_path = params.active.base.path
    values: dict[str, Value] = {
        "so8t.base_model": Path(base_path).name if base_path else f"so8t-{params.profile}",
        "so8t.base_sha256": str(report["base_sha256"]) if report else base_digest(base),
    }
    # GGUF knows no empty arrays.
    if report.get("layers"):
        values["so8t.baked_layers"] = [int(layer) for layer in report["layers"]]
    if bake:
        values["so8t.data_sha256"] = str(report["data_sha256"])
        values["so8t.bake_sha256"] = sha256_file(bake)
    return values


def base_digest(base: Path) -> str:
    """SHA-256 of the base model's description, or of its weights where it was made from scratch."""
    # A local model has a description with the digest of each file; reading it is enough.
    description = base / "so8t_base.json"
    if description.is_file():
        return sha256_file(description)
    return sha256_file(base / "model.safetensors")


def _token_ids(source: Path, params: Params, report: Json) -> dict[str, Value]:
    """Ids of the five reserved tokens; those of a baked model must be the ones that were baked."""
    tokens = params.active.base.tokens
    verdict_ids = [token_id(source, getattr(tokens, role)) for role in VERDICT_ROLES]
    authority_ids = [token_id(source, getattr(tokens, role)) for role in AUTHORITY_ROLES]
    wanted = [*verdict_ids, *authority_ids]
    # A bake without heads leaves these rows alone, and any will do.
    baked = report.get("head_token_ids") or wanted
    if list(baked) != wanted:
        raise ArtifactError(
            f"the heads were baked into tokens {baked}, params.yaml names {wanted}",
            where=str(source),
            fix="dvc repro bake",
        )
    return {VERDICT_IDS: verdict_ids, AUTHORITY_IDS: authority_ids}


def token_id(source: Path, text: str) -> int:
    """Id of an added token, or of a row behind the last token that `[PADn]` names.

    Args:
        source: Hugging Face directory.
        text: the token, as params.yaml names it.

    Raises:
        ArtifactError: the tokenizer has no such token.
    """
    tokenizer = read_object(source, "tokenizer.json")
    added: dict[str, int] = {}
    for entry in tokenizer.get("added_tokens") or []:
        added[entry["content"]] = int(entry["id"])
    if text in added:
        return added[text]
    model = tokenizer.get("model") or {}
    vocabulary = model.get("vocab") or {}
    # Not the size of the vocabulary: ids may have gaps.
    last = max([*added.values(), *vocabulary.values()], default=-1)
    # Embeddings are often padded to a round number of rows, and the rows at the end are free.
    n_rows = int(read_object(source).get("vocab_size") or 0)
    spare = spare_row(text, last + 1, n_rows)
    if spare is None:
        raise ArtifactError(
            f"the vocabulary has no token {text}",
            where=str(source / "tokenizer.json"),
            fix="name reserved tokens that it has in params.yaml, base.tokens",
        )
    return spare
