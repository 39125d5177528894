"""One line of the doctor's table, and how a check that raises becomes one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from so8t.errors import So8tError, ToolError

State = Literal["ok", "note", "fail"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the doctor's table.

    Attributes:
        check: what was looked at.
        state: how it is; a note stops nothing.
        says: what was seen.
        fix: what to type when it is not well.
        code: the exit code of a failure.
    """

    check: str
    state: State
    says: str
    fix: str = ""
    code: int = ToolError.exit_code

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def ok(check: str, says: str) -> Line:
    """A check that passed."""
    return Line(check, "ok", says)


def note(check: str, says: str, fix: str = "") -> Line:
    """Something to know that stops nothing."""
    return Line(check, "note", says, fix)


def fail(check: str, error: So8tError) -> Line:
    """A check that failed, with its error's fix and exit code."""
    # The place belongs to the sentence here; an error keeps it apart.
    says = error.problem
    if error.where:
        says = f"{error.where}: {error.problem}"
    return Line(check, "fail", says, error.fix, error.exit_code)


def run_check(check: str, look: Callable[[], str]) -> Line:
    """Run a check and say how it went.

    Args:
        check: its name in the table.
        look: returns what it saw, or raises what is wrong.
    """
    try:
        return ok(check, look())
    # Any other exception is a mistake of ours and must be seen.
    except So8tError as error:
        return fail(check, error)
