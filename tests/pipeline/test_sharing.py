"""What a team does with a built project: a second clone pulls and serves, versions are rolled back, damage is found."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from so8t import manifest
from tests.pipeline.conftest import Run, reduce_params, runner

pytestmark = pytest.mark.pipeline
ASKED = "時刻表を要約してください。"
RELEASE_PATH = (
    "train",
    "bake",
    "convert@b",
    "imatrix@b",
    "quantize@b-Q4_K_M",
    "score@b-Q4_K_M",
    "calibrate@b-Q4_K_M",
    "release",
)


@pytest.fixture(scope="module")
def shared(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built project as its own repository, with a remote folder beside it that holds every object."""
    folder = tmp_path_factory.mktemp("team") / "first"
    shutil.copytree(project, folder, symlinks=True)
    run = runner(folder)
    run("git", "checkout", "-q", "--", ".")
    shutil.rmtree(folder / "models")  # copies; DVC links
    run("dvc", "checkout", "-q", "--force")
    run("so8t", "init")
    run("dvc", "push", "-q")
    return folder


def second_clone(shared: Path, where: Path) -> tuple[Path, Run]:
    subprocess.run(["git", "clone", "-q", str(shared), str(where)], check=True)
    return where, runner(where)


def test_a_second_clone_pulls_and_serves_and_no_stage_runs(shared: Path, tmp_path: Path) -> None:
    folder, run = second_clone(shared, tmp_path / "elsewhere/second")
    run("dvc", "remote", "modify", "store", "url", str(shared.parent / "so8t-store"))
    run("dvc", "pull", "-q")
    assert "Running stage" not in run("dvc", "repro", "--dry").stdout
    assert run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert (
        run("so8t", "gate", check=False).returncode
        == runner(shared)("so8t", "gate", check=False).returncode
    )
    assert json.loads(run("so8t", "ask", "--json", ASKED).stdout) == json.loads(
        runner(shared)("so8t", "ask", "--json", ASKED).stdout
    )
    assert manifest.digests(folder / "models/release") == manifest.digests(
        shared / "models/release"
    )
    assert not (
        folder / "database/progress"
    ).exists()  # where every stage that runs leaves its first line


@pytest.mark.nightly
def test_three_trained_versions_are_rolled_back_to_identical_digests(
    shared: Path, tmp_path: Path
) -> None:
    folder, run = second_clone(shared, tmp_path / "third")
    run("dvc", "remote", "modify", "--local", "store", "url", str(shared.parent / "so8t-store"))
    run("git", "config", "user.email", "test@example.invalid")
    run("git", "config", "user.name", "test")
    run("dvc", "pull", "-q")
    run("git", "tag", "one")
    made = {"one": manifest.digests(folder / "models/release")}
    for name, weight in (("two", 0.08), ("three", 0.0)):
        reduce_params(folder / "params.yaml", {"pet.lambda": weight})
        run("dvc", "repro", "-q", "-s", *RELEASE_PATH)
        run("git", "commit", "-qam", name)
        run("git", "tag", name)
        made[name] = manifest.digests(folder / "models/release")
    assert len({str(v) for v in made.values()}) == 3
    for name in ("one", "three", "two"):
        run("so8t", "rollback", name)
        assert manifest.digests(folder / "models/release") == made[name]
    foreign = json.dumps(
        json.loads((shared / "models/release/card.json").read_text(encoding="utf-8"))
    )
    card = folder / "models/release/card.json"
    card.unlink()
    card.write_text(foreign, encoding="utf-8")
    refused = run("so8t", "ask", ASKED, check=False)
    assert refused.returncode == 5
    assert "card" in refused.stderr
    assert (
        run("so8t", "rollback", "one", check=False).returncode == 5
    )  # it would throw the edited card away
