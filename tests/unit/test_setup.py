"""What setting up rests on, without a network: Dockerfile, extras, the commands that the pages tell people to type, both languages in step."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from so8t.cli import COMMANDS
from so8t.operations.setup import init

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = (
    "README.md",
    "README.ja.md",
    "docs/setup.md",
    "docs/setup.ja.md",
    "docs/reliability.md",
    "docs/troubleshooting.md",
)
PAIRS = (("README.md", "README.ja.md"), ("docs/setup.md", "docs/setup.ja.md"))
TARGETS = set(
    re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if "==" in line)
    }


def dockerfile() -> list[list[str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def test_every_path_that_the_dockerfile_copies_exists() -> None:
    copies = [
        [w for w in line[1:] if not w.startswith("--")]
        for line in dockerfile()
        if line[0] == "COPY"
    ]
    assert len(copies) >= 3
    for *sources, _target in copies:
        for source in sources:
            assert (ROOT / source).exists(), source
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".venv", ".dvc/cache"} <= set(
        ignored
    )  # the host's environment must not cover the image's
    assert ".git" not in ignored  # DVC needs it


def test_the_dockerfile_installs_the_locked_versions_and_ends_as_an_ordinary_user() -> None:
    lines = dockerfile()
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    version = re.match(r"python:(\d+)\.(\d+)\.\d+-", lines[0][1])
    assert version, "Python is not pinned"
    assert (3, 11) <= (int(version[1]), int(version[2])) <= (3, 13)
    for name, wanted in re.findall(r"([a-z-]+)==([\w.]+)", text):
        assert pinned()[name] == wanted, name
    assert "-c constraints.txt" in text
    assert [line[1] for line in lines if line[0] == "USER"][-1] != "root"
    assert lines[-1][:2] == ["CMD", "[so8t,"]


def test_every_extra_is_pinned_and_every_extra_that_a_page_names_exists() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) >= {"s3", "ssh", "documents", "data"}
    for name, packages in extras.items():
        for package in packages:
            need = Requirement(package)
            assert need.specifier.contains(pinned()[canonicalize_name(need.name)]), (
                f"{name}: {package}"
            )
    for page in PAGES:
        for named in re.findall(
            r"(?:so8t|\.)\[([a-z0-9,]+)\]", (ROOT / page).read_text(encoding="utf-8")
        ):
            assert set(named.split(",")) <= set(extras), (page, named)


def test_every_dependency_is_pinned_within_its_range() -> None:
    for line in (*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]):
        need = Requirement(line)
        assert need.specifier.contains(pinned()[canonicalize_name(need.name)]), line


def commands(page: str) -> list[str]:
    """Command lines of the fenced blocks and of the back-ticked words of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|powershell)\n(.*?)```", text, re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line] + re.findall(
        r"`((?:make|so8t|python) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists(page: str) -> None:
    found = commands(page)
    for line in found:
        words = line.replace("&&", ";").split()
        if words[0] == "make":
            assert words[1].rstrip(";,") in TARGETS or "=" in words[1], line
        elif words[0] == "so8t":
            assert words[1] in COMMANDS, line
        elif words[0] == "python" and words[1].endswith(".py") and words[1] != "verify.py":
            assert (ROOT / words[1]).is_file(), line


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
def test_both_languages_have_the_same_sections_blocks_tables_and_figures(
    pair: tuple[str, str],
) -> None:
    shapes = []
    for page in pair:
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
        plain = [
            (kind, [line.split("#")[0].rstrip() for line in body.splitlines()])
            for kind, body in blocks
        ]  # comments are translated
        outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        shapes.append(
            {
                "headings": re.findall(r"^(#+) ", outside, re.MULTILINE),
                "blocks": plain,
                "tables": len(re.findall(r"^\|[-|: ]+\|$", outside, re.MULTILINE)),
                "rows": len(re.findall(r"^\| ", outside, re.MULTILINE)),
            }
        )
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_the_readme_stays_short(page: str) -> None:
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) < 200


# --- so8t init ---


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone before `so8t init`, with a home of its own."""
    folder = tmp_path / "clone"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copyfile(ROOT / ".dvc/config", folder / ".dvc/config")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    monkeypatch.setenv("SO8T_KEY", str(tmp_path / "home/signing.key"))
    monkeypatch.chdir(folder)
    return folder


def test_init_makes_keys_without_a_word_and_init_again_changes_nothing(
    bare: Path, tmp_path: Path
) -> None:
    first = CliRunner().invoke(init)
    assert first.exit_code == 0, first.exception
    assert first.output.startswith("this clone is ready: dvc")
    assert first.output.count("\n") == 1
    made = (tmp_path / "home/signing.key").read_bytes(), (bare / "release.pub").read_bytes()
    assert CliRunner().invoke(init).output == first.output
    assert (
        (tmp_path / "home/signing.key").read_bytes(),
        (bare / "release.pub").read_bytes(),
    ) == made


def test_init_in_a_clone_with_a_key_of_others_says_so_and_leaves_it(
    bare: Path, tmp_path: Path
) -> None:
    CliRunner().invoke(init)
    theirs = (bare / "release.pub").read_bytes()
    (tmp_path / "home/signing.key").unlink()
    done = CliRunner().invoke(init)
    assert done.exit_code == 0
    assert "release.pub is of another key" in done.output
    assert (bare / "release.pub").read_bytes() == theirs


def test_git_keeps_public_key_and_signature_and_no_image_holds_a_private_one() -> None:
    for name in ("release.pub", "release.sig"):
        ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
        assert ignored.returncode == 1, name
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "SO8T_KEY=/tmp/build.key" in text
    assert "rm /tmp/build.key" in text
