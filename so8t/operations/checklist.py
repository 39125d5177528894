"""The founding operations checklist: what must be true before each stage, after the one before it.

Every check reads what is on disk; none runs a model. A file is looked at only as far as it costs little: GGUF seals are
checked in full (they are what is served), Hugging Face weights by their headers.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from so8t.errors import ArtifactError, DataError, GateError
from so8t.files import read_json, read_jsonl
from so8t.operations.line import Line, judged
from so8t.params import Params
from so8t.verdict import VERDICTS

Check = Callable[[Path, Params], str]
SIZE_SHARE = (
    0.15,
    0.75,
)  # a quantised file's size as a share of its F16's: below or above, something is missing or was not quantised


def sources(root: Path, params: Params) -> str:
    """Every data source is there."""
    found = [
        source.path
        for source in params.data.sources
        if source.path == "data/raw/synthetic.jsonl"
        or list(root.glob(source.path))
        or (root / source.path).exists()
    ]
    if missing := [s.path for s in params.data.sources if s.path not in found]:
        raise DataError(
            f"data source not found: {', '.join(missing)}",
            where="params.yaml: data.sources",
            fix="correct the path; globs are relative to the project's root",
        )
    return f"{len(found)} sources"


def prepared(root: Path, _params: Params) -> str:
    """Training rows exist and hold all three verdicts."""
    path, counts = root / "data/prepared/train.jsonl", Counter[str]()
    for _number, row in read_jsonl(path):
        counts[str(row.get("verdict"))] += 1
    if missing := [str(v) for v in VERDICTS if not counts[str(v)]]:
        raise DataError(
            f"no row of {', '.join(missing)} among {sum(counts.values())} training rows",
            where=str(path),
            fix="add rows of that verdict; `so8t data` compares versions of the data",
        )
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def base(root: Path, params: Params) -> str:
    """The base model's directory is complete."""
    folder = root / (params.active.base.path or "models/base")
    config = read_json(
        folder / "config.json",
        fix=f"set profiles.{params.profile}.base.path to a local Hugging Face directory, or `dvc repro base`",
    )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ArtifactError(
            "no safetensors file in the base model",
            where=str(folder),
            fix="copy the whole Hugging Face directory",
        )
    for file in files:
        tensors_of(file)
    return f"{config.get('model_type')}, {config.get('num_hidden_layers')} layers, {len(files)} weight files"


