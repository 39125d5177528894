"""The founders' five tests of a conversion, each of which can fail (theirs assumed the last two).

The project's founders shipped a converter with a JSON of test results beside each file; the names
of the tests are theirs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from so8t.errors import So8tError
from so8t.gguf.verify.contents import against_hf
from so8t.gguf.verify.verify import key_problems
from so8t.gguf_file import read_typed
from so8t.gguf_header import parse
from so8t.identity import check_seal
from so8t.model_check import ContextProfile


def five_tests(path: Path, source: Path, profile: ContextProfile) -> dict[str, Any]:
    """Run the five tests on a file and the Hugging Face directory it came from.

    Nothing is raised for a bad file.

    Args:
        path: the file.
        source: the Hugging Face directory.
        profile: the one that the file was converted with.

    Returns:
        The founders' result: five truth values, how many passed and failed, and the errors.
    """
    checks: dict[str, Callable[[], None]] = {
        "output_file_exists": lambda: _require_content(path),
        "output_file_valid": lambda: _require_tensors(path),
        "conversion_successful": lambda: check_seal(path),
        "metadata_correct": lambda: _require_keys(path),
        "so8t_structure_preserved": lambda: _require_same_tensors(path, source, profile),
    }
    # All of them are run, whatever fails: the result has one truth value per test.
    results: dict[str, bool] = {}
    errors: list[str] = []
    for name, check in checks.items():
        try:
            check()
        except So8tError as error:
            errors.append(str(error))
            results[name] = False
        else:
            results[name] = True
    passed = sum(results.values())
    return {
        **results,
        "tests_passed": passed,
        "tests_failed": len(results) - passed,
        "errors": errors,
    }


def _require_content(path: Path) -> None:
    """Test 1."""
    if not path.is_file() or path.stat().st_size == 0:
        raise So8tError("the output file does not exist or is empty", where=str(path))


def _require_tensors(path: Path) -> None:
    """Test 2: it can be read, and is no empty shell."""
    if not parse(path).tensors:
        raise So8tError("the file holds no tensors", where=str(path))


def _require_keys(path: Path) -> None:
    """Test 4."""
    problems = key_problems(read_typed(path))
    if problems:
        raise So8tError("; ".join(problems), where=str(path))


def _require_same_tensors(path: Path, source: Path, profile: ContextProfile) -> None:
    """Test 5: the weights are those of the source."""
    failed = [check for check in against_hf(path, source, profile) if not check.passes]
    if failed:
        first = failed[0]
        raise So8tError(
            f"{len(failed)} tensors differ from the source, "
            f"first {first.name} (error {first.nmse:.3g})",
            where=str(path),
        )
