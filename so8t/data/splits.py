"""Which split a group belongs to.

A group's split is drawn from a hash of its name and the seed, and from nothing else, so adding rows
never moves an old group. Rows that the generator held out go to tests of their own, and rows of a
source with a fixed use stay where the user put them.
"""

import hashlib

from so8t.params import Split

# Drawn by hash. The other splits hold what the generator held out, or disguised test rows.
DRAWN = ("train", "valid", "calibration", "test_iid")
OF_USE = {
    "train": "train",
    "calibration": "calibration",
    "test": "test_iid",
    "probe": "probe",
}
OF_HELD_OUT = {
    "cells": "test_cells",
    "phrases": "test_phrases",
    # Requests outside the domains: some kinds are shown in training, the others only tested.
    "exposure": "train",
    "foreign": "test_foreign",
}


def unit(text: str) -> float:
    """A number in [0, 1) from the SHA-256 of a text: the same on every machine, unlike `hash`."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def split_of(group: str, seed: int, shares: Split) -> str:
    """Draw a split for a group; the shares of the drawn splits are scaled to add up to 1."""
    sizes = {name: getattr(shares, name) for name in DRAWN}
    point = unit(f"{seed}|{group}") * sum(sizes.values())
    for name, size in sizes.items():
        if point < size:
            return name
        point -= size
    # Rounding can leave a point just past the last share.
    return "train"


def place(group: str, use: str, held_out: str, seed: int, shares: Split) -> str:
    """The split of a row.

    Args:
        group: the row's group.
        use: of its source in params.yaml; anything but "auto" decides.
        held_out: a key of OF_HELD_OUT where the generator held the row out, else "".
        seed: of the draw.
        shares: share of each split.
    """
    if use in OF_USE:
        return OF_USE[use]
    if held_out in OF_HELD_OUT:
        return OF_HELD_OUT[held_out]
    return split_of(group, seed, shares)
