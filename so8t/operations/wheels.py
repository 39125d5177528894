"""Wheels made from the packages that are installed here: the very files that were tested, no index, no compiler.

A wheel is a zip of what RECORD lists, with a RECORD of its own. Covered: packages installed by pip into site-packages.
Not covered: files outside it (man pages, headers); they are left out. Console scripts are made again by pip.
"""

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from so8t.errors import ToolError

SERVING = ("click", "gguf", "jaxtyping", "jinja2", "llama-cpp-python", "numpy", "psutil", "pydantic", "ruamel-yaml", "scipy", "tqdm")  # what `so8t ask` imports
NOT_SERVED = {"fastapi", "uvicorn", "torch", "transformers"}  # never needed for asking
EPOCH = (1980, 1, 1, 0, 0, 0)


def closure(names: tuple[str, ...] = SERVING) -> list[str]:
    """Names of these packages and of all they require here, sorted."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    todo = [canonicalize_name(name) for name in names]
    while todo:
        name = todo.pop()
        if name in found or name in NOT_SERVED:
            continue
        found.add(name)
        needs = (Requirement(line) for line in _distribution(name).requires or [])
        todo += [canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return sorted(found)


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ToolError(f"{name} is not installed here, so it cannot be packed", fix="make setup") from None


def collect(out: Path, package: Path) -> int:
    """Write a wheel of so8t (from `package`, its source folder) and of everything that asking needs; return how many."""
    out.mkdir(parents=True)
    names = closure()
    for name in names:
        _pack(_distribution(name), out)
    _pack_ours(package, out)
    return len(names) + 1


def _pack(distribution: metadata.Distribution, out: Path) -> Path:
    """One wheel from one installed package."""
    record = [(str(item), Path(str(item.locate()))) for item in distribution.files or [] if not str(item).startswith("..") and "__pycache__" not in item.parts]
    head = next((name.split("/")[0] for name, _ in record if name.endswith(".dist-info/WHEEL")), None)
    if head is None:
        raise ToolError(f"{distribution.metadata['Name']} was not installed by pip, so it cannot be packed", fix="make setup")
    tags = [line.split(": ", 1)[1] for line in (distribution.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    skipped = {f"{head}/{name}" for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")}
    content = ((name, path.read_bytes()) for name, path in record if name not in skipped and path.is_file())
    return _write(out / f"{head.removesuffix('.dist-info')}-{_joined(tags)}.whl", head, content)


def _joined(tags: list[str]) -> str:
    """Tags of one wheel as its file name spells them: py2.py3-none-any."""
    parts = [list(dict.fromkeys(column)) for column in zip(*(tag.split("-") for tag in tags), strict=True)]
    return "-".join(".".join(part) for part in parts)


def _pack_ours(package: Path, out: Path) -> Path:
    from so8t import __version__

    head = f"so8t-{__version__}.dist-info"
    return _write(out / f"so8t-{__version__}-py3-none-any.whl", head, _ours(package, head, __version__))


def _ours(package: Path, head: str, version: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(package.rglob("*.py")):
        yield f"so8t/{path.relative_to(package).as_posix()}", path.read_bytes()
    yield f"{head}/METADATA", f"Metadata-Version: 2.1\nName: so8t\nVersion: {version}\n".encode()
    yield f"{head}/WHEEL", b"Wheel-Version: 1.0\nGenerator: so8t bundle\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    yield f"{head}/entry_points.txt", b"[console_scripts]\nso8t = so8t.cli:main\n"


def _write(path: Path, head: str, content: Iterator[tuple[str, bytes]]) -> Path:
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:  # 240 MB of libraries: seconds instead of a minute
        for name, data in content:
            out.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED, 1)
            lines.append(f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n")
        out.writestr(zipfile.ZipInfo(f"{head}/RECORD", EPOCH), "".join([*lines, f"{head}/RECORD,,\n"]), zipfile.ZIP_DEFLATED)
    return path
