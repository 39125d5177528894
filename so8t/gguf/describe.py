"""What is in a GGUF file, and what differs between two: as facts (JSON) and as text for people."""

from pathlib import Path
from typing import Any

from so8t import identity
from so8t.errors import ArtifactError
from so8t.gguf.quantize.quantize import bits_per_weight, histogram, types_text
from so8t.gguf_file import Keys, KeyValue, read_typed, shards_of, tensor_table
from so8t.gguf_header import TensorInfo, parse

Facts = dict[str, Any]  # what is printed with --json

MAX_SHOWN = 8  # items of a list that are shown
MAX_TEXT = 120  # characters of a text that are shown to people
SHORT_DIGEST = 12  # characters


def inspect_file(path: Path) -> Facts:
    """Everything about a file; long lists are abridged.

    Returns:
        Its size, semantic digest, seal, types, keys, and tensors with their digests.

    Raises:
        ArtifactError: the file is corrupt.
    """
    # Hashed once and handed on: a model may have 100 GB.
    keys = read_typed(path)
    table = tensor_table(path, hashes=True)
    shards = shards_of(path)
    return {
        "file": path.name,
        "bytes": sum(shard.stat().st_size for shard in shards),
        "files": len(shards),
        "semantic_digest": identity.semantic_digest(path, table),
        "seal": seal_state(path),
        "histogram": histogram(table),
        "bits_per_weight": round(bits_per_weight(table), 4),
        "keys": {name: _key_facts(name, item) for name, item in keys.items()},
        "tensors": [_tensor_facts(tensor) for tensor in table],
    }


def _key_facts(name: str, item: KeyValue) -> Facts:
    """What is shown of one key; `behaviour` says whether the semantic digest covers it."""
    return {
        "type": f"ARRAY[{item.sub.name}]" if item.sub else item.type.name,
        "value": _abridged(item),
        "behaviour": identity.changes_behaviour(name),
    }


def _tensor_facts(tensor: TensorInfo) -> Facts:
    """What is shown of one tensor."""
    return {
        "name": tensor.name,
        "type": tensor.type,
        "shape": list(tensor.shape),
        "bytes": tensor.n_bytes,
        "sha256": tensor.sha256,
    }


def seal_state(path: Path) -> str:
    """State of the file's seal: valid, broken or absent.

    Absent is no error: files of other programs have none.
    """
    first = shards_of(path)[0]
    if identity.SEAL not in parse(first).fields:
        return "absent"
    try:
        identity.check_seal(path)
    except ArtifactError:
        return "broken"
    return "valid"


def _abridged(item: KeyValue) -> Any:
    """A key's value, with a long list cut to its first items and their number."""
    # A vocabulary has hundreds of thousands of texts.
    if isinstance(item.value, list) and len(item.value) > MAX_SHOWN:
        return {"count": len(item.value), "first": item.value[:MAX_SHOWN]}
    return item.value


def render(facts: Facts) -> str:
    """The facts of `inspect_file` as text."""
    lines = [
        f"{facts['file']}: {facts['bytes']:,} bytes in {facts['files']} file(s), "
        f"{facts['bits_per_weight']} bits per weight",
        f"types: {types_text(facts['histogram'])}",
        f"semantic digest: {facts['semantic_digest']}",
        f"seal: {facts['seal']}",
        "",
        "keys:",
    ]
    for name, item in facts["keys"].items():
        remark = "" if item["behaviour"] else ", not in the digest"
        lines.append(f"  {name} ({item['type']}{remark}) = {_short(item['value'])}")
    lines += ["", "tensors:"]
    for tensor in facts["tensors"]:
        shape = "x".join(str(size) for size in tensor["shape"])
        digest = tensor["sha256"][:SHORT_DIGEST]
        lines.append(
            f"  {tensor['name']:<32} {tensor['type']:<5} {shape:>14} "
            f"{tensor['bytes']:>14,} {digest}"
        )
    return "\n".join(lines)


def _short(value: Any) -> str:
    """A value for people, cut at `MAX_TEXT` characters."""
    shown = repr(value)
    if len(shown) <= MAX_TEXT:
        return shown
    return shown[:MAX_TEXT] + "..."


def diff_files(first: Path, second: Path) -> Facts:
    """Keys and tensors that differ between two files, as [left, right], and their digests.

    Raises:
        ArtifactError: a file is corrupt.
    """
    left_keys = read_typed(first)
    right_keys = read_typed(second)
    left_tensors = {tensor.name: tensor for tensor in tensor_table(first, hashes=True)}
    right_tensors = {tensor.name: tensor for tensor in tensor_table(second, hashes=True)}
    # From the tables that are there already: hashing is what takes the time.
    digests = [
        identity.semantic_digest(first, list(left_tensors.values())),
        identity.semantic_digest(second, list(right_tensors.values())),
    ]
    changed_keys = {}
    # Types count: a 1 that became "1" is a difference.
    for name in sorted({*left_keys, *right_keys}):
        if left_keys.get(name) != right_keys.get(name):
            changed_keys[name] = [_key_side(left_keys, name), _key_side(right_keys, name)]
    changed_tensors = {}
    for name in sorted({*left_tensors, *right_tensors}):
        sides = [_tensor_side(left_tensors, name), _tensor_side(right_tensors, name)]
        if sides[0] != sides[1]:
            changed_tensors[name] = sides
    return {
        "same_behaviour": digests[0] == digests[1],
        "semantic_digests": digests,
        "keys": changed_keys,
        "tensors": changed_tensors,
    }


def _key_side(keys: Keys, name: str) -> Any:
    """One file's side of a difference; None where it has no such key."""
    if name not in keys:
        return None
    return _abridged(keys[name])


def _tensor_side(tensors: dict[str, TensorInfo], name: str) -> Facts | None:
    """One file's side of a difference; None where it has no such tensor."""
    tensor = tensors.get(name)
    if tensor is None:
        return None
    # Neither name nor place: a tensor that lies elsewhere in its file is the same.
    return {"type": tensor.type, "shape": list(tensor.shape), "sha256": tensor.sha256}


def render_diff(facts: Facts) -> str:
    """The facts of `diff_files` as text."""
    behaviour = "the same" if facts["same_behaviour"] else "different"
    lines = [f"behaviour: {behaviour}"]
    for name, (left, right) in facts["keys"].items():
        lines.append(f"  key {name}: {_short(left)} -> {_short(right)}")
    for name, (left, right) in facts["tensors"].items():
        lines.append(f"  tensor {name}: {_tensor_text(left)} -> {_tensor_text(right)}")
    if len(lines) == 1:
        lines.append("  no differing key or tensor")
    return "\n".join(lines)


def _tensor_text(side: Facts | None) -> str:
    """One side of a difference for people."""
    if side is None:
        return "absent"
    return f"{side['type']} {side['shape']} {side['sha256'][:SHORT_DIGEST]}"
