"""Check a bundle with Python alone: every file's SHA-256, no file too many, and the card's model.

Copied into bundles as verify.py, so it imports nothing of so8t. `so8t ask` also checks the semantic
digest of the model.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

CHUNK = 4 << 20  # bytes read at a time


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
        # The README tells people to make .venv inside the bundle. The list does not list itself.
        if path.is_file() and ".venv" not in path.parts and path.name != "SHA256SUMS":
            here.add(path.relative_to(folder).as_posix())
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


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def digest_of_card(card: dict[str, Any]) -> str:
    """The digest that a card must carry: SHA-256 of its other keys as canonical JSON."""
    body = {key: value for key, value in card.items() if key != "digest"}
    # As so8t.files.sha256_json does it, which cannot be imported here.
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def wrong_release(folder: Path) -> list[str]:
    """Whether the card was edited or is of another file.

    Args:
        folder: the release inside the bundle.

    Returns:
        One line per problem.
    """
    card = read_json(folder / "card.json")
    manifest = read_json(folder / "release.json")
    found = []
    if digest_of_card(card) != card.get("digest"):
        found.append("card.json: edited after it was made")
    if card.get("semantic_digest") != manifest.get("semantic_digest"):
        found.append("card.json: the card of another file")
    return found


def main() -> int:
    """0: whole; 1: every problem on a line of its own."""
    # Beside this file, wherever it was started from.
    folder = Path(__file__).resolve().parent
    found = wrong_files(folder) + wrong_release(folder / "release")
    if found:
        sys.stdout.write("".join(f"{line}\n" for line in found))
        return 1
    sys.stdout.write("verified: every file, and the card is of this model\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
