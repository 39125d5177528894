"""What must not enter the repository: private keys and large files.

python -m tools.check_files [FILE ...]     without files: everything that git tracks
"""

import re
import subprocess
import sys
from pathlib import Path

LARGEST = 400_000  # bytes; models and data belong to DVC
MAY_BE_LARGE = ("dvc.lock", "report.html")
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def problems_of(path: Path) -> list[str]:
    """What is wrong with one file; empty when nothing is."""
    content = path.read_bytes()
    found = []
    if len(content) > LARGEST and path.name not in MAY_BE_LARGE:
        found.append(f"{len(content):,} bytes: give it to DVC (at most {LARGEST:,})")
    if PRIVATE_KEY.search(content):
        found.append("holds a private key: take it out, and make a new key")
    return [f"{path}: {problem}" for problem in found]


def main(names: list[str]) -> int:
    """Print every problem; 1 if there is one."""
    if not names:
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True).stdout
        names = listed.decode().rstrip("\0").split("\0")
    paths = [Path(name) for name in names]
    problems = [problem for path in paths if path.is_file() for problem in problems_of(path)]
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
