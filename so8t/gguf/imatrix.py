"""Computing an importance matrix from the project's own conversations.

It says how strongly each input column of each weight is used; quantising then spends its precision
where it matters. The file has llama.cpp's GGUF form (`<tensor>.in_sum2` and `<tensor>.counts`), so
its tools read it too. Reading one: so8t.gguf.quantize.imatrix.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from so8t.architectures import read_model
from so8t.errors import DataError
from so8t.files import atomic_file
from so8t.model_folder import read_object
from so8t.rows import Row, read_rows
from so8t.template import Template

CHUNK_SIZE = 512  # tokens; llama.cpp's tools expect the key, we count whole conversations


@dataclass(slots=True)
class ColumnSums:
    """Sums of squares of the input columns of a weight, [columns] float64, over `count` tokens."""

    squares: NDArray[np.float64]
    count: int = 0


def compute_imatrix(
    model_dir: Path, token_rows: Iterable[list[int]], out: Path, *, threads: int = 0
) -> int:
    """Run the model over token rows; write the sum of squares of each input column of its layers.

    What all rows begin with is counted once. The same tokens in the same context say the same thing
    in every conversation; counted each time they would be a fifth of the matrix, and measurably
    made it worse.

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

    # Left alone where nothing is asked for: torch then takes all cores.
    if threads:
        torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    model.eval()
    # The hooks are called deep inside the model, so what they need reaches them by this object.
    counter = _Counter()
    sums = _watch_layers(model, model_dir, counter)
    # A list, because what all rows share is only known when all are there.
    rows = list(token_rows)
    shared = _shared_tokens(rows)
    tokens = 0
    with torch.no_grad():
        for number, row in enumerate(rows):
            # The first row counts what all begin with, the others do not.
            counter.begins_at = shared if number else 0
            model(torch.tensor([row]), logits_to_keep=1)
            tokens += len(row) - counter.begins_at
    if not tokens:
        raise DataError(
            "no texts to compute the importance matrix from", fix="give a JSONL with rows"
        )
    write_imatrix(out, sums, len(rows))
    return tokens


@dataclass(slots=True)
class _Counter:
    """From which token of the present row on the hooks count."""

    begins_at: int = 0


def _watch_layers(model: Any, model_dir: Path, counter: _Counter) -> dict[str, ColumnSums]:
    """Put a hook on every linear layer; return the sums that the hooks fill, by GGUF name."""
    from torch.nn import Linear

    described = read_model(read_object(model_dir), model_dir)
    names = gguf.get_tensor_name_map(described.arch, model.config.num_hidden_layers)
    sums: dict[str, ColumnSums] = {}
    for name, module in model.named_modules():
        # The output matrix sees only the last token here (`logits_to_keep=1`).
        if not isinstance(module, Linear) or name == "lm_head":
            continue
        target = names.get_name(f"{name}.weight", (".weight",))
        if not target:
            continue
        sums[target] = ColumnSums(np.zeros(module.in_features))
        module.register_forward_pre_hook(_accumulate(sums[target], counter))
    return sums


def _accumulate(entry: ColumnSums, counter: _Counter) -> Any:
    """A hook that adds a layer's inputs, [batch, tokens, columns], to its sums."""

    def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
        columns = inputs[0].shape[-1]
        flat = inputs[0].detach().reshape(-1, columns)
        # Float64, because squares of many tokens are added.
        counted = flat[counter.begins_at :].double()
        entry.squares += (counted * counted).sum(0).numpy()
        entry.count += counted.shape[0]

    return hook


def _shared_tokens(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with: the system prompt and the turn's opening."""
    # A single row shares its beginning with nobody.
    if len(rows) < 2:
        return 0
    # What the first and the last in sorted order have in common, all have in common.
    shared = 0
    for left, right in zip(min(rows), max(rows), strict=False):
        if left != right:
            break
        shared += 1
    return shared


def conversations(model_dir: Path, texts: Path, system: str, rows: int) -> Iterator[list[int]]:
    """Token ids of `rows` prepared conversations, rendered as training renders them.

    Those with the smallest SHA-256 of their id: a sample of the whole file that stays the same when
    rows are put before others.

    Args:
        model_dir: for its tokenizer and chat template.
        texts: prepared JSONL.
        system: the system prompt.
        rows: how many.
    """
    template = Template.of(model_dir)
    for row in nsmallest(rows, read_rows(texts), key=_id_digest):
        yield template.ids(template.conversation(system, row.text, row.response))


def _id_digest(row: Row) -> bytes:
    """What conversations are sampled by: as good as random, and the same on every machine."""
    return hashlib.sha256(row.id.encode()).digest()


def write_empty(path: Path) -> None:
    """Write a file that says that no importance matrix was wanted: no tensors, no tokens."""
    write_imatrix(path, {}, 0)


def write_imatrix(path: Path, sums: dict[str, ColumnSums], chunks: int) -> None:
    """Write llama.cpp's imatrix file; it appears whole, or not at all.

    Args:
        path: the file.
        sums: by GGUF name of the weight.
        chunks: pieces of text that were run.
    """
    writer = GGUFWriter(None, "imatrix")
    # The writer adds it unasked, and an imatrix has no architecture.
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["so8t"])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", CHUNK_SIZE)
    for name, entry in sorted(sums.items()):
        squares = entry.squares.astype(np.float32)
        writer.add_tensor(f"{name}.in_sum2", squares[None, :])
        writer.add_tensor(f"{name}.counts", np.array([[entry.count]], np.float32))
    with atomic_file(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
