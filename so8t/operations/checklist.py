"""The founding operations checklist: what must be true before each stage, after the one before it.

The founding documents are the specification that this project started from. Every check reads what
is on disk; none runs a model. A file is read only as far as it costs little: GGUF seals are checked
in full (a GGUF is what answers requests), Hugging Face weights by their headers alone.
"""

import csv
import glob
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from so8t.errors import ArtifactError, DataError, GateError
from so8t.files import read_json, read_object
from so8t.model_folder import tensors_in, weight_files
from so8t.operations.line import Line, run_check
from so8t.params import Params
from so8t.rows import read_rows
from so8t.verdict import VERDICTS

Check = Callable[[Path, Params], str]
# A quantised file's size as a share of its F16's: below, something is missing; above, something was
# not quantised.
SMALLEST_SHARE = 0.15
LARGEST_SHARE = 0.75
# Parts of names that only an adapter's tensors have.
ADAPTER_NAMES = ("lora", "gate_so8", "so8t")


def sources(root: Path, params: Params) -> str:
    """Every data source is there.

    Raises:
        DataError: naming the missing ones.
    """
    missing = []
    for source in params.data.sources:
        # The synthetic rows are an output of the first stage: they may be still to come.
        comes_later = source.path == "data/raw/synthetic.jsonl"
        # A source is a path or a pattern of several.
        # `Path.glob` refuses absolute patterns.
        matches = glob.glob(str(root / source.path))  # noqa: PTH207
        if not comes_later and not matches and not (root / source.path).exists():
            missing.append(source.path)
    if missing:
        raise DataError(
            f"data source not found: {', '.join(missing)}",
            where="params.yaml: data.sources",
            fix="correct the path; globs are relative to the project's root",
        )
    return f"{len(params.data.sources)} sources"


def prepared(root: Path, _params: Params) -> str:
    """Training rows exist and hold all three verdicts.

    Raises:
        DataError: a verdict is missing, or the rows cannot be read.
    """
    path = root / "data/prepared/train.jsonl"
    counts = Counter(str(row.verdict) for row in read_rows(path))
    missing = [verdict.value for verdict in VERDICTS if not counts[verdict.value]]
    if missing:
        raise DataError(
            f"no row of {', '.join(missing)} among {sum(counts.values())} training rows",
            where=str(path),
            fix="add rows of that verdict; `so8t data` compares versions of the data",
        )
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def base(root: Path, params: Params) -> str:
    """The base model's directory is complete.

    Raises:
        ArtifactError: no config.json, no weights, or weights that were cut short.
    """
    folder = root / (params.active.base.path or "models/base")
    # The folder is the user's, so its parts are named one by one.
    config = read_object(
        folder / "config.json",
        fix=f"set {params.key_in_force('base.path')} to a local Hugging Face directory, "
        "or `dvc repro base`",
    )
    files = weight_files(folder)
    # For what it raises: a copy that was interrupted is cut short.
    for file in files:
        tensors_of(file)
    kind = config.get("model_type")
    layers = config.get("num_hidden_layers")
    return f"{kind}, {layers} layers, {len(files)} weight files"