def tensors_of(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file; its length must be what its header says.

    Raises:
        ArtifactError: missing, cut short, or not such a file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length < path.stat().st_size else None
        names = (
            {k: v for k, v in header.items() if k != "__metadata__"}
            if isinstance(header, dict)
            else None
        )
        if (
            names is not None
            and 8 + length + max((v["data_offsets"][1] for v in names.values()), default=0)
            == path.stat().st_size
        ):
            return list(names)
    except FileNotFoundError:
        raise ArtifactError(
            "file not found", where=str(path), fix="`dvc pull`, or `dvc repro`"
        ) from None
    except (ValueError, KeyError, TypeError):
        pass
    raise ArtifactError(
        "not a whole safetensors file", where=str(path), fix="copy it again, or `dvc checkout`"
    )


def adapter(root: Path, params: Params) -> str:
    """The adapter, its gates and its heads were all saved."""
    folder = root / "models/adapter"
    wanted = (
        ["so8t_config.json"]
        + ["adapter_model.safetensors"] * (params.active.train.lora_r > 0)
        + ["so8t_gates.safetensors"] * params.gates.enabled
        + ["so8t_heads.safetensors"] * params.heads.enabled
    )
    found = sorted(p.name for p in folder.glob("*")) if folder.is_dir() else []
    if missing := [name for name in wanted if name not in found]:
        raise ArtifactError(
            f"SO8T components are missing: {', '.join(missing)}; found: {', '.join(found) or 'nothing'}",
            where=str(folder),
            fix="`dvc repro train` (or `dvc checkout train`)",
        )
    count = sum(len(tensors_of(folder / name)) for name in wanted if name.endswith("safetensors"))
    return f"{count} tensors in {len(wanted) - 1} files"


def log_of_training(root: Path, _params: Params) -> str:
    """The loss is finite and fell."""
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
            fix="halve profiles.<profile>.train.lr, then `dvc repro train`",
        )
    share = max(1, len(losses) // 10)
    first, last = sum(losses[:share]) / share, sum(losses[-share:]) / share
    if last >= first:
        raise GateError(
            f"the loss did not fall: {first:.3f} at the start, {last:.3f} at the end",
            where=str(path),
            fix="look at duplicates in reports/data.md and at the PET share in reports/report.md; try train.lr halved and doubled, pet.lambda 0",
        )
    return f"{len(losses)} steps, loss {first:.3f} -> {last:.3f}"


def baked(root: Path, _params: Params) -> str:
    """The baked model is a stock one: no gate or adapter tensor is left."""
    folder = root / "models/baked"
    read_json(folder / "so8t_bake.json", fix="`dvc repro bake`")
    names = [name for file in sorted(folder.glob("*.safetensors")) for name in tensors_of(file)]
    if left := [name for name in names if "lora" in name or "gate_so8" in name or "so8t" in name]:
        raise ArtifactError(
            f"tensors that no stock model has: {left[:3]}",
            where=str(folder),
            fix="`dvc repro bake`",
        )
    return f"{len(names)} tensors, none of an adapter"


def gguf_files(root: Path, params: Params) -> str:
    """Every GGUF is whole (seal) and of a plausible size."""
    from so8t.identity import check_seal

    count = 0
    for model in ("a", "b"):
        full = root / f"models/gguf/{model}-F16.gguf"
        for kind in dict.fromkeys(params.scoring.types):
            path = root / f"models/gguf/{model}-{kind}.gguf"
            check_seal(path)
            share = path.stat().st_size / full.stat().st_size if full.is_file() else 0.5
            if kind != "F16" and not SIZE_SHARE[0] < share < SIZE_SHARE[1]:
                raise ArtifactError(
                    f"its size is {share:.0%} of the F16 file's",
                    where=str(path),
                    fix="`dvc repro quantize`",
                )
            count += 1
    return f"{count} files match their seals"


def released_card(root: Path, params: Params) -> str:
    """The released file's card belongs to it, with its parameters recorded and its limits kept."""
    from so8t import card as cards
    from so8t.calibration.assess import UNUSABLE, VIOLATED, assess
    from so8t.identity import semantic_digest

    stem = f"{params.release.model}-{params.release.type}"
    path, file = root / f"models/calibration/{stem}.json", root / f"models/gguf/{stem}.gguf"
    card = cards.read(path)
    cards.require_match(
        card, semantic_digest=semantic_digest(file), template_sha256=card.template_sha256
    )
    outcome = assess(card)
    if outcome.code in (UNUSABLE, VIOLATED):
        raise GateError(
            outcome.sentence,
            where=str(path),
            fix="`so8t gate` says more; calibrate again with more data",
        )
    ece = card.metrics.get("ece")
    return f"{outcome.sentence}; ECE {'n/a' if ece is None else f'{ece:.3f}'}"


def release(root: Path, _params: Params) -> str:
    """File, card and manifest of the release belong together."""
    from so8t.release.manifest import check

    return check(root / "models/release")


STAGES: dict[str, list[tuple[str, Check]]] = {
    "synthesize": [],
    "prepare": [("data sources", sources)],
    "base": [("training rows", prepared)],
    "train": [("training rows", prepared), ("base model", base)],
    "bake": [("base model", base), ("adapter", adapter), ("training log", log_of_training)],
    "convert": [("base model", base), ("baked model", baked)],
    "imatrix": [("training rows", prepared), ("base model", base), ("baked model", baked)],
    "quantize": [("baked model", baked)],
    "verify": [("GGUF files", gguf_files)],
    "score": [("GGUF files", gguf_files)],
    "calibrate": [("GGUF files", gguf_files)],
    "serve": [("GGUF files", gguf_files)],
    "evaluate": [("GGUF files", gguf_files), ("card", released_card)],
    "compare": [("card", released_card)],
    "release": [("GGUF files", gguf_files), ("card", released_card)],
    "report": [("card", released_card)],
    "ask": [("release", release)],
    "register": [("card", released_card), ("release", release)],
}


def lines(root: Path, params: Params, stage: str) -> Iterator[Line]:
    """The checklist of one stage."""
    for name, check in STAGES[stage]:
        yield judged(name, lambda check=check: check(root, params))  # type: ignore[misc]
