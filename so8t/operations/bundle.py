"""`so8t bundle REV OUT`: one folder with what another machine needs to serve one revision.

Nothing else is needed there: no git, no DVC, no network. The folder holds the release as it was
committed (re-hashed while it is copied), its signature and public key, SHA256SUMS, a verifier that
needs only Python, a README,
and with `--wheels` the packages that `so8t ask` imports.

The wheels are packed from the packages that are installed here, so they hold the very files that
were tested, and no index and no compiler is needed. A wheel is a zip of the files that a package's
RECORD lists, with a RECORD of its own.

Covered: packages that pip installed into site-packages. Not covered: files outside it (man pages,
headers), which are left out. Console scripts are made again by pip.
"""

import base64
import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from so8t import __version__
from so8t.errors import ArtifactError, ToolError
from so8t.files import atomic_dir, files_below, sha256_file, write_text
from so8t.operations.git import bytes_at, commit_of
from so8t.operations.rollback import RELEASE
from so8t.operations.store import export, out_at
from so8t.released import Release, open_release
from so8t.signature import PUBLIC_KEY, SIGNATURE

SUMS = "SHA256SUMS"
VERIFIER = "verify.py"
# What `so8t ask` imports.
SERVING = (
    "click",
    "cryptography",
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
)
# Required by packages above, but never imported when the model is asked; torch alone is gigabytes.
NOT_SERVED = {"fastapi", "uvicorn", "torch", "transformers"}
# The earliest time that a zip can hold. A fixed one gives the same wheel from the same files.
EPOCH = (1980, 1, 1, 0, 0, 0)
# A backslash ends a line of the source, not of the README.
_README = """# {name}, {file}

Made from commit {commit} by `so8t bundle`.

```sh
python verify.py                                  \
# the signature and every byte; needs Python alone. Compare the key with the one you were told
python -m venv .venv                              \
# once; then activate it: . .venv/bin/activate   (Windows: .venv\\Scripts\\activate)
python -m pip install --no-index --no-deps wheels/*.whl
so8t ask --release release "承認番号A-1024、責任者の確認済みです。要点をまとめてください。"
```

On Windows without a shell that expands `*`: \
`for %w in (wheels\\*.whl) do python -m pip install --no-index --no-deps %w`.
Signed with key {key}.
Ollama: `ollama create {name} -f release/Modelfile`. \
Card: {status}. Plain llama.cpp: `release/llama_cpp.md`.
"""


def make(
    revision: str,
    out: Path,
    root: Path = Path(),
    *,
    with_wheels: bool = False,
    allow_unsigned: bool = False,
) -> str:
    """Write the bundle.

    Args:
        revision: branch, tag, commit or registered version.
        out: the folder, which must not exist.
        root: the project's folder.
        with_wheels: also pack the packages that asking needs.
        allow_unsigned: hand over a release that nobody signed.

    Returns:
        One line on what it holds, with a warning before it where nobody signed.

    Raises:
        ArtifactError: OUT is there already, the revision was not built, is not in the cache, or its
            release is not signed or not of one piece.
        ToolError: a package that asking needs cannot be packed.
    """
    commit = commit_of(revision, root)
    if out.exists():
        raise ArtifactError(
            "it is there already",
            where=str(out),
            fix="choose another folder; nothing is overwritten",
        )
    wheels = 0
    with atomic_dir(out) as folder:
        for name, held in export(out_at(commit, RELEASE, root), root):
            target = folder / "release" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(held, target)
        for name in ("LICENSE", "params.yaml", "dvc.lock", SIGNATURE, PUBLIC_KEY):
            content = bytes_at(commit, name, root)
            if content is not None:
                (folder / name).write_bytes(content)
        # First of all: a release of mixed parts must not be handed over.
        opened = open_release(folder / "release", allow_unsigned=allow_unsigned)
        # Of this version and not of the revision, which may have none.
        shutil.copyfile(Path(__file__).with_name("verifier.py"), folder / VERIFIER)
        if with_wheels:
            wheels = collect(folder / "wheels", Path(__file__).parents[1])
        write_text(folder / "README.md", _readme(opened, commit))
        write_sums(folder)
    return f"{opened.said}; {wheels} wheels" if wheels else opened.said


def _readme(opened: Release, commit: str) -> str:
    """README.md of the bundle."""
    return _README.format(
        name=opened.manifest.name,
        file=opened.manifest.file,
        commit=commit,
        status=opened.card.status,
        key=opened.signed_by or "none: nobody vouches for this release",
    )


