"""Profiles: params.yaml holds every value once, and a profile holds only what differs from it.

A profile is laid over the sections of the same name. A value that a profile sets hides the one
above it, so `dvc exp run -S train.lr=1e-4` would change nothing there: `hidden_changes` finds such
edits, and the stages refuse them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

SECTIONS = ("names", "base", "scratch", "loss", "train")


def overlaid(values: Any, differences: Any) -> Any:
    """`values` with `differences` laid over them: mappings key by key, the rest as a whole."""
    if not isinstance(values, Mapping) or not isinstance(differences, Mapping):
        return differences
    result = dict(values)
    for key, difference in differences.items():
        result[key] = overlaid(values[key], difference) if key in values else difference
    return result


def resolved(raw: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """The whole of params.yaml as it holds under one profile; `raw` itself is left as it is."""
    result = dict(raw)
    for section, differences in raw["profiles"][profile].items():
        result[section] = overlaid(raw.get(section), differences)
    return result


def keys_set_by(differences: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Dotted keys of every value a profile sets; one set to null or to a list is one key."""
    for name, value in differences.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from keys_set_by(value, f"{key}.")
        else:
            yield key


def value_at(raw: Any, key: str) -> Any:
    """The value at a dotted key, or None where a part of the way is missing."""
    for part in key.split("."):
        if not isinstance(raw, Mapping) or part not in raw:
            return None
        raw = raw[part]
    return raw


def hidden_changes(raw: Mapping[str, Any], committed: Mapping[str, Any]) -> list[str]:
    """Keys changed above the profiles since the commit although the active profile sets them."""
    active = raw["profiles"][raw["profile"]]
    return [key for key in keys_set_by(active) if value_at(raw, key) != value_at(committed, key)]
