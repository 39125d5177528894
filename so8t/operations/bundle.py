"""`so8t bundle REV OUT`: what another machine needs to serve one revision, with nothing else there: no git, no DVC, no network.

The folder holds the release as it was committed (re-hashed while it is copied), SHA256SUMS, a verifier that needs only
Python, a README, and with `--wheels` the packages that `so8t ask` imports.
"""

import shutil
from pathlib import Path

from so8t.errors import ArtifactError
from so8t.files import atomic_dir, sha256_file, write_text
from so8t.operations import release, wheels
from so8t.operations.git import commit_of, file_at
from so8t.operations.rollback import RELEASE
from so8t.operations.store import export, out_at

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
        raise ArtifactError("it is there already", where=str(out), fix="choose another folder; nothing is overwritten")
    with atomic_dir(out) as folder:
        for name, held in export(out_at(commit, RELEASE, root), root):
            (folder / "release" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(held, folder / "release" / name)
        said = release.check(folder / "release")
        for name in ("LICENSE", "params.yaml", "dvc.lock"):
            if (text := file_at(commit, name, root)) is not None:
                write_text(folder / name, text)
        shutil.copyfile(Path(__file__).with_name("verifier.py"), folder / VERIFIER)
        count = wheels.collect(folder / "wheels", Path(__file__).parents[1]) if with_wheels else 0
        write_text(folder / "README.md", _readme(folder, commit))
        write_sums(folder)
    return f"{said}; {count} wheels" if count else said


def _readme(folder: Path, commit: str) -> str:
    from so8t.calibration import card as cards
    from so8t.release.manifest import CARD, read_manifest

    manifest = read_manifest(folder / "release")
    return _README.format(name=manifest.name, file=manifest.file, commit=commit, served=manifest.name, status=cards.read(folder / "release" / CARD).status)


def write_sums(folder: Path) -> int:
    """Write SHA256SUMS over every other file, in the form of `sha256sum`; return how many."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    write_text(folder / SUMS, "".join(f"{sha256_file(p)}  {p.relative_to(folder).as_posix()}\n" for p in files))
    return len(files)
