"""A small repository that looks built: params.yaml, data, a base model, GGUF files, card, release, lock and cache; made in a second."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from so8t import card as cards
from so8t.familiarity import write_index
from so8t.identity import SEAL, seal
from so8t.manifest import FAMILIARITY, Manifest, Texts, write_manifest
from so8t.operations.store import md5_file, object_path
from so8t.params import load
from tests.fakes.cards import LOOSE_INDEX, make_card
from tests.fakes.released import sign, write_inside
from tests.fakes.tiny_gguf import write_tiny

ROOT = Path(__file__).parents[2]
STEM = "b-Q4_K_M"
CONFIG = """[core]
    analytics = false
    remote = store
[cache]
    type = "hardlink,symlink,copy"
['remote "store"']
    url = ../../store
    verify = true
"""


def run(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def edit_params(folder: Path, **changes: Any) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    held = yaml.load(folder / "params.yaml")
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        section = held
        for parent in parents:
            section = section[parent]
        section[last] = value
    yaml.dump(held, folder / "params.yaml")


def sealed_tiny(path: Path, seed: int = 0) -> Path:
    """A tiny GGUF with a seal of its own."""
    import gguf

    plain = write_tiny(path.with_suffix(".plain"), seed=seed)
    reader = gguf.GGUFReader(plain)
    writer = gguf.GGUFWriter(path, "phi3")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, sub = field.types[0], field.types[-1]
        writer.add_key_value(
            field.name, field.contents(), kind, sub if kind == gguf.GGUFValueType.ARRAY else None
        )
    writer.add_string(SEAL, "0" * 64)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    plain.unlink()
    seal(path)
    return path


def build(folder: Path, seed: int = 0, *, card: cards.Card | None = None) -> None:
    """Write what a run leaves, of a model with this seed."""
    params = load(folder / "params.yaml")
    for name in (
        "models/gguf",
        "models/calibration",
        "models/release",
        "models/base",
        "data/prepared",
    ):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    rows = [
        {
            "id": f"{v}{n}",
            "text": f"{v}{n}",
            "verdict": v,
            "group": f"{v}{n}",
            "source": "so8t",
            "license": "CC0-1.0",
        }
        for v in ("ALLOW", "ESCALATE", "DENY")
        for n in range(3)
    ]
    (folder / "data/prepared/train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (folder / "models/base/config.json").write_text(
        '{"model_type": "phi3", "num_hidden_layers": 2}', encoding="utf-8"
    )
    _safetensors(folder / "models/base/model.safetensors")
    file = sealed_tiny(folder / f"models/gguf/{STEM}.gguf", seed)
    shutil.copyfile(file, folder / "models/gguf/a-Q4_K_M.gguf")
    held = card or make_card(file, params.data.system)
    cards.write(folder / f"models/calibration/{STEM}.json", held)
    write_index(folder / f"models/calibration/{STEM}.familiarity.json", LOOSE_INDEX)
    release(folder, file, held)
    remember(folder)


def _safetensors(path: Path) -> None:
    head = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 8)


def release(folder: Path, file: Path, card: cards.Card) -> None:
    params = load(folder / "params.yaml")
    out = folder / "models/release"
    out.mkdir(parents=True, exist_ok=True)
    write_inside(file, card, out / file.name)
    cards.write(out / "card.json", card)
    write_index(out / FAMILIARITY, LOOSE_INDEX)
    (out / "Modelfile").write_text(
        f"FROM ./{file.name}\n# {card.semantic_digest}\n", encoding="utf-8"
    )
    replies = Texts(escalate=params.release.replies.escalate, deny=params.release.replies.deny)
    write_manifest(
        out,
        Manifest(
            schema="so8t.release/1",
            model="b",
            type="Q4_K_M",
            file=file.name,
            name="so8t-retrained",
            system=params.data.system,
            format="heading",
            semantic_digest=card.semantic_digest,
            template_sha256=card.template_sha256,
            think_tokens=4,
            answer_tokens=4,
            replies=replies,
        ),
    )
    sign(out)


def remember(folder: Path) -> None:
    """What DVC would do: objects in the cache, digests in dvc.lock."""
    from ruamel.yaml import YAML

    outs = [
        {
            "path": f"models/gguf/{STEM}.gguf",
            "hash": "md5",
            "md5": _keep(folder, folder / f"models/gguf/{STEM}.gguf"),
        },
        {
            "path": "models/release",
            "hash": "md5",
            "md5": _keep_dir(folder, folder / "models/release"),
        },
        {
            "path": "data/prepared",
            "hash": "md5",
            "md5": _keep_dir(folder, folder / "data/prepared"),
        },
    ]
    lock = {
        "schema": "2.0",
        "stages": {
            f"made{n}": {"cmd": "true", "outs": [out | {"size": 1}]} for n, out in enumerate(outs)
        },
    }
    YAML().dump(lock, folder / "dvc.lock")


def _keep(folder: Path, path: Path) -> str:
    digest = md5_file(path)
    held = object_path(digest, folder)
    held.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, held)
    return digest


def _keep_dir(folder: Path, path: Path) -> str:
    import hashlib

    files = sorted(p for p in path.rglob("*") if p.is_file())
    items = [{"md5": _keep(folder, p), "relpath": p.relative_to(path).as_posix()} for p in files]
    text = json.dumps(items).encode()
    digest = hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    held = object_path(digest, folder)
    held.parent.mkdir(parents=True, exist_ok=True)
    held.write_bytes(text)
    return digest


def make_monorepo(repository: Path) -> Path:
    """The same project as a subdirectory of a repository with another project; returns its folder."""
    (repository / "other").mkdir(parents=True)
    (repository / "other/notes.txt").write_text("beside it\n", encoding="utf-8")
    # Of the same names as ours: whoever asks git from the top would get these.
    for name in ("dvc.lock", "params.yaml"):
        (repository / name).write_text("not: ours\n", encoding="utf-8")
    (repository / "reports").mkdir()
    (repository / "reports/foreign.md").write_text("not ours\n", encoding="utf-8")
    return make_clone(repository / "apps/so8t", top=repository)


def make_clone(folder: Path, *, top: Path | None = None) -> Path:
    """A repository with everything in place; `doctor --stage ask` finds nothing wrong.

    Args:
        folder: of the project.
        top: of its repository, where that is another one.
    """
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text(CONFIG, encoding="utf-8")
    (folder / ".gitignore").write_text(
        "/data/\n/models/\n/database/\n/.dvc/cache/\n/.dvc/tmp/\n", encoding="utf-8"
    )
    (folder / "dvc.yaml").write_text(
        "stages:\n  made0: {cmd: 'true', outs: [models/gguf/b-Q4_K_M.gguf]}\n  made1: {cmd: 'true', outs: [models/release]}\n"
        "  made2: {cmd: 'true', outs: [data/prepared]}\n"
        "artifacts:\n  so8t: {path: models/release, type: model}\n",
        encoding="utf-8",
    )
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    edit_params(folder, scoring__types=["Q4_K_M"])
    (folder.parent / "store").mkdir(exist_ok=True)
    (folder / "reports").mkdir(exist_ok=True)
    (folder / "reports/report.json").write_text('{"conclusion": "well"}', encoding="utf-8")
    # Bytes that are no text, and Windows' line ends: what is copied must stay as it is.
    (folder / "reports/curve.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    build(folder)
    for command in (
        ("git", "init", "-q", "-b", "main"),
        ("git", "config", "user.email", "t@example.invalid"),
        ("git", "config", "user.name", "tester"),
        ("git", "add", "-A"),
        ("git", "commit", "-qm", "one"),
    ):
        run(top or folder, *command)
    return folder
