"""`so8t bundle REV OUT`: what another machine needs to serve one revision, with nothing else there: no git, no DVC, no network.

The folder holds the release as it was committed (re-hashed while it is copied), SHA256SUMS, a verifier that needs only
Python, a README, and with `--wheels` the packages that `so8t ask` imports.

Wheels made from the packages that are installed here: the very files that were tested, no index, no compiler.

A wheel is a zip of what RECORD lists, with a RECORD of its own. Covered: packages installed by pip into site-packages.
Not covered: files outside it (man pages, headers); they are left out. Console scripts are made again by pip.
"""

import base64
import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from so8t.errors import ArtifactError, ToolError
from so8t.files import atomic_dir, sha256_file, write_text
from so8t.operations.git import commit_of, file_at
from so8t.operations.rollback import RELEASE
from so8t.operations.store import export, out_at
from so8t.release import manifest

SUMS, VERIFIER = "SHA256SUMS", "verify.py"
_README = """# {name}, {file}

Made from commit {commit} by `so8t bundle`.

```sh
python verify.py                                  # every byte, and that the card belongs to the file; needs Python alone
python -m venv .venv                              # once; then activate it: . .venv/bin/activate   (Windows: .venv\\Scripts\\activate)
python -m pip install --no-index --no-deps wheels/*.whl
so8t ask --release release "承認番号A-1024、責任者の確認済みです。要点をまとめてください。"
```

On Windows without a shell that expands `*`: `for %w in (wheels\\*.whl) do python -m pip install --no-index --no-deps %w`.
Ollama: `ollama create {served} -f release/Modelfile`. Card: {status}. Plain llama.cpp: `release/llama_cpp.md`.
"""


def make(revision: str, out: Path, root: Path = Path(), *, with_wheels: bool = False) -> str:
    """Write the bundle; return one line on what it holds.

    Raises:
        ArtifactError: OUT is there already, the revision was not built, is not in the cache, or its card is foreign.
    """
    commit = commit_of(revision, root)
    if out.exists():
        raise ArtifactError(
            "it is there already",
            where=str(out),
            fix="choose another folder; nothing is overwritten",
        )
    with atomic_dir(out) as folder:
        for name, held in export(out_at(commit, RELEASE, root), root):
            (folder / "release" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(held, folder / "release" / name)
        said = manifest.check(folder / "release")
        for name in ("LICENSE", "params.yaml", "dvc.lock"):
            if (text := file_at(commit, name, root)) is not None:
                write_text(folder / name, text)
        shutil.copyfile(Path(__file__).with_name("verifier.py"), folder / VERIFIER)
        count = collect(folder / "wheels", Path(__file__).parents[1]) if with_wheels else 0
        write_text(folder / "README.md", _readme(folder, commit))
        write_sums(folder)
    return f"{said}; {count} wheels" if count else said


def _readme(folder: Path, commit: str) -> str:
    from so8t import card as cards
    from so8t.release.manifest import CARD, read_manifest

    manifest = read_manifest(folder / "release")
    return _README.format(
        name=manifest.name,
        file=manifest.file,
        commit=commit,
        served=manifest.name,
        status=cards.read(folder / "release" / CARD).status,
    )


def write_sums(folder: Path) -> int:
    """Write SHA256SUMS over every other file, in the form of `sha256sum`; return how many."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    write_text(
        folder / SUMS,
        "".join(f"{sha256_file(p)}  {p.relative_to(folder).as_posix()}\n" for p in files),
    )
    return len(files)


SERVING = (
    "click",
    "gguf",
    "jaxtyping",
    "jinja2",
    "llama-cpp-python",
    "numpy",
    "psutil",
    "pydantic",
    "ruamel-yaml",
    "scipy",
    "tqdm",
)  # what `so8t ask` imports
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
        todo += [
            canonicalize_name(need.name)
            for need in needs
            if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
    return sorted(found)


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ToolError(
            f"{name} is not installed here, so it cannot be packed", fix="make setup"
        ) from None


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
    record = [
        (str(item), Path(str(item.locate())))
        for item in distribution.files or []
        if not str(item).startswith("..") and "__pycache__" not in item.parts
    ]
    head = next(
        (name.split("/")[0] for name, _ in record if name.endswith(".dist-info/WHEEL")), None
    )
    if head is None:
        raise ToolError(
            f"{distribution.metadata['Name']} was not installed by pip, so it cannot be packed",
            fix="make setup",
        )
    tags = [
        line.split(": ", 1)[1]
        for line in (distribution.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag: ")
    ]
    skipped = {f"{head}/{name}" for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")}
    content = (
        (name, path.read_bytes()) for name, path in record if name not in skipped and path.is_file()
    )
    return _write(out / f"{head.removesuffix('.dist-info')}-{_joined(tags)}.whl", head, content)


def _joined(tags: list[str]) -> str:
    """Tags of one wheel as its file name spells them: py2.py3-none-any."""
    parts = [
        list(dict.fromkeys(column))
        for column in zip(*(tag.split("-") for tag in tags), strict=True)
    ]
    return "-".join(".".join(part) for part in parts)


def _pack_ours(package: Path, out: Path) -> Path:
    from so8t import __version__

    head = f"so8t-{__version__}.dist-info"
    return _write(
        out / f"so8t-{__version__}-py3-none-any.whl", head, _ours(package, head, __version__)
    )


def _ours(package: Path, head: str, version: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(package.rglob("*.py")):
        yield f"so8t/{path.relative_to(package).as_posix()}", path.read_bytes()
    yield f"{head}/METADATA", f"Metadata-Version: 2.1\nName: so8t\nVersion: {version}\n".encode()
    yield (
        f"{head}/WHEEL",
        b"Wheel-Version: 1.0\nGenerator: so8t bundle\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    )
    yield f"{head}/entry_points.txt", b"[console_scripts]\nso8t = so8t.cli:main\n"


def _write(path: Path, head: str, content: Iterator[tuple[str, bytes]]) -> Path:
    lines = []
    with zipfile.ZipFile(
        path, "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as out:  # 240 MB of libraries: seconds instead of a minute
        for name, data in content:
            out.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED, 1)
            lines.append(
                f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
            )
        out.writestr(
            zipfile.ZipInfo(f"{head}/RECORD", EPOCH),
            "".join([*lines, f"{head}/RECORD,,\n"]),
            zipfile.ZIP_DEFLATED,
        )
    return path
