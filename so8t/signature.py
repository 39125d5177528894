"""Who made a release: a detached Ed25519 signature, its key pair, and the check of it.

A digest shows that a file was changed, but whoever changes a calibration card can compute its
digest again. A signature takes the private key, which lies outside the project. The public key
`release.pub` and the signature `release.sig` lie at the root of the project (or bundle), in git:
outside the outputs of the graph, which stay the same bytes on every machine.

Signed is the canonical JSON of the schema and the SHA-256 of every file of the release. Ed25519 is
deterministic (RFC 8032): the same release and key give the same `release.sig`.

Covered: keys, signing, checking. Not covered: what the files say (so8t.released), and how a person
gets to trust a public key (docs/signing.md).
"""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from so8t.errors import ArtifactError
from so8t.files import atomic_file, read_json, sha256_file, write_json, write_text

# Imported inside the functions that need it, so that `--help` loads no cryptography.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SCHEMA = "so8t.release-signature/1"
SIGNATURE = "release.sig"
PUBLIC_KEY = "release.pub"
KEY_VARIABLE = "SO8T_KEY"
DEFAULT_KEY = ".config/so8t/signing.key"  # below the home directory
OWNER_ONLY = 0o600
OTHERS = 0o077  # mode bits by which anybody else could read or write a file
SIGNATURE_BYTES = 64
FROM_GIT = f"`git checkout {SIGNATURE} {PUBLIC_KEY}`, or ask whoever made the release for them"
NOT_AS_SIGNED = (
    "put back what was signed with `dvc checkout release` or `dvc pull`; "
    "if you made this release yourself, `so8t sign`"
)


class CannotSign(ArtifactError):  # noqa: N818 (what is the case, and no fault of a release)
    """There is no private key that fits release.pub, so nothing can be signed here."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature file holds.

    Attributes:
        files: SHA-256 by name below the release folder.
        key: fingerprint of the key that it was made with.
        signature: 64 bytes over `message(files)`.
    """

    files: dict[str, str]
    key: str
    signature: bytes


def root_of(release: Path) -> Path:
    """Where the signature and the public key of a release folder lie.

    Args:
        release: models/release of a project, or the folder `release` of a bundle.

    Returns:
        The folder above `models`, else the one above the release.
    """
    # By name and not by looking for the files: whoever can write into models/, which git ignores,
    # could otherwise put a key of their own there.
    parent = release.absolute().parent
    return parent.parent if parent.name == "models" else parent


def message(files: Mapping[str, str]) -> bytes:
    """The bytes that are signed: canonical JSON (sorted keys, no spaces) of schema and digests."""
    value = {"schema": SCHEMA, "files": dict(files)}
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def digests(release: Path) -> dict[str, str]:
    """SHA-256 by name of every file below a release folder.

    Raises:
        ArtifactError: something in it is neither a file nor a folder, such as a broken link.
    """
    return {name: sha256_file(release / name) for name in _names(release)}


def _names(release: Path) -> list[str]:
    names = []
    for path in sorted(release.rglob("*")):
        # A link to a folder could lead anywhere, so only real folders are looked into.
        if path.is_dir() and not path.is_symlink():
            continue
        if not path.is_file():
            raise ArtifactError(
                "neither a file nor a folder", where=str(path), fix="remove it; " + NOT_AS_SIGNED
            )
        names.append(path.relative_to(release).as_posix())
    return names


# --- keys ---


def key_file() -> Path:
    """Where the private key is: $SO8T_KEY, else ~/.config/so8t/signing.key.

    Raises:
        CannotSign: there is no home directory.
    """
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return Path(named)
    try:
        return Path.home() / DEFAULT_KEY
    except RuntimeError:
        raise CannotSign(
            "no home directory for the private key",
            where=KEY_VARIABLE,
            fix=f"set {KEY_VARIABLE} to a file outside the project",
        ) from None


def prepare(root: Path = Path()) -> str:
    """Make the private key if there is none, and the project's release.pub if it has none.

    Args:
        root: the project's folder.

    Returns:
        What a person should know; empty when releases can be signed here.

    Raises:
        ArtifactError: a key file is damaged, readable by others, or inside the project.
        ResourceError: a folder cannot be written.
    """
    path = key_file()
    _require_outside(path, root)
    if not path.exists():
        _make_private_key(path)
    own = _read_private_key(path).public_key()
    public = root / PUBLIC_KEY
    if not public.exists():
        write_text(public, _pem_of(own))
        return ""
    theirs = fingerprint(read_public_key(root))
    if theirs == fingerprint(own):
        return ""
    return (
        f"{PUBLIC_KEY} is of another key ({theirs[:16]}) than {path}: releases made here are not "
        f"signed. To sign with your own: remove {PUBLIC_KEY} and {SIGNATURE}, then `so8t init`"
    )


def _require_outside(path: Path, root: Path) -> None:
    """Refuse a private key where `git add` or a bundle could take it along."""
    if path.resolve().is_relative_to(root.resolve()):
        raise CannotSign(
            "the private key would lie inside the project",
            where=str(path),
            fix=f"set {KEY_VARIABLE} to a file outside the project",
        )


