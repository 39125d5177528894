"""A stock Hugging Face directory to a GGUF file, whole and sealed or not at all.

The head (keys and tensor table) is laid out by gguf's `GGUFWriter`; the tensors follow chunk by
chunk (so8t.gguf.convert.tensors). Everything is written into a temporary directory beside the
output, and moved to its name when it is complete.

Covered: F32, F16, BF16, Q8_0; sharded input; one or several output files. Not covered: the other
quantised types (so8t.gguf.quantize, through libllama).
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape

from so8t import identity
from so8t.architectures import Model
from so8t.errors import ArtifactError, ResourceError
from so8t.files import clear_left, disk_error, fsync_path, sha256_file, temporary_of
from so8t.gguf.convert.arch import hyper_keys
from so8t.gguf.convert.source import Source
from so8t.gguf.convert.tensor_plan import Planned, plan_tensors
from so8t.gguf.convert.tensors import Parts, Report, Target, Written, write_file
from so8t.gguf.convert.vocab import Vocabulary, read_vocabulary
from so8t.gguf_file import Keys, string, uint32
from so8t.gguf_header import TensorInfo
from so8t.model_check import ContextProfile, check_model
from so8t.model_folder import Json, read_object
from so8t.progress import Progress
from so8t.records.ledger import Session, TensorRow, conversion

FileType = Literal["F32", "F16", "BF16", "Q8_0"]

# The type that `general.file_type` states, and the type of the matrices.
FILE_TYPES: dict[FileType, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "F32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "F16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "BF16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
    "Q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
FREE_SPACE_MARGIN = 64 << 20  # bytes left on the disk after writing
PHI3_MARKS = ("phi-3", "phi3")
PHI3_RESPELLED = {
    "phi-3": "phi 3",
    "Phi-3": "Phi 3",
    "PHI-3": "PHI 3",
    "phi3": "phi 3",
    "Phi3": "Phi 3",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make of a model.

    Attributes:
        ftype: type of the matrices; norms and vectors are always F32.
        name: of the model, for the file's own keys.
        context_profile: which context the file promises.
        keys: ours, written after llama.cpp's.
        split_bytes: most bytes of tensors in one file; 0 for a single file.
    """

    ftype: FileType
    name: str
    context_profile: ContextProfile
    keys: Keys = field(default_factory=dict)
    split_bytes: int = 0


def convert(source: Path, out: Path, recipe: Recipe, *, report: Report | None = None) -> Json:
    """Convert a model; the output appears whole and sealed, or not at all.

    Args:
        source: Hugging Face directory (config.json, safetensors, tokenizer files).
        out: the GGUF file; with `split_bytes`, parts named `<stem>-00001-of-0000N.gguf` beside it.
        recipe: see `Recipe`.
        report: called after each tensor.

    Returns:
        The manifest: files, and for each tensor its source name, shape, type, bytes and SHA-256.
        No times and no paths, so that equal inputs give equal manifests.

    Raises:
        ArtifactError: the model is unknown, incomplete, not finite, or overflows float16.
        ResourceError: the disk is too small.
    """
    model = check_model(source, recipe.context_profile).model
    n_rows = int(model.config["vocab_size"])
    vocabulary = read_vocabulary(source, n_rows, architecture=model.architecture)
    # Only headers are read here; the weights follow chunk by chunk.
    tensors = Source(source)
    plan = plan_tensors(model, tensors, recipe.context_profile)
    # Types are settled before anything is written: the head states every tensor's size.
    _, matrix_type = FILE_TYPES[recipe.ftype]
    targets = [_target(item, matrix_type) for item in plan]
    writer = _lay_out(model, vocabulary, recipe, targets)
    # The writer has the keys; without this name they are freed as soon as they are written.
    del vocabulary
    _require_space(out, sum(target.n_bytes for target in targets))
    # Sealed while the file still has its temporary name: no unsealed file is ever to be seen.
    with _staging(out) as folder:
        parts = write_file(writer, folder / out.name, tensors, targets, report)
        files = sorted(folder.iterdir())
        infos = _tensor_infos(parts)
        identity.seal(files[0], infos)
        digest = identity.semantic_digest(files[0], infos)
        return _manifest([file.name for file in files], parts, digest)


