"""Which split a group belongs to: a hash of its name and the seed, and nothing else.

Adding rows never moves an old group. Held-out rows of the generator go to their own tests; rows of a source with a
fixed use stay there.
"""

import hashlib

from so8t.params import Split

DRAWN = (
    "train",
    "valid",
    "calibration",
    "test_iid",
)  # by hash; the other two are made by the generator
OF_USE = {"train": "train", "calibration": "calibration", "test": "test_iid"}
OF_HELD_OUT = {"cells": "test_cells", "phrases": "test_phrases"}


def unit(text: str) -> float:
    """A number in [0, 1) from the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def split_of(group: str, seed: int, shares: Split) -> str:
    """Draw a split for a group; the shares of the drawn splits are scaled to add up to 1."""
    sizes = {name: getattr(shares, name) for name in DRAWN}
    point = unit(f"{seed}|{group}") * sum(sizes.values())
    for name, size in sizes.items():
        if point < size:
            return name
        point -= size
    return "train"


def place(group: str, use: str, held_out: str, seed: int, shares: Split) -> str:
    """The split of a row: its source's use first, then what it was held out for, then the draw."""
    return OF_USE.get(use) or OF_HELD_OUT.get(held_out) or split_of(group, seed, shares)