def _make_private_key(path: Path) -> None:
    """Write a new private key: PEM, PKCS8, no password, for its owner alone."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with atomic_file(path) as temporary:
        # With its mode from the first moment: a later chmod would leave a gap.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)


def _read_private_key(path: Path) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not path.is_file():
        raise CannotSign("no private key here", where=str(path), fix="so8t init")
    # Windows has other rights than mode bits.
    if os.name == "posix" and path.stat().st_mode & OTHERS:
        raise CannotSign(
            "others can read the private key", where=str(path), fix=f"chmod 600 {path}"
        )
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CannotSign(
            "not an Ed25519 private key in PEM without a password",
            where=str(path),
            fix=f"put the right file there, or set {KEY_VARIABLE} to another one and `so8t init`",
        )
    return key


def read_public_key(root: Path) -> "Ed25519PublicKey":
    """The project's public key.

    Raises:
        ArtifactError: missing, or not an Ed25519 public key in PEM.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = root / PUBLIC_KEY
    if not path.is_file():
        raise ArtifactError(
            "no public key to check a release with",
            where=str(path),
            fix=f"where releases are made: `so8t init`; elsewhere: {FROM_GIT}",
        )
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ArtifactError("not an Ed25519 public key in PEM", where=str(path), fix=FROM_GIT)
    return key


def _pem_of(key: "Ed25519PublicKey") -> str:
    from cryptography.hazmat.primitives import serialization

    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem.decode()


def fingerprint(key: "Ed25519PublicKey") -> str:
    """SHA-256 of the key in DER, in hex: `openssl pkey -pubin -outform DER | sha256sum`."""
    from cryptography.hazmat.primitives import serialization

    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


# --- signing ---


def sign(release: Path) -> str:
    """Write the signature of a release as it is now.

    Args:
        release: the folder; what it says is not checked here (so8t.released.sign_release).

    Returns:
        The fingerprint of the key.

    Raises:
        CannotSign: there is no private key, or release.pub is missing or of another key.
        ArtifactError: release.pub is damaged.
    """
    root = root_of(release)
    path = key_file()
    if not (root / PUBLIC_KEY).is_file():
        raise CannotSign("no public key here", where=str(root / PUBLIC_KEY), fix="so8t init")
    _require_outside(path, root)
    key = _read_private_key(path)
    name = fingerprint(key.public_key())
    if name != fingerprint(read_public_key(root)):
        raise CannotSign(
            f"{PUBLIC_KEY} is of another key than {path}",
            where=str(root / PUBLIC_KEY),
            fix=f"set {KEY_VARIABLE} to its private key; "
            f"or, to sign with your own, remove {PUBLIC_KEY} and {SIGNATURE}, then `so8t init`",
        )
    files = digests(release)
    signature = base64.b64encode(key.sign(message(files))).decode()
    content = {"schema": SCHEMA, "files": files, "key": name, "signature": signature}
    write_json(root / SIGNATURE, content)
    return name


# --- checking ---


def read(root: Path) -> Signed:
    """Read a signature file.

    Raises:
        ArtifactError: missing, or not of this schema.
    """
    path = root / SIGNATURE
    found = _signed_of(read_json(path, fix=FROM_GIT))
    if found is None:
        raise ArtifactError(f"not a signature of schema {SCHEMA}", where=str(path), fix=FROM_GIT)
    return found


def _signed_of(content: Any) -> Signed | None:
    """A signature file's content; None for anything of another form."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return None
    files = content.get("files")
    key = content.get("key")
    text = content.get("signature")
    if not isinstance(files, dict) or not isinstance(key, str) or not isinstance(text, str):
        return None
    if not all(isinstance(digest, str) for digest in files.values()):
        return None
    try:
        signature = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return Signed(files, key, signature) if len(signature) == SIGNATURE_BYTES else None


def verify(release: Path) -> str:
    """Check signature, key and every file of a release.

    Returns:
        The fingerprint of the key.

    Raises:
        ArtifactError: no signature, one of another key or another release, or a file that is
            missing, changed or too many.
    """
    root = root_of(release)
    signed = read(root)
    name = require_signed(signed, root)
    wrong = _differences(release, signed.files)
    if wrong:
        raise ArtifactError(
            f"not the release that was signed: {'; '.join(wrong)}",
            where=str(release),
            fix=NOT_AS_SIGNED,
        )
    return name


def require_signed(signed: Signed, root: Path) -> str:
    """Check that the key of a project signed these digests; no file is read.

    Returns:
        The fingerprint of the key.

    Raises:
        ArtifactError: the signature is of another key, or no signature of these digests.
    """
    from cryptography.exceptions import InvalidSignature

    key = read_public_key(root)
    name = fingerprint(key)
    where = str(root / SIGNATURE)
    if signed.key != name:
        raise ArtifactError(
            f"signed with another key ({signed.key[:16]}) than {PUBLIC_KEY} ({name[:16]})",
            where=where,
            fix=f"{FROM_GIT}; if you made this release yourself, `so8t sign`",
        )
    try:
        key.verify(signed.signature, message(signed.files))
    except InvalidSignature:
        raise ArtifactError(
            "the signature is forged or damaged: the key did not sign these digests",
            where=where,
            fix=f"{FROM_GIT}; if you made this release yourself, `so8t sign`",
        ) from None
    return name


def _differences(release: Path, signed: Mapping[str, str]) -> list[str]:
    """One phrase for each file that is not as it was signed."""
    here = set(_names(release))
    wrong = [f"{name} is missing" for name in sorted(signed.keys() - here)]
    wrong += [f"{name} is too many" for name in sorted(here - signed.keys())]
    for name in sorted(here & signed.keys()):
        if sha256_file(release / name) != signed[name]:
            wrong.append(f"{name} was changed")
    return wrong