def general_name(name: str, vocabulary: Vocabulary) -> str:
    """The name to write into the file (`general.name`).

    llama.cpp strips whitespace after special tokens exactly when the name contains `phi-3` or
    `phi3`. That is right for Phi-3's SentencePiece vocabulary and wrong for every other one, so the
    name is made to say which it is.

    Args:
        name: what the model is called.
        vocabulary: whose the file is.

    Raises:
        ArtifactError: no spelling of the name avoids the rule.
    """
    if vocabulary.is_phi3_sentencepiece:
        return name if _names_phi3(name) else f"{name} phi-3"
    for mark, respelled in PHI3_RESPELLED.items():
        name = name.replace(mark, respelled)
    if _names_phi3(name):
        raise ArtifactError(
            f"the name {name!r} would switch on llama.cpp's Phi-3 whitespace rule",
            fix="choose another name",
        )
    return name


def _names_phi3(name: str) -> bool:
    """Whether llama.cpp would take the name for one of Phi-3."""
    return any(mark in name.lower() for mark in PHI3_MARKS)


def _target(item: Planned, wanted: GGMLQuantizationType) -> Target:
    """The type and size a tensor gets where the matrices get `wanted`."""
    kind = GGMLQuantizationType.F32 if item.always_float32 else wanted
    if kind == GGMLQuantizationType.Q8_0:
        block_size, _ = gguf.GGML_QUANT_SIZES[kind]
        # A row must be whole blocks. llama.cpp's converter writes such a tensor as F16 too.
        if item.shape[-1] % block_size:
            kind = GGMLQuantizationType.F16
    # The shape in which the last dimension is counted in bytes.
    byte_shape = quant_shape_to_byte_shape(item.shape, kind)
    return Target(item, kind, math.prod(byte_shape))


def _lay_out(
    model: Model, vocabulary: Vocabulary, recipe: Recipe, targets: list[Target]
) -> GGUFWriter:
    """A writer with the tensor table and all keys; nothing is written yet."""
    # gguf cuts by the size of tensors, and writes `split.*` keys where it cuts.
    writer = GGUFWriter(None, model.prefix, split_max_size=recipe.split_bytes)
    for target in targets:
        _add_tensor(writer, target)
    # The order of the keys is part of the file's bytes, and the seal is the last.
    keys = (
        _general_keys(writer, vocabulary, recipe)
        | hyper_keys(model, recipe.context_profile)
        | vocabulary.keys
        | recipe.keys
        | {identity.SEAL: string(identity.BLANK_SEAL)}
    )
    for name, item in keys.items():
        writer.add_key_value(name, item.value, item.type, item.sub)
    return writer


def _add_tensor(writer: GGUFWriter, target: Target) -> None:
    """Enter a tensor into the writer's table."""
    name = target.planned.name
    shape = target.planned.shape
    if target.type == GGMLQuantizationType.F32:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), target.n_bytes)
        return
    if target.type == GGMLQuantizationType.F16:
        writer.add_tensor_info(name, shape, np.dtype(np.float16), target.n_bytes)
        return
    # numpy has no type for the others: they are bytes, and their own type is stated beside.
    byte_shape = quant_shape_to_byte_shape(shape, target.type)
    writer.add_tensor_info(
        name, byte_shape, np.dtype(np.uint8), target.n_bytes, raw_dtype=target.type
    )


def _general_keys(writer: GGUFWriter, vocabulary: Vocabulary, recipe: Recipe) -> Keys:
    """The `general.*` keys; the label of the size counts the tensors that `writer` has."""
    # Counted by gguf, so that the label is the one llama.cpp's converter writes.
    total, shared, expert, n_experts = writer.get_total_parameter_count()
    size_label = gguf.size_label(total, shared, expert, n_experts)
    name = general_name(recipe.name, vocabulary)
    file_type, _ = FILE_TYPES[recipe.ftype]
    return {
        "general.type": string("model"),
        "general.name": string(name),
        "general.size_label": string(size_label),
        "general.file_type": uint32(int(file_type)),
        "general.quantization_version": uint32(gguf.GGML_QUANT_VERSION),
    }


