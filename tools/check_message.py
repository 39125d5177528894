"""A commit message: a subject of at most 72 characters, an empty line, and a body that says why.

python -m tools.check_message .git/COMMIT_EDITMSG
"""

import sys
from pathlib import Path

LONGEST = 72
NEEDS_NO_BODY = ("Merge ", "Revert ", "fixup! ", "squash! ")


def problems_of(message: str) -> list[str]:
    """What is wrong with a message; lines that begin with # are git's own."""
    lines = [line.rstrip() for line in message.splitlines() if not line.startswith("#")]
    subject, rest = (lines[0] if lines else ""), lines[1:]
    if subject.startswith(NEEDS_NO_BODY):
        return []
    found = []
    if not subject:
        found.append("the subject is empty")
    if len(subject) > LONGEST:
        found.append(
            f"the subject has {len(subject)} characters, at most {LONGEST} are shown everywhere"
        )
    if rest and rest[0]:
        found.append("an empty line belongs between subject and body")
    if not any(rest):
        found.append("a body is missing: say why, in a sentence")
    return found


if __name__ == "__main__":
    problems = problems_of(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.exit("\n".join(problems) if problems else 0)
