"""Check a bundle with Python alone: signature, every file's SHA-256, no file too many, the card.

Copied into bundles as verify.py, so it imports nothing of so8t. The signature is checked with the
package `cryptography` where it is installed, else with the few lines of RFC 8032 at the end. `so8t
ask` also checks the semantic digest of the model.

python verify.py               0: whole and signed; 1: every problem on a line
python verify.py --unsigned    the same without a signature
"""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

CHUNK = 4 << 20  # bytes read at a time
SCHEMA = "so8t.release-signature/1"
# A public key of Ed25519 in DER: these bytes, then the 32 of the key (RFC 8410).
DER_HEAD = bytes.fromhex("302a300506032b6570032100")
KEY_BYTES = 32
FIX = "fix: get the bundle again from whoever made it; before that, do not use it"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    # In pieces: a model is larger than the memory of many machines.
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def listed_files(folder: Path) -> dict[str, str]:
    """SHA-256 by name, as SHA256SUMS lists them.

    Each line is a digest, two spaces and a name, as `sha256sum` writes it.
    """
    listed = {}
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        # A name may hold spaces, a digest none.
        digest, name = line.split("  ", 1)
        listed[name] = digest
    return listed


def files_here(folder: Path) -> set[str]:
    """Names of the files that are there, in the form of SHA256SUMS.

    Args:
        folder: the bundle.

    Returns:
        Paths below the bundle, with slashes on every system.
    """
    here = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        # The README tells people to make .venv inside the bundle. The list does not list itself.
        if path.is_file() and name.parts[0] not in (".venv", "SHA256SUMS"):
            here.add(name.as_posix())
    return here


def wrong_files(folder: Path) -> list[str]:
    """Files that are missing, changed or not in the list.

    Args:
        folder: the bundle.

    Returns:
        One line per file: first the missing, then the surplus, then the changed ones.
    """
    listed = listed_files(folder)
    here = files_here(folder)
    found = [f"{name}: missing" for name in sorted(listed.keys() - here)]
    found += [f"{name}: not in SHA256SUMS" for name in sorted(here - listed.keys())]
    for name in sorted(listed.keys() & here):
        if sha256(folder / name) != listed[name]:
            found.append(f"{name}: changed")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file, which must be an object.

    Raises:
        ValueError: it is not; OSError where it cannot be read.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return value