def _require_space(out: Path, n_bytes: int) -> None:
    """Refuse before anything is written, not when the disk is full after an hour."""
    # The output's own directory may not exist yet; the nearest that does is on the same disk.
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < n_bytes + FREE_SPACE_MARGIN:
        raise ResourceError(
            f"{n_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free",
            where=str(folder),
            fix="free some space, or write to another disk",
        )


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out`; on success its files move to `out`'s directory."""
    folder = temporary_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # What a killed run left behind, which no `finally` could remove.
        clear_left(out)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        for file in sorted(folder.iterdir()):
            # On the disk before it has its name: after a power cut, a named file is whole.
            fsync_path(file)
            file.replace(out.with_name(file.name))
        fsync_path(out.parent)
    except OSError as error:
        raise disk_error(error, out) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tensor_infos(parts: Parts) -> list[TensorInfo]:
    """What sealing needs of each tensor; it does not look at offsets, so they are zero."""
    infos = []
    for part in parts:
        for written in part:
            infos.append(
                TensorInfo(
                    name=written.planned.name,
                    type=written.type,
                    shape=written.planned.shape,
                    offset=0,
                    n_bytes=written.n_bytes,
                    sha256=written.sha256,
                )
            )
    return infos


def _manifest(files: list[str], parts: Parts, digest: str) -> Json:
    """What was written, as JSON."""
    tensors = []
    for part in parts:
        for written in part:
            origin = written.planned.source
            tensors.append(
                {
                    "name": written.planned.name,
                    "source": None if origin is None else origin.name,
                    "shape": list(written.planned.shape),
                    "type": written.type,
                    "bytes": written.n_bytes,
                    "sha256": written.sha256,
                }
            )
    return {
        "schema": "so8t.manifest/1",
        "files": files,
        "semantic_digest": digest,
        "tensors": tensors,
    }


def convert_recorded(
    source: Path,
    out: Path,
    *,
    keys: Keys,
    name: str,
    context_profile: ContextProfile,
    progress: Progress,
    ftype: FileType = "F16",
) -> str:
    """Convert `source` to `out` and record it in the conversion ledger, tensor by tensor.

    Args:
        source: Hugging Face directory.
        out: the GGUF file.
        keys: ours, see so8t.gguf.convert.key_values.
        name: of the model.
        context_profile: which context the file promises.
        progress: hears of every tensor.
        ftype: type of the matrices.

    Returns:
        One line for people.
    """
    names = read_object(source).get("architectures") or ["?"]
    architecture = str(names[0])
    # Whatever ends the conversion, the ledger says how: completed, failed or cancelled.
    with conversion(name, architecture, source, out) as session:

        def report(written: Written) -> None:
            _record(written, session, progress)

        recipe = Recipe(ftype, name, context_profile, keys)
        manifest = convert(source, out, recipe, report=report)
        session.digests = {
            "output_sha256": sha256_file(out),
            "semantic_digest": manifest["semantic_digest"],
        }
        # A retrained model comes from its bake report, an untouched one from the base model.
        lineage = keys.get("so8t.bake_sha256") or keys.get("so8t.base_sha256")
        if lineage:
            session.digests["source_sha256"] = str(lineage.value)
        values = {key: item.value for key, item in keys.items()}
        session.ledger.log_metadata(session.id, values)
        session.ledger.log_parameters(session.id, values)
    megabytes = out.stat().st_size / 1e6
    return (
        f"{architecture} to {ftype}, {len(manifest['tensors'])} tensors, {megabytes:.1f} MB, "
        f"digest {manifest['semantic_digest'][:12]}"
    )


def _record(written: Written, session: Session, progress: Progress) -> None:
    """Enter one tensor into the ledger and say that it is done."""
    planned = written.planned
    session.tensor(
        TensorRow(
            name=planned.name,
            source_name="(made)" if planned.source is None else planned.source.name,
            shape=planned.shape,
            source_type="F32" if planned.source is None else planned.source.dtype,
            type=written.type,
            milliseconds=written.milliseconds,
            megabytes=written.n_bytes / 1e6,
            sha256=written.sha256,
        )
    )
    progress.emit(
        "tensor",
        name=planned.name,
        done=written.done_bytes,
        total=written.total_bytes,
        unit="B",
    )
