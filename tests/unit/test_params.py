"""params.yaml is checked whole, as YAML 1.2, and every mistake is named."""

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from so8t.errors import ParamsError
from so8t.params import Params, load, read_yaml, refuse_hidden_changes
from so8t.params.profiles import keys_set_by, value_at

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "params.yaml"


def edited(tmp_path: Path, *changes: tuple[str, object]) -> Path:
    params = YAML(typ="safe", pure=True).load(SHIPPED)
    for key, value in changes:
        section = params
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
    path = tmp_path / "params.yaml"
    YAML().dump(params, path)
    return path


@pytest.mark.parametrize("profile", sorted(read_yaml(SHIPPED)["profiles"]))
def test_every_shipped_profile_loads(tmp_path: Path, profile: str) -> None:
    assert load(edited(tmp_path, ("profile", profile))).active.train.batch_size >= 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pet.lamda", 0.1),
        ("calibration.alpha", 0.0),
        ("calibration.alpha", "five"),
        ("profile", "laptop"),
        ("seed", 1.5),
        ("data.sources", []),
        ("data.split.train", 0.9),
        ("release.type", "Q6_K"),
        ("profiles.demo.base", {"kind": "local"}),
        ("profiles.demo.scratch", {"hidden_size": 100}),
        ("profiles.h200.train", {"lora_rank": 8}),  # a slip in a profile that is not active
    ],
)
def test_a_wrong_or_unknown_key_is_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ParamsError) as caught:
        load(edited(tmp_path, (key, value)))
    assert caught.value.exit_code == 3
    assert key.split(".", 1)[0] in str(caught.value)


def test_a_missing_key_is_an_error_because_no_value_lives_in_code(tmp_path: Path) -> None:
    params = YAML(typ="safe", pure=True).load(SHIPPED)
    del params["pet"]["lambda"]
    YAML().dump(params, tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match=r"pet\.lambda"):
        load(tmp_path / "params.yaml")


def test_all_mistakes_come_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        load(edited(tmp_path, ("pet.lambda", -1), ("calibration.delta", 2)))
    assert "pet.lambda" in str(caught.value)
    assert "calibration.delta" in str(caught.value)


def test_numbers_that_dvc_writes_stay_numbers(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8").replace("  lambda: 0.05", "  lambda: 1e-05")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "params.yaml").pet.weight == pytest.approx(1e-5)


def test_no_other_module_reads_yaml() -> None:
    imports = re.compile(r"^\s*(?:import|from) (?:yaml|ruamel)\b", re.MULTILINE)
    readers = [
        p for p in (ROOT / "so8t").rglob("*.py") if imports.search(p.read_text(encoding="utf-8"))
    ]
    assert [p.relative_to(ROOT).as_posix() for p in readers] == ["so8t/params/__init__.py"]


def test_no_value_has_a_default_in_code() -> None:
    todo, seen = [Params], set()
    while todo:
        model = todo.pop()
        for name, info in model.model_fields.items():
            assert info.is_required(), f"{model.__name__}.{name}"
            for inner in [info.annotation, *getattr(info.annotation, "__args__", ())]:
                if isinstance(inner, type) and hasattr(inner, "model_fields") and inner not in seen:
                    seen.add(inner)
                    todo.append(inner)


def test_real_profiles_register_under_the_founding_names() -> None:
    found = {}
    for name in load(SHIPPED).profiles:
        names = load(SHIPPED, profile=name).names
        found[name] = (names.a, names.b)
    assert found.pop("demo") == ("so8t-base", "so8t-retrained")
    assert set(found.values()) == {("borea-phi35-so8t-base", "borea-phi35-so8t-retrained")}


def test_a_profile_says_only_what_differs() -> None:
    raw = read_yaml(SHIPPED)
    for name, differences in raw["profiles"].items():
        for key in keys_set_by(differences):
            assert value_at(differences, key) != value_at(raw, key), f"{name}: {key}"


def test_what_a_profile_leaves_out_is_the_value_above(tmp_path: Path) -> None:
    path = edited(tmp_path, ("profile", "rtx3060"), ("train.keep", 7))
    params = load(path)
    assert params.train.keep == 7
    assert params.train.lora_r == 32
    assert params.scratch is None


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    path = edited(tmp_path, ("profile", "rtx3060"))
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "params.yaml"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qm", "x"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    return path


def change(path: Path, key: str, value: object) -> None:
    raw = read_yaml(path)
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        section = section[parent]
    section[last] = value
    YAML().dump(raw, path)


def test_a_change_that_the_profile_hides_is_an_error_that_says_what_to_type(committed) -> None:
    change(committed, "train.lr", 1e-4)
    with pytest.raises(ParamsError, match=r"train\.lr") as caught:
        refuse_hidden_changes(committed)
    assert "-S profiles.rtx3060.train.lr=" in caught.value.fix


@pytest.mark.parametrize("key", ["train.keep", "profiles.rtx3060.train.lr", "pet.lambda"])
def test_a_change_that_takes_effect_is_none(committed, key: str) -> None:
    change(committed, key, 3)
    refuse_hidden_changes(committed)


def test_without_git_nothing_is_hidden(tmp_path: Path) -> None:
    refuse_hidden_changes(edited(tmp_path, ("profile", "rtx3060"), ("train.lr", 0.5)))


def damaged(tmp_path: Path, old: str, new: bytes) -> Path:
    text = (ROOT / "params.yaml").read_bytes()
    assert old.encode() in text
    (tmp_path / "params.yaml").write_bytes(text.replace(old.encode(), new, 1))
    return tmp_path / "params.yaml"


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("seed: 42 # 種".encode("cp932"), "iconv -f CP932"),
        (b"seed: 1e999", "seed: Input should be a finite number"),
        (b"seed: .nan", "seed: Input should be a finite number"),
        (b"seed: " + b"9" * 5000, "params.yaml"),
        (b"seed: 2020-99-99", "month must be"),
        (b"<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> side", "conflict"),
        (b"seed: " + b"[" * 300, "not valid YAML"),
        (b"\x00", "not valid YAML"),
        (b"- a", "not valid YAML"),
    ],
)
def test_a_damaged_file_is_an_error_with_its_reason(tmp_path: Path, new: bytes, says: str) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("seed:"))
    with pytest.raises(ParamsError, match=re.escape(says)) as caught:
        load(damaged(tmp_path, line, new))
    assert caught.value.fix


@pytest.mark.parametrize("new", [b"profile: []", b"profile: {a: 1}", b"profile: 3", b"profile:"])
def test_a_profile_that_is_no_name_is_refused(tmp_path: Path, new: bytes) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("profile:"))
    with pytest.raises(ParamsError, match="is not one of"):
        load(damaged(tmp_path, line, new))