def canonical(value: Any) -> bytes:
    """Canonical JSON, as so8t.files and so8t.signature make it, which cannot be imported here."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def digest_of_card(card: dict[str, Any]) -> str:
    """The digest that a card must carry: SHA-256 of its other keys as canonical JSON."""
    body = {key: value for key, value in card.items() if key != "digest"}
    return hashlib.sha256(canonical(body)).hexdigest()


def wrong_release(folder: Path) -> list[str]:
    """Whether the card was edited or is of another file.

    Args:
        folder: the release inside the bundle.

    Returns:
        One line per problem.
    """
    try:
        card = read_json(folder / "card.json")
        manifest = read_json(folder / "release.json")
    except (OSError, ValueError) as error:
        return [f"release: card.json or release.json cannot be read ({error})"]
    found = []
    if digest_of_card(card) != card.get("digest"):
        found.append("release/card.json: edited after it was made")
    if card.get("semantic_digest") != manifest.get("semantic_digest"):
        found.append("release/card.json: the card of another file")
    return found


# --- signature ---


def wrong_signature(folder: Path) -> list[str]:
    """Whether release.sig is a signature, by release.pub, of the files that SHA256SUMS lists.

    `wrong_files` compares the list with the files, so no model is read twice.

    Args:
        folder: the bundle.

    Returns:
        One line per problem.
    """
    try:
        key = public_key(folder)
        signed = read_json(folder / "release.sig")
        files = signed["files"]
        signature = base64.b64decode(signed["signature"], validate=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"release.sig or release.pub: missing or damaged ({error})"]
    found = []
    if signed.get("key") != fingerprint(key):
        found.append("release.sig: of another key than release.pub")
    elif not is_signature(key, signature, canonical({"schema": SCHEMA, "files": files})):
        found.append("release.sig: forged or damaged: the key did not sign these digests")
    listed = {}
    for name, digest in listed_files(folder).items():
        if name.startswith("release/"):
            listed[name.removeprefix("release/")] = digest
    if listed != files:
        found.append("release.sig: of another release: the files that it names are not these")
    return found


def public_key(folder: Path) -> bytes:
    """The 32 bytes of release.pub.

    Raises:
        ValueError: no PEM of an Ed25519 public key; OSError where it cannot be read.
    """
    lines = (folder / "release.pub").read_text(encoding="ascii").split("\n")
    der = base64.b64decode("".join(line for line in lines if not line.startswith("-")))
    if not der.startswith(DER_HEAD) or len(der) != len(DER_HEAD) + KEY_BYTES:
        raise ValueError("release.pub is no Ed25519 public key")
    return der[len(DER_HEAD) :]


def fingerprint(key: bytes) -> str:
    """SHA-256 of the key in DER, in hex, as so8t.signature names it."""
    return hashlib.sha256(DER_HEAD + key).hexdigest()


def is_signature(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the key signed the message."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return ed25519_holds(key, signature, message)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# --- Ed25519, verification alone (RFC 8032, section 5.1) ---

P = 2**255 - 19  # the field
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point
D = -121665 * pow(121666, -1, P) % P  # -x^2 + y^2 = 1 + D x^2 y^2
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)


class Point(NamedTuple):
    """A point of the curve: x = X/Z, y = Y/Z, x y = T/Z."""

    X: int
    Y: int
    Z: int
    T: int


def add(p: Point, q: Point) -> Point:
    """The sum of two points; the formula holds for equal ones too (section 5.1.4)."""
    a = (p.Y - p.X) * (q.Y - q.X) % P
    b = (p.Y + p.X) * (q.Y + q.X) % P
    c = 2 * p.T * q.T * D % P
    d = 2 * p.Z * q.Z % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return Point(e * f % P, g * h % P, f * g % P, e * h % P)


def times(scalar: int, point: Point) -> Point:
    """A multiple of a point, by doubling and adding; nothing here is secret."""
    total = Point(0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point = add(point, point)
        scalar >>= 1
    return total


def point_of(data: bytes) -> Point | None:
    """Decode 32 bytes: y, and the lowest bit of x in the highest bit (section 5.1.3)."""
    number = int.from_bytes(data, "little")
    odd = number >> 255
    y = number & (1 << 255) - 1
    if y >= P:
        return None
    # x^2 = (y^2 - 1) / (D y^2 + 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_MINUS_1 % P
    if x * x % P != square or (x == 0 and odd):
        return None
    if x & 1 != odd:
        x = P - x
    return Point(x, y, 1, x * y % P)


BASE = point_of((4 * pow(5, -1, P) % P).to_bytes(KEY_BYTES, "little"))


def ed25519_holds(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether S B = R + k A (section 5.1.7, without the cofactor, as OpenSSL has it).

    Args:
        key: A, 32 bytes.
        signature: R and S, 64 bytes.
        message: what was signed.
    """
    if len(signature) != 2 * KEY_BYTES:
        return False
    r_bytes = signature[:KEY_BYTES]
    s = int.from_bytes(signature[KEY_BYTES:], "little")
    a = point_of(key)
    r = point_of(r_bytes)
    # S in its one form alone: otherwise a second signature could be made of the first.
    if a is None or r is None or BASE is None or s >= ORDER:
        return False
    k = int.from_bytes(hashlib.sha512(r_bytes + key + message).digest(), "little") % ORDER
    left = times(s, BASE)
    right = add(r, times(k, a))
    same_x = (left.X * right.Z - right.X * left.Z) % P == 0
    same_y = (left.Y * right.Z - right.Y * left.Z) % P == 0
    return same_x and same_y


def main(arguments: list[str]) -> int:
    """0: whole; 1: every problem on a line of its own."""
    # Beside this file, wherever it was started from.
    folder = Path(__file__).resolve().parent
    unsigned = arguments == ["--unsigned"] and not (folder / "release.sig").exists()
    try:
        found = wrong_files(folder) + wrong_release(folder / "release")
        if not unsigned:
            found += wrong_signature(folder)
    except (OSError, ValueError) as error:
        found = [f"SHA256SUMS: missing or damaged ({error})"]
    if found:
        sys.stdout.write("".join(f"{line}\n" for line in [*found, FIX]))
        return 1
    sys.stdout.write("verified: every file, and the card is of this model\n")
    if unsigned:
        sys.stdout.write("WARNING: not signed: anybody may have made this bundle\n")
    else:
        sys.stdout.write(f"signed with key {fingerprint(public_key(folder))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
