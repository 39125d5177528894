"""The importance matrix: how strongly each input column of each weight is used, from the project's own texts.

The file is llama.cpp's GGUF form (`<tensor>.in_sum2`, `<tensor>.counts`), so its tools read it too.
"""

import hashlib
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import takewhile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from so8t import gguf_file, gguf_header
from so8t.errors import ArtifactError, DataError
from so8t.files import atomic_file, read_jsonl
from so8t.gguf.convert.arch import read_model
from so8t.gguf.convert.source import read_config
from so8t.template import Template

Sums = dict[str, tuple[NDArray[np.float64], int]]


def compute_imatrix(
    model_dir: Path, token_rows: Iterable[list[int]], out: Path, *, threads: int = 0
) -> int:
    """Run the model over token rows and write, per linear layer, the sum of squares of each input column.

    What all rows begin with is counted once: the same tokens in the same context say the same thing in every conversation,
    and counted each time they would be a fifth of the matrix (and made it worse: docs/log.md, 2026-11-21).

    Args:
        model_dir: Hugging Face directory (float32 on the CPU).
        token_rows: token ids of whole conversations, as training sees them.
        out: the imatrix file.
        threads: CPU threads; 0 = torch's own choice.

    Returns:
        Number of tokens counted.

    Raises:
        DataError: no token rows.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if threads:
        torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    model.eval()
    described = read_model(read_config(model_dir), model_dir)
    names = gguf.get_tensor_name_map(described.arch, model.config.num_hidden_layers)
    sums: dict[str, list[Any]] = {}
    begins = {"at": 0}
    for name, module in model.named_modules():
        if (
            isinstance(module, torch.nn.Linear)
            and (target := names.get_name(f"{name}.weight", (".weight",)))
            and name != "lm_head"
        ):
            sums[target] = [np.zeros(module.in_features), 0]
            module.register_forward_pre_hook(_accumulate(sums[target], begins))
    rows = list(token_rows)
    shared, tokens = _shared(rows), 0
    with torch.no_grad():
        for number, row in enumerate(rows):
            begins["at"] = shared if number else 0
            model(torch.tensor([row]), logits_to_keep=1)
            tokens += len(row) - begins["at"]
    if not tokens:
        raise DataError(
            "no texts to compute the importance matrix from", fix="give a JSONL with rows"
        )
    write_imatrix(out, {name: (value, count) for name, (value, count) in sums.items()}, len(rows))
    return tokens


def _shared(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with: the system prompt and the turn's opening; 0 for a single row."""
    first, last = min(rows, default=[]), max(rows, default=[])
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return sum(1 for _ in same) if len(rows) > 1 else 0


def conversations(model_dir: Path, texts: Path, system: str, rows: int) -> Iterator[list[int]]:
    """Token ids of `rows` prepared conversations, rendered as training renders them.

    Those with the smallest SHA-256 of their id: a sample of the whole file that does not change when rows are put before others.
    """
    template = Template.of(model_dir)
    for row in nsmallest(
        rows,
        (row for _, row in read_jsonl(texts)),
        key=lambda row: hashlib.sha256(str(row["id"]).encode()).digest(),
    ):
        yield template.ids(template.conversation(system, row["text"], row["response"]))


def _accumulate(entry: list[Any], begins: dict[str, int]) -> Any:
    def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
        flat = inputs[0].detach().reshape(-1, inputs[0].shape[-1])[begins["at"] :].double()
        entry[0] += (flat * flat).sum(0).numpy()
        entry[1] += flat.shape[0]

    return hook


def write_empty(path: Path) -> None:
    """Write a file that says that no importance matrix was wanted: no tensors, no tokens."""
    write_imatrix(path, {}, 0)


def write_imatrix(path: Path, sums: Sums, chunks: int) -> None:
    """Write llama.cpp's imatrix file: sums of squares [columns] and token counts per tensor."""
    writer = GGUFWriter(None, "imatrix")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["so8t"])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (total, count) in sorted(sums.items()):
        writer.add_tensor(f"{name}.in_sum2", total.astype(np.float32)[None, :])
        writer.add_tensor(f"{name}.counts", np.array([[count]], np.float32))
    with atomic_file(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_imatrix(path: Path | str) -> dict[str, NDArray[np.float32]]:
    """Mean square of every input column, by tensor name.

    Raises:
        ArtifactError: not an imatrix file, or a tensor without counts.
    """
    path = Path(path)
    table = {t.name: t for t in gguf_file.tensor_table(path)}
    result = {}
    for name in sorted(n.removesuffix(".in_sum2") for n in table if n.endswith(".in_sum2")):
        if f"{name}.counts" not in table:
            raise ArtifactError(
                f"{name} has no counts", where=str(path), fix="compute the importance matrix again"
            )
        counts = _floats(path, table[f"{name}.counts"])
        result[name] = (
            _floats(path, table[f"{name}.in_sum2"]) / np.maximum(counts.max(initial=0), 1.0)
        ).astype(np.float32)
    if not result:
        raise ArtifactError(
            "not an importance matrix", where=str(path), fix="compute it with `so8t gguf imatrix`"
        )
    return result


def _floats(path: Path, tensor: gguf_header.TensorInfo) -> NDArray[np.float32]:
    return np.fromfile(path, dtype="<f4", count=tensor.n_bytes // 4, offset=tensor.offset)
