"""Check a bundle with Python alone: every file's SHA-256, no file too many, and that card, manifest and file belong together.

Copied into bundles as verify.py; imports nothing of so8t. `so8t ask` checks the semantic digest of the model besides.
"""

import hashlib
import json
import sys
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(4 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def wrong_files(folder: Path) -> list[str]:
    """Files that are missing, changed or not in the list."""
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    here = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and ".venv" not in p.parts and p.name != "SHA256SUMS"
    }
    found = [f"{name}: missing" for name in sorted(set(listed) - here)] + [
        f"{name}: not in SHA256SUMS" for name in sorted(here - set(listed))
    ]
    return found + [
        f"{name}: changed"
        for name in sorted(set(listed) & here)
        if sha256(folder / name) != listed[name]
    ]


def wrong_release(folder: Path) -> list[str]:
    """Whether the card was edited or is of another file."""
    card, manifest = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("card.json", "release.json")
    )
    body = json.dumps(
        {k: v for k, v in card.items() if k != "digest"},
        sort_keys=True,
        ensure_ascii=False,
        separators=(",", ":"),
    )
    found = (
        []
        if hashlib.sha256(body.encode()).hexdigest() == card.get("digest")
        else ["card.json: edited after it was made"]
    )
    if card.get("semantic_digest") != manifest.get("semantic_digest"):
        found.append("card.json: the card of another file")
    return found


def main() -> int:
    """0: whole; 1: every problem on a line of its own."""
    folder = Path(__file__).resolve().parent
    found = wrong_files(folder) + wrong_release(folder / "release")
    sys.stdout.write(
        "".join(f"{line}\n" for line in found)
        or "verified: every file, and the card is of this model\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
