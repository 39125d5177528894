"""The error family: one class per exit code.

Each error says what is wrong, where, and what to type next.

So8tError (1)
 ├ ParamsError    3   params.yaml
 ├ DataError      4   a row, a label, a split
 ├ ArtifactError  5   a model, adapter, GGUF or card is not what it should be
 ├ ToolError      6   llama.cpp, Ollama or DVC is missing or failed
 ├ ResourceError  7   memory, disk or graphics memory
 └ GateError      8   a quality limit that must hold does not
Interruption leaves with 130 (SIGINT) or 143 (SIGTERM); click's own usage errors with 2; a bug of
ours, whose traceback goes to the log (so8t.bug), with 70.
"""

from typing import ClassVar

# EX_SOFTWARE of BSD's sysexits.h: an internal error.
BUG = 70
USAGE = 2  # click's own code
SIGINT_EXIT = 130  # as a shell reports it: 128 and the signal's number


class So8tError(Exception):
    """An error that its reader can do something about.

    Args:
        problem: what is wrong.
        where: a file, `file:line`, a row's id, a server's address.
        fix: what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, where: str = "", fix: str = "") -> None:
        self.problem = problem
        self.where = where
        self.fix = fix
        super().__init__(problem)

    def __str__(self) -> str:
        # In this order, so that the eye finds the place first, as with a compiler.
        text = self.problem
        if self.where:
            text = f"{self.where}: {text}"
        if self.fix:
            text = f"{text}\n  fix: {self.fix}"
        return text


class ParamsError(So8tError):
    """params.yaml has a wrong, missing or unknown key."""

    # 2 is click's own code for a wrong option, so the family begins above it.
    exit_code = 3


class DataError(So8tError):
    """A data file, row, label or split is not usable."""

    exit_code = 4


class ArtifactError(So8tError):
    """A model, adapter, GGUF file or calibration card is not what it should be."""

    exit_code = 5


class ToolError(So8tError):
    """An external tool is missing or failed."""

    exit_code = 6


class ResourceError(So8tError):
    """Not enough memory, disk or graphics memory."""

    exit_code = 7


class GateError(So8tError):
    """A quality limit that must hold (bake parity, GGUF parity, drift) does not."""

    exit_code = 8


class Interrupted(So8tError):  # noqa: N818 (what happened, not an error of anyone)
    """SIGINT or SIGTERM arrived; everything that can be resumed has been saved.

    Args:
        signal_number: which one; the exit code is 128 more, as in a shell.
        problem: what is wrong.
        fix: what to do next.
    """

    def __init__(self, signal_number: int, problem: str = "interrupted", *, fix: str = "") -> None:
        # Without a place: what was interrupted is the command itself.
        super().__init__(problem, fix=fix)
        self.signal_number = signal_number
