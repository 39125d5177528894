"""What is in a GGUF file, for people and as JSON; and what differs between two."""

from pathlib import Path
from typing import Any

from so8t import identity
from so8t.errors import ArtifactError
from so8t.export.quantize import bits_per_weight, histogram
from so8t.identity import KeyValue

MAX_SHOWN = 8  # items of a list that are shown
MAX_TEXT = 120  # characters of a text that are shown to people


def inspect(path: Path) -> dict[str, Any]:
    """Everything about a file: keys (long lists abridged), tensors with digests, histogram, semantic digest, seal.

    Raises:
        ArtifactError: the file is corrupt.
    """
    keys, table = identity.read_typed(path), identity.tensor_table(path, hashes=True)
    return {"file": path.name, "bytes": sum(p.stat().st_size for p in identity.shards_of(path)), "files": len(identity.shards_of(path)),
            "semantic_digest": identity.semantic_digest(path, table), "seal": seal_state(path), "histogram": histogram(table),
            "bits_per_weight": round(bits_per_weight(table), 4),
            "keys": {name: {"type": _type(item), "value": _abridged(item), "behaviour": identity.changes_behaviour(name)} for name, item in keys.items()},
            "tensors": [{"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.n_bytes, "sha256": t.sha256} for t in table]}


def seal_state(path: Path) -> str:
    """valid, broken or absent."""
    if identity.SEAL not in identity.parse(identity.shards_of(path)[0]).fields:
        return "absent"
    try:
        identity.check_seal(path)
    except ArtifactError:
        return "broken"
    return "valid"


def _type(item: KeyValue) -> str:
    return f"ARRAY[{item.sub.name}]" if item.sub else item.type.name


def _abridged(item: KeyValue) -> Any:
    if isinstance(item.value, list) and len(item.value) > MAX_SHOWN:
        return {"count": len(item.value), "first": item.value[:MAX_SHOWN]}
    return item.value


def render(facts: dict[str, Any]) -> str:
    """The facts as text."""
    lines = [f"{facts['file']}: {facts['bytes']:,} bytes in {facts['files']} file(s), {facts['bits_per_weight']} bits per weight",
             "types: " + ", ".join(f"{count} {name}" for name, count in facts["histogram"].items()),
             f"semantic digest: {facts['semantic_digest']}", f"seal: {facts['seal']}", "", "keys:"]
    for name, item in facts["keys"].items():
        lines.append(f"  {name} ({item['type']}{'' if item['behaviour'] else ', not in the digest'}) = {_short(item['value'])}")
    lines += ["", "tensors:"]
    lines += [f"  {t['name']:<32} {t['type']:<5} {'x'.join(map(str, t['shape'])):>14} {t['bytes']:>14,} {t['sha256'][:12]}" for t in facts["tensors"]]
    return "\n".join(lines)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + "..."


def diff(first: Path, second: Path) -> dict[str, Any]:
    """Keys and tensors that differ between two files.

    Raises:
        ArtifactError: a file is corrupt.
    """
    keys = [identity.read_typed(path) for path in (first, second)]
    tables = [{t.name: t for t in identity.tensor_table(path, hashes=True)} for path in (first, second)]
    digests = [identity.semantic_digest(path, list(table.values())) for path, table in zip((first, second), tables, strict=True)]
    changed_keys = {name: [_side(keys[0], name), _side(keys[1], name)] for name in sorted({*keys[0], *keys[1]}) if keys[0].get(name) != keys[1].get(name)}
    changed_tensors = {}
    for name in sorted({*tables[0], *tables[1]}):
        sides = [(t.type, list(t.shape), t.sha256) if (t := table.get(name)) else None for table in tables]
        if sides[0] != sides[1]:
            changed_tensors[name] = [None if side is None else {"type": side[0], "shape": side[1], "sha256": side[2]} for side in sides]
    return {"same_behaviour": digests[0] == digests[1], "semantic_digests": digests, "keys": changed_keys, "tensors": changed_tensors}


def _side(keys: dict[str, KeyValue], name: str) -> Any:
    return _abridged(keys[name]) if name in keys else None


def render_diff(facts: dict[str, Any]) -> str:
    """The differences as text."""
    lines = [f"behaviour: {'the same' if facts['same_behaviour'] else 'different'}"]
    lines += [f"  key {name}: {_short(left)} -> {_short(right)}" for name, (left, right) in facts["keys"].items()]
    for name, (left, right) in facts["tensors"].items():
        shown = [f"{side['type']} {side['shape']} {side['sha256'][:12]}" if side else "absent" for side in (left, right)]
        lines.append(f"  tensor {name}: {shown[0]} -> {shown[1]}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "  no differing key or tensor"])
