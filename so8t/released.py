"""A release, opened: signed, whole, and of parts that belong together.

Every command that uses a release opens it here first, before an engine reads the file: signature
and digests (so8t.signature), the manifest, the card, the GGUF file, and the numbers of the card
that `release` wrote into the GGUF file.

Not covered: prompt template and engine settings in use, which only exist once an engine runs
(so8t.card.require_match).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from so8t import card as cards
from so8t import signature
from so8t.errors import ArtifactError
from so8t.familiarity import Index, read_index
from so8t.gguf_file import read_keys
from so8t.identity import check_seal, semantic_digest
from so8t.manifest import CARD, FAMILIARITY, FIX, NAME, Manifest, read_manifest

FOREIGN = "put back the release of one revision: `so8t rollback REV`, or `dvc checkout release`"
# For people, so the language of the product comes first.
UNSIGNED = (
    "警告: この公開物には署名がありません（--unsigned）。"
    "しきい値や重みが変えられていても分かりません。\n"
    "WARNING: this release is not signed: anybody may have changed its thresholds or its weights "
    "(--unsigned)."
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release whose parts were checked.

    Attributes:
        folder: models/release, or the same folder elsewhere.
        manifest: how the file is prompted and what is said when nothing is generated.
        card: its calibration card.
        index: what familiarity is judged by.
        file: the GGUF file.
        signed_by: fingerprint of the key; empty for an unsigned release that was let pass.
    """

    folder: Path
    manifest: Manifest
    card: cards.Card
    index: Index
    file: Path
    signed_by: str

    @property
    def warning(self) -> str:
        """What to say loudly before the release is used; empty when it is signed."""
        return "" if self.signed_by else UNSIGNED

    @property
    def said(self) -> str:
        """One line on the release, after the warning if there is one."""
        return f"{self.warning}\n{self}".lstrip()

    def __str__(self) -> str:
        signer = f"signed by {self.signed_by[:16]}" if self.signed_by else "not signed"
        digest = self.card.semantic_digest[:12]
        name = f"{self.manifest.name} ({self.manifest.type})"
        return f"{name}, digest {digest}, card {self.card.status}, {signer}"


def open_release(folder: Path, *, allow_unsigned: bool = False) -> Release:
    """Check a release from its signature to the keys inside its GGUF file.

    Args:
        folder: models/release, or the same folder elsewhere.
        allow_unsigned: take a release without a signature. A signature that is there must hold.

    Raises:
        ArtifactError: it is unsigned, or signed otherwise; a file is missing, damaged, changed or
            too many; or its parts are of different releases.
    """
    signed_by = _signer(folder, allow_unsigned)
    return _checked(folder, signed_by)


def sign_release(folder: Path) -> Release:
    """Sign a release, after its parts were checked.

    Raises:
        CannotSign: there is no private key that fits release.pub.
        ArtifactError: its parts do not belong together.
    """
    _require_folder(folder)
    opened = _checked(folder, "")
    return replace(opened, signed_by=signature.sign(folder))


def is_signed(folder: Path) -> bool:
    """Whether the signature that is there holds, as where a release was made again bit by bit."""
    try:
        signature.verify(folder)
    except ArtifactError:
        return False
    return True


def _signer(folder: Path, allow_unsigned: bool) -> str:
    """The fingerprint of who signed; empty where nobody did and that is allowed."""
    _require_folder(folder)
    path = signature.root_of(folder) / signature.SIGNATURE
    if path.exists():
        return signature.verify(folder)
    if allow_unsigned:
        return ""
    raise ArtifactError(
        "the release is not signed: anybody may have changed its thresholds or its weights",
        where=str(path),
        fix="`so8t sign` if you made it, "
        f"{signature.FROM_GIT} if you did not; or --unsigned, at your own risk",
    )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ArtifactError(
            "no release here", where=str(folder), fix="`dvc repro release`, or `dvc pull`"
        )


def _checked(folder: Path, signed_by: str) -> Release:
    """Read every part and compare it with the others."""
    manifest = read_manifest(folder)
    card = cards.read(folder / CARD)
    index = read_index(folder / FAMILIARITY)
    if index.digest != card.familiarity.index:
        raise ArtifactError(
            "the familiarity index is of another card",
            where=str(folder / FAMILIARITY),
            fix=FOREIGN,
        )
    file = folder / manifest.file
    if not file.is_file():
        raise ArtifactError("file not found", where=str(file), fix=FIX)
    # A signature covers every byte already.
    if not signed_by:
        check_seal(file)
    found = semantic_digest(file)
    if card.semantic_digest != found:
        raise ArtifactError(
            "the card is of another file: the semantic digests differ",
            where=str(folder / CARD),
            fix=FOREIGN,
        )
    _require_same(folder, manifest, card)
    _require_keys(file, card)
    return Release(folder, manifest, card, index, file, signed_by)


def _require_same(folder: Path, manifest: Manifest, card: cards.Card) -> None:
    """The manifest names what the card names."""
    wrong = []
    for name in ("semantic_digest", "template_sha256"):
        if getattr(manifest, name) != getattr(card, name):
            wrong.append(name)
    if wrong:
        raise ArtifactError(
            f"the manifest is of another file than the card: {', '.join(wrong)} differ",
            where=str(folder / NAME),
            fix=FOREIGN,
        )


def _require_keys(file: Path, card: cards.Card) -> None:
    """The numbers inside the GGUF file are the card's: other programs read them there."""
    keys = read_keys(file)
    escalate = cards.float32_thresholds(card).escalate
    wanted = calibrated_keys(cards.to_dict(card), escalate=escalate)
    wrong = [name for name, value in wanted.items() if keys.get(name) != value]
    if wrong:
        raise ArtifactError(
            f"the keys in the GGUF file are not the card's: {', '.join(wrong)}",
            where=str(file),
            fix=FOREIGN,
        )


def calibrated_keys(card: Mapping[str, Any], *, escalate: float) -> dict[str, Any]:
    """Values of the keys that `release` writes into the file.

    Args:
        card: the card as JSON.
        escalate: the card's threshold as float32 can hold it without being laxer.
    """
    thresholds = card["thresholds"]
    return {
        "so8t.safety_threshold": float32_up(1.0 - escalate),
        "so8t.escalation_threshold": escalate,
        "so8t.calibration.status": card["status"],
        "so8t.calibration.readout": card["readout"],
        "so8t.calibration.temperature": float(card["temperature"]),
        "so8t.calibration.deny": float(thresholds["deny"]),
        "so8t.calibration.escalate": float(thresholds["escalate"]),
        "so8t.calibration.card_sha256": card["digest"],
        "so8t.calibration.semantic_digest": card["semantic_digest"],
    }


def float32_up(value: float) -> float:
    """The smallest float32 that is not below `value`."""
    nearest = np.float32(value)
    if float(nearest) >= value:
        return float(nearest)
    return float(np.nextafter(nearest, np.float32(np.inf)))