def tensors_of(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file; its length must be what its header says.

    Raises:
        ArtifactError: missing, cut short, or not such a file.
    """
    try:
        return [tensor.name for tensor in tensors_in(path)]
    except FileNotFoundError:
        raise ArtifactError(
            "file not found", where=str(path), fix="`dvc pull`, or `dvc repro`"
        ) from None


def adapter(root: Path, params: Params) -> str:
    """The adapter, its gates and its heads were all saved.

    Raises:
        ArtifactError: naming what is missing and what is there instead.
    """
    folder = root / "models/adapter"
    wanted = ["so8t_config.json"]
    if params.active.train.lora_r > 0:
        wanted.append("adapter_model.safetensors")
    if params.gates.enabled:
        wanted.append("so8t_gates.safetensors")
    if params.heads.enabled:
        wanted.append("so8t_heads.safetensors")
    found = sorted(path.name for path in folder.glob("*"))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ArtifactError(
            f"SO8T components are missing: {', '.join(missing)}; "
            f"found: {', '.join(found) or 'nothing'}",
            where=str(folder),
            fix="`dvc repro train` (or `dvc checkout train`)",
        )
    # All but so8t_config.json.
    weights = wanted[1:]
    count = sum(len(tensors_of(folder / name)) for name in weights)
    return f"{count} tensors in {len(weights)} files"


def log_of_training(root: Path, _params: Params) -> str:
    """The loss is finite and fell.

    Raises:
        DataError: there is no log.
        GateError: no loss in it, one that is not finite, or a mean that did not fall.
    """
    path = root / "data/train_log.csv"
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            losses = [float(row["lm"]) for row in csv.DictReader(lines) if row.get("lm")]
    except FileNotFoundError:
        raise DataError("file not found", where=str(path), fix="`dvc repro train`") from None
    if not losses or not all(map(math.isfinite, losses)):
        raise GateError(
            "the log of the training has no losses, or some that are not finite",
            where=str(path),
            fix="halve train.lr, then `dvc repro train`",
        )
    # Means of the first and last tenth: the loss of a single batch is noise.
    tenth = max(1, len(losses) // 10)
    first = sum(losses[:tenth]) / tenth
    last = sum(losses[-tenth:]) / tenth
    if last >= first:
        raise GateError(
            f"the loss did not fall: {first:.3f} at the start, {last:.3f} at the end",
            where=str(path),
            fix="look at duplicates in reports/data.md and at the PET share in reports/report.md; "
            "try train.lr halved and doubled, pet.lambda 0",
        )
    return f"{len(losses)} steps, loss {first:.3f} -> {last:.3f}"


def baked(root: Path, _params: Params) -> str:
    """The baked model is a stock one: no gate or adapter tensor is left.

    Raises:
        ArtifactError: no baked model, or tensors that no stock model has.
    """
    folder = root / "models/baked"
    # The record of the bake: without it the folder is of another origin.
    read_json(folder / "so8t_bake.json", fix="`dvc repro bake`")
    names = []
    for file in sorted(folder.glob("*.safetensors")):
        names += tensors_of(file)
    left = [name for name in names if any(part in name for part in ADAPTER_NAMES)]
    if left:
        raise ArtifactError(
            f"tensors that no stock model has: {left[:3]}",
            where=str(folder),
            fix="`dvc repro bake`",
        )
    return f"{len(names)} tensors, none of an adapter"


def gguf_files(root: Path, params: Params) -> str:
    """Every GGUF is whole and of a plausible size.

    A seal is a digest of the file's content inside the file, which so8t.identity writes and checks.

    Raises:
        ArtifactError: a file is missing, does not match its seal, or has an odd size.
    """
    from so8t.identity import check_seal

    count = 0
    # a is the base model, b the trained one.
    for model in ("a", "b"):
        full = root / f"models/gguf/{model}-F16.gguf"
        # The same type may be listed twice.
        for kind in dict.fromkeys(params.scoring.types):
            path = root / f"models/gguf/{model}-{kind}.gguf"
            check_seal(path)
            if kind != "F16" and full.is_file():
                _require_plausible_size(path, full)
            count += 1
    return f"{count} files match their seals"


def _require_plausible_size(path: Path, full: Path) -> None:
    """Compare a quantised file with the F16 file it was made from.

    Raises:
        ArtifactError: too small or too large.
    """
    share = path.stat().st_size / full.stat().st_size
    if not SMALLEST_SHARE < share < LARGEST_SHARE:
        raise ArtifactError(
            f"its size is {share:.0%} of the F16 file's",
            where=str(path),
            fix="`dvc repro quantize`",
        )


def released_card(root: Path, params: Params) -> str:
    """The released file's calibration card belongs to it and keeps its limits.

    The card holds the temperature and thresholds that turn the file's numbers into a verdict,
    and what was measured with them.

    Raises:
        ArtifactError: no card, or one of another file.
        GateError: it cannot be used, or a limit is violated.
    """
    from so8t import card
    from so8t.calibration.assess import UNUSABLE, VIOLATED, assess
    from so8t.identity import semantic_digest

    stem = f"{params.release.model}-{params.release.type}"
    path = root / f"models/calibration/{stem}.json"
    file = root / f"models/gguf/{stem}.gguf"
    released = card.read(path)
    card.require_match(
        released,
        semantic_digest=semantic_digest(file),
        # Which template is in use is decided where the model is asked; here only the file counts.
        template_sha256=released.template_sha256,
    )
    outcome = assess(released)
    if outcome.code in (UNUSABLE, VIOLATED):
        raise GateError(
            outcome.sentence,
            where=str(path),
            fix="`so8t gate` says more; calibrate again with more data",
        )
    # Expected calibration error; a card may have none.
    ece = released.metrics.get("ece")
    shown = "n/a" if ece is None else f"{ece:.3f}"
    return f"{outcome.sentence}; ECE {shown}"


def release(root: Path, _params: Params) -> str:
    """The release is signed; file, card and manifest belong together.

    Raises:
        ArtifactError: no signature, or a part is missing, damaged, or of another file.
    """
    from so8t.released import open_release

    return str(open_release(root / "models/release"))


_ROWS = ("training rows", prepared)
_BASE = ("base model", base)
_BAKED = ("baked model", baked)
_GGUF = ("GGUF files", gguf_files)
_CARD = ("card", released_card)
_RELEASE = ("release", release)

# Name and check of everything that a stage needs, the name as the doctor prints it.
STAGES: dict[str, list[tuple[str, Check]]] = {
    "synthesize": [],
    "prepare": [("data sources", sources)],
    "base": [_ROWS],
    "train": [_ROWS, _BASE],
    "bake": [_BASE, ("adapter", adapter), ("training log", log_of_training)],
    "convert": [_BASE, _BAKED],
    "imatrix": [_ROWS, _BASE, _BAKED],
    "quantize": [_BAKED],
    "verify": [_GGUF],
    "score": [_GGUF],
    "calibrate": [_GGUF],
    "generate": [_GGUF],
    "evaluate": [_GGUF, _CARD],
    "compare": [_CARD],
    "release": [_GGUF, _CARD],
    "report": [_CARD],
    "ask": [_RELEASE],
    "register": [_CARD, _RELEASE],
}


def lines(root: Path, params: Params, stage: str) -> Iterator[Line]:
    """The checklist of one stage.

    Args:
        root: the project's folder.
        params: its parameters.
        stage: key of `STAGES`.
    """
    for name, check in STAGES[stage]:
        yield run_check(name, partial(check, root, params))