def write_sums(folder: Path) -> int:
    """Write SHA256SUMS over every other file, in the form of `sha256sum`.

    Returns:
        How many files it lists.
    """
    files = [path for path in files_below(folder) if path.name != SUMS]
    lines = []
    for path in files:
        # Two spaces, as `sha256sum -c` wants them.
        lines.append(f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n")
    write_text(folder / SUMS, "".join(lines))
    return len(files)


def collect(out: Path, package: Path) -> int:
    """Write a wheel of so8t and of every package that asking needs; return how many.

    Args:
        out: folder of the wheels; must not exist.
        package: the source folder of so8t.
    """
    out.mkdir(parents=True)
    names = closure()
    for name in names:
        _pack_installed(_distribution(name), out)
    _pack_so8t(package, out)
    return len(names) + 1


def closure(names: tuple[str, ...] = SERVING) -> list[str]:
    """These packages and all that they require here.

    Args:
        names: as pip calls them.

    Returns:
        Their canonical names, sorted.

    Raises:
        ToolError: one is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    todo = [canonicalize_name(name) for name in names]
    while todo:
        name = todo.pop()
        if name in found or name in NOT_SERVED:
            continue
        found.add(name)
        for line in _distribution(name).requires or []:
            need = Requirement(line)
            # No extras: a requirement of one has a marker that is false without it.
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(need.name))
    return sorted(found)


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ToolError(
            f"{name} is not installed here, so it cannot be packed", fix="make setup"
        ) from None


def _pack_installed(distribution: metadata.Distribution, out: Path) -> None:
    """Write one wheel from one installed package."""
    files = _installed_files(distribution)
    head = _head(distribution, files)
    # pip writes these when it installs: they describe this installation, not the package.
    skipped = {f"{head}/{name}" for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")}
    # A generator: all files of a large package at once would fill the memory.
    content = (
        (name, path.read_bytes())
        for name, path in files.items()
        if name not in skipped and path.is_file()
    )
    wheel = f"{head.removesuffix('.dist-info')}-{_joined(_tags(distribution))}.whl"
    _write_wheel(out / wheel, head, content)


def _installed_files(distribution: metadata.Distribution) -> dict[str, Path]:
    """Files of a package below site-packages, by their name inside its wheel."""
    files = {}
    for item in distribution.files or []:
        outside = str(item).startswith("..")
        # Byte code is made again on the other machine.
        if not outside and "__pycache__" not in item.parts:
            files[str(item)] = Path(str(item.locate()))
    return files


def _head(distribution: metadata.Distribution, files: dict[str, Path]) -> str:
    """The folder of the package's metadata, `NAME-VERSION.dist-info`.

    Raises:
        ToolError: there is none, as for a package that pip did not install.
    """
    for name in files:
        if name.endswith(".dist-info/WHEEL"):
            return name.split("/")[0]
    raise ToolError(
        f"{distribution.metadata['Name']} was not installed by pip, so it cannot be packed",
        fix="make setup",
    )


def _tags(distribution: metadata.Distribution) -> list[str]:
    """Compatibility tags that the installed wheel had, such as `py3-none-any`."""
    text = distribution.read_text("WHEEL") or ""
    prefix = "Tag: "
    return [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]


def _joined(tags: list[str]) -> str:
    """Tags of one wheel as its file name spells them: py2.py3-none-any."""
    columns = zip(*(tag.split("-") for tag in tags), strict=True)
    # dict.fromkeys: each value once, in the order it came.
    return "-".join(".".join(dict.fromkeys(column)) for column in columns)


def _pack_so8t(package: Path, out: Path) -> None:
    """Write the wheel of so8t itself, which may be installed from its sources."""
    head = f"so8t-{__version__}.dist-info"
    _write_wheel(
        out / f"so8t-{__version__}-py3-none-any.whl", head, _content_of_so8t(package, head)
    )


def _content_of_so8t(package: Path, head: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file of our wheel but RECORD."""
    # Sorted, so that the same sources give the same wheel.
    for path in files_below(package):
        if path.suffix == ".py":
            yield f"so8t/{path.relative_to(package).as_posix()}", path.read_bytes()
    described = f"Metadata-Version: 2.1\nName: so8t\nVersion: {__version__}\n"
    yield f"{head}/METADATA", described.encode()
    wheel = (
        b"Wheel-Version: 1.0\nGenerator: so8t bundle\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    yield f"{head}/WHEEL", wheel
    yield f"{head}/entry_points.txt", b"[console_scripts]\nso8t = so8t.cli:main\n"


def _write_wheel(path: Path, head: str, content: Iterator[tuple[str, bytes]]) -> None:
    """Write a wheel: the files and their RECORD.

    Args:
        path: of the wheel.
        head: folder of the metadata inside it, `NAME-VERSION.dist-info`.
        content: (name, bytes) of every file but RECORD.
    """
    record = []
    # Level 1: with 240 MB of libraries it takes seconds instead of a minute.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for name, data in content:
            wheel.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED, 1)
            record.append(f"{name},sha256={_record_digest(data)},{len(data)}\n")
        # RECORD lists itself without a digest, which it cannot hold.
        record.append(f"{head}/RECORD,,\n")
        info = zipfile.ZipInfo(f"{head}/RECORD", EPOCH)
        wheel.writestr(info, "".join(record), zipfile.ZIP_DEFLATED)


def _record_digest(data: bytes) -> str:
    """SHA-256 as RECORD spells it: URL-safe base64 without padding (PEP 427)."""
    digest = hashlib.sha256(data).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
