"""The founders' five tests of a conversion, each of which can fail (theirs assumed the last two)."""

from pathlib import Path
from typing import Any

from so8t import identity
from so8t.errors import So8tError
from so8t.export import tensors
from so8t.export.arch import ContextProfile
from so8t.export.verify import key_problems


def five_tests(path: Path, source: Path, profile: ContextProfile) -> dict[str, Any]:
    """Run the five tests on a file and the Hugging Face directory it came from; nothing is raised for a bad file.

    Returns:
        The founders' result: five truth values, how many passed and failed, and the errors.
    """
    errors: list[str] = []
    results = {
        "output_file_exists": _holds(lambda: _exists(path), errors),
        "output_file_valid": _holds(lambda: _valid(path), errors),
        "conversion_successful": _holds(lambda: identity.check_seal(path), errors),
        "metadata_correct": _holds(lambda: _metadata(path), errors),
        "so8t_structure_preserved": _holds(lambda: _structure(path, source, profile), errors),
    }
    passed = sum(results.values())
    return results | {"tests_passed": passed, "tests_failed": len(results) - passed, "errors": errors}


def _holds(check: Any, errors: list[str]) -> bool:
    try:
        check()
    except So8tError as error:
        errors.append(str(error))
        return False
    return True


def _exists(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        raise So8tError("the output file does not exist or is empty", where=str(path))


def _valid(path: Path) -> None:
    if not identity.parse(path).tensors:
        raise So8tError("the file holds no tensors", where=str(path))


def _metadata(path: Path) -> None:
    if problems := key_problems(identity.read_typed(path)):
        raise So8tError("; ".join(problems), where=str(path))


def _structure(path: Path, source: Path, profile: ContextProfile) -> None:
    failed = [check for check in tensors.against_hf(path, source, profile) if not check.passes]
    if failed:
        raise So8tError(f"{len(failed)} tensors differ from the source, first {failed[0].name} (error {failed[0].nmse:.3g})", where=str(path))
