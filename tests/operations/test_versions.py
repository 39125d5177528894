"""Rollback, registered versions, fsck, gc, bundle and evidence on a small repository, with the real git and DVC."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t import manifest
from so8t.errors import ArtifactError, ParamsError, ToolError
from so8t.operations import bundle, evidence, fsck, rollback, store, sweep
from so8t.operations.ablation import clean_for_queue
from so8t.operations.git import changed_files
from so8t.operations.store import lock_here, object_path, out_at
from so8t.params import refuse_hidden_changes
from tests.fakes.clone import (
    STEM,
    build,
    edit_params,
    make_clone,
    make_monorepo,
    remember,
    run,
    sealed_tiny,
)
from tests.fakes.released import FAULTS, IDS, another_key_under_our_name, forge

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["alone", "monorepo"])
def history(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Three committed versions of different models, two of them registered; the project's folder.

    The project is a repository of its own, or a subdirectory of one.
    """
    top = tmp_path_factory.mktemp("versions") / "clone"
    folder = make_clone(top) if request.param == "alone" else make_monorepo(top)
    run(folder, "git", "tag", "v-one")
    for seed, name in ((1, "v-two"), (2, "v-three")):
        edit_params(folder, seed=100 + seed)
        build(folder, seed)
        run(folder, "git", "commit", "-qam", name)
        run(folder, "git", "tag", name)
    # As GTO names them in a subdirectory.
    own = "" if request.param == "alone" else "apps/so8t="
    run(folder, "git", "tag", "-a", f"{own}so8t@v1.0.0", "-m", "first", "v-one")
    run(folder, "git", "tag", "-a", f"{own}so8t@v1.1.0", "-m", "second", "v-three")
    run(folder, "git", "tag", "-a", f"{own}so8t#prod#1", "-m", "serve", "v-one")
    run(folder, "git", "tag", "-a", f"{own}so8t#prod#2", "-m", "serve the new one", "v-three")
    run(folder, "git", "tag", "-a", f"{own}so8t@v9.0.0", "-m", "mistake", "v-two")
    run(folder, "git", "tag", "-a", f"{own}so8t@v9.0.0!", "-m", "taken back", "v-two")
    return folder


@pytest.fixture
def clone(history: Path, tmp_path: Path) -> Path:
    """The history, copied, at its newest version; the project's folder."""
    top = next(folder for folder in (history, *history.parents) if (folder / ".git").exists())
    shutil.copytree(top, tmp_path / "clone", symlinks=True)
    folder = tmp_path / "clone" / history.relative_to(top)
    (folder.parent / "store").mkdir(exist_ok=True)
    return folder


def test_rollback_restores_file_card_and_modelfile_of_each_version(clone: Path) -> None:
    seen = {}
    for name in ("v-one", "v-two", "v-three"):
        rollback.go_to(rollback.plan(name, clone), clone)
        seen[name] = manifest.digests(clone / "models/release")
    assert len({json.dumps(v) for v in seen.values()}) == 3
    for name in ("v-two", "so8t@v1.0.0", "v-three"):
        rollback.go_to(rollback.plan(name, clone), clone)
        assert manifest.digests(clone / "models/release") == seen["v-one" if "@" in name else name]
    names = {f"{STEM}.gguf", "card.json", "familiarity.json", "Modelfile"}
    assert all(set(digests) == names for digests in seen.values())


def test_a_plan_changes_nothing_and_names_what_would(clone: Path) -> None:
    before = manifest.digests(clone / "models/release")
    wanted = rollback.plan("v-one", clone)
    assert set(wanted.changed) == {f"models/gguf/{STEM}.gguf", "models/release"}
    assert wanted.absent == []
    assert manifest.digests(clone / "models/release") == before
    assert run(clone, "git", "branch", "--show-current").strip() == "main"


def test_changed_files_are_named_from_the_projects_root(clone: Path) -> None:
    assert changed_files(clone) == []
    edit_params(clone, seed=5)
    (clone / "reports/a b.md").write_text("new", encoding="utf-8")
    run(clone, "git", "add", "reports/a b.md")
    run(clone, "git", "mv", "dvc.yaml", "dvc2.yaml")
    assert set(changed_files(clone)) == {"params.yaml", "reports/a b.md", "dvc2.yaml"}
    with pytest.raises(ToolError, match=r"dvc2\.yaml"):
        clean_for_queue(clone)


def test_a_hidden_change_of_parameters_is_seen(clone: Path) -> None:
    edit_params(clone, profiles__demo__train={"lr": 0.5})
    run(clone, "git", "commit", "-qam", "the profile sets its own")
    refuse_hidden_changes(clone / "params.yaml")
    edit_params(clone, train__lr=1e-9)
    with pytest.raises(ParamsError, match=r"train\.lr"):
        refuse_hidden_changes(clone / "params.yaml")


def test_a_sweep_reads_the_metrics_of_its_experiments(clone: Path) -> None:
    name = "reports/metrics/evaluate-b-Q4_K_M.json"
    (clone / name).parent.mkdir()
    (clone / name).write_text('{"ece": 0.25}', encoding="utf-8")
    run(clone, "git", "add", name)
    tree = run(clone, "git", "write-tree").strip()
    commit = run(clone, "git", "commit-tree", tree, "-m", "experiment").strip()
    run(clone, "git", "update-ref", f"refs/exps/aa/bb/{sweep.name_of('seed', '1')}", commit)
    assert sweep.results("seed", ["1"], clone)[0]["ece"] == 0.25


def test_rollback_refuses_while_uncommitted_changes_would_be_lost(clone: Path) -> None:
    edit_params(clone, seed=5)
    with pytest.raises(ArtifactError, match="uncommitted changes"):
        rollback.go_to(rollback.plan("v-one", clone), clone)


def test_rollback_refuses_while_a_built_file_was_edited(clone: Path) -> None:
    (clone / "models/release/Modelfile").write_text("FROM elsewhere", encoding="utf-8")
    with pytest.raises(ArtifactError, match="edited by hand"):
        rollback.go_to(rollback.plan("v-one", clone), clone)


def test_a_revision_that_cannot_be_had_leaves_everything_as_it_was(clone: Path) -> None:
    here = {out.md5 for out in lock_here(clone)}
    gone = next(
        out for out in (out_at("v-one", f"models/gguf/{STEM}.gguf", clone),) if out.md5 not in here
    )
    object_path(gone.md5, clone).unlink()
    before = manifest.digests(clone / "models/release")
    with pytest.raises(ArtifactError, match="neither the cache nor the remote"):
        rollback.go_to(rollback.plan("v-one", clone), clone)
    assert manifest.digests(clone / "models/release") == before
    assert run(clone, "git", "branch", "--show-current").strip() == "main"


def test_a_committed_release_with_a_swapped_card_is_refused_and_undone(clone: Path) -> None:
    from so8t import card as cards
    from so8t.params import load
    from tests.fakes.cards import make_card

    foreign = make_card(
        sealed_tiny(clone.parent / "other.gguf", seed=7), load(clone / "params.yaml").data.system
    )
    run(clone, "git", "checkout", "-q", "-b", "mixed")
    build(clone, 3, card=foreign)
    run(clone, "git", "commit", "-qam", "swapped card")
    run(clone, "git", "checkout", "-q", "main")
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "-q", "-f"], cwd=clone, check=True)
    before = manifest.digests(clone / "models/release")
    with pytest.raises(ArtifactError, match="the card is of another file"):
        rollback.go_to(rollback.plan("mixed", clone), clone)
    assert manifest.digests(clone / "models/release") == before
    cards.write(clone / "models/release/card.json", foreign)
    from so8t.serving.answer import Assistant

    with pytest.raises(ArtifactError):
        Assistant(clone / "models/release")


def test_an_unknown_revision_is_named(clone: Path) -> None:
    with pytest.raises(ArtifactError, match="no branch, tag or commit"):
        rollback.plan("v-nine", clone)


def test_models_list_shows_versions_stages_digest_and_status(clone: Path) -> None:
    found = rollback.registered(clone)
    assert [(v.version, v.stages) for v in found] == [("v1.0.0", ()), ("v1.1.0", ("prod",))]
    facts = rollback.facts_of(found[0], "models/release", clone)
    assert facts["file"] == f"{STEM}.gguf"
    assert len(facts["digest"]) == 64
    assert facts["status"] == "certified"
    assert facts["digest"] != rollback.facts_of(found[1], "models/release", clone)["digest"]


def test_gto_reads_the_tags_as_we_do(clone: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("gto")), "show", "so8t", "--json"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"gto cannot be asked: {done.stderr[-200:]}")
    theirs = {str(row["version"]) for row in json.loads(done.stdout)}
    assert theirs == {v.version for v in rollback.registered(clone)}


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=IDS)
def test_a_revision_whose_release_is_not_as_it_was_signed_is_not_given_out(
    clone: Path, tmp_path: Path, fault: Callable[[Path], None], says: str
) -> None:
    """rollback, bundle and evidence: by a commit of somebody who could write to git and the cache, without the key."""
    run(clone, "git", "checkout", "-q", "-b", "forged")
    release = shutil.copytree(clone / "models/release", tmp_path / "models/release")
    for name in ("release.sig", "release.pub"):
        shutil.copyfile(clone / name, tmp_path / name)
    fault(release)
    shutil.rmtree(clone / "models/release")
    shutil.copytree(release, clone / "models/release")
    remember(clone)
    (clone / "release.sig").unlink()
    if (tmp_path / "release.sig").exists():
        shutil.copyfile(tmp_path / "release.sig", clone / "release.sig")
    run(clone, "git", "commit", "-qam", "nothing to see")
    run(clone, "git", "checkout", "-q", "main")
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "-q", "-f"], cwd=clone, check=True)
    before = manifest.digests(clone / "models/release")
    for refuse in (
        lambda: rollback.go_to(rollback.plan("forged", clone), clone),
        lambda: bundle.make("forged", tmp_path / "stick", clone),
        lambda: evidence.make("forged", tmp_path / "audit", clone),
    ):
        with pytest.raises(ArtifactError) as refused:
            refuse()
        assert re.search(says, str(refused.value)), refused.value
        assert refused.value.fix
    assert manifest.digests(clone / "models/release") == before
    assert not (tmp_path / "stick").exists()
    assert not (tmp_path / "audit").exists()


def test_an_unsigned_revision_is_given_out_only_when_asked_to_and_says_so(
    clone: Path, tmp_path: Path
) -> None:
    run(clone, "git", "checkout", "-q", "-b", "unsigned")
    run(clone, "git", "rm", "-q", "release.sig")
    run(clone, "git", "commit", "-qm", "unsigned")
    wanted = rollback.plan("unsigned", clone)
    assert "WARNING: this release is not signed" in rollback.go_to(
        wanted, clone, allow_unsigned=True
    )
    assert "警告" in bundle.make("unsigned", tmp_path / "stick", clone, allow_unsigned=True)
    assert "警告" in evidence.make("unsigned", tmp_path / "audit", clone, allow_unsigned=True)
    assert json.loads((tmp_path / "audit/evidence.json").read_text())["release_key"] is None
    verify = [sys.executable, "-I", str(tmp_path / "stick/verify.py")]
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 1
    done = subprocess.run([*verify, "--unsigned"], check=False, capture_output=True, text=True)
    assert (done.returncode, "not signed" in done.stdout) == (0, True)


def test_a_signature_that_git_does_not_know_stops_a_rollback(clone: Path) -> None:
    run(clone, "git", "rm", "-q", "--cached", "release.sig")
    run(clone, "git", "commit", "-qm", "forgotten")
    with pytest.raises(ArtifactError, match="not in git"):
        rollback.go_to(rollback.plan("v-one", clone), clone)


@pytest.mark.parametrize("keep", [0.5, 0.97])
def test_a_lock_that_a_killed_dvc_left_half_written_is_found_and_comes_back_from_git(
    clone: Path, keep: float
) -> None:
    lock = clone / "dvc.lock"
    whole = lock.read_text(encoding="utf-8")
    assert fsck.lock_is_whole(clone)
    torn = whole[: whole.rindex("md5", 0, int(len(whole) * keep)) + 1]
    lock.write_text(torn, encoding="utf-8")
    assert not fsck.lock_is_whole(clone)
    assert fsck.restore_lock(clone) == "git"
    assert lock.read_text(encoding="utf-8") == whole
    assert [path.read_text(encoding="utf-8") for path in (clone / fsck.QUARANTINE).iterdir()] == [
        torn
    ]


def test_fsck_finds_a_flipped_bit_that_dvc_calls_up_to_date_and_repairs_it(clone: Path) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "checkout", "-q", "-f"], cwd=clone, check=True)
    subprocess.run([*dvc, "push", "-q"], cwd=clone, check=True)
    assert [*fsck.cache(clone), *fsck.workspace(clone), *fsck.remote(clone)] == []
    out = next(o for o in lock_here(clone) if o.path.endswith(".gguf"))
    held = object_path(out.md5, clone)
    flip(held)
    found = [*fsck.cache(clone), *fsck.workspace(clone)]
    assert ("cache", "damaged") in {(f.place, f.problem) for f in found}
    assert fsck.repair(found, clone) == []
    assert [*fsck.cache(clone), *fsck.workspace(clone)] == []
    assert len(list((clone / fsck.QUARANTINE).iterdir())) == len(found)


def flip(path: Path) -> None:
    """One bit, under the old time and size: bit rot."""
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(stat.st_size // 2)
        byte = file.read(1)[0]
        file.seek(stat.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_fsck_reads_the_remote_from_its_bytes(clone: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "push", "-q"], cwd=clone, check=True)
    assert fsck.missing_in_remote(clone) == []
    victim = max(
        (p for p in (clone.parent / "store").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    victim.with_name(".killed-push.tmp").write_bytes(b"half of an object")
    assert list(fsck.remote(clone)) == []
    flip(victim)
    assert [f.place for f in fsck.remote(clone)] == ["remote"]


KILLED_AT_ITS_FIRST_OBJECT = """
import fcntl, os, signal, sys
fcntl.ioctl = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # DVC has created the object and asks for a reflink
from dvc.cli import main
sys.exit(main(["push", "-q", *sys.argv[1:]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the reflink that is interrupted is Linux's")
@pytest.mark.parametrize("again", ["dvc push", "fsck"])
def test_what_a_killed_push_left_empty_in_the_remote_is_mended(tmp_path: Path, again: str) -> None:
    clone = make_clone(tmp_path / "clone")
    subprocess.run([sys.executable, "-c", KILLED_AT_ITS_FIRST_OBJECT], cwd=clone, check=False)
    found = list(fsck.remote(clone))
    assert [(f.place, Path(f.path).stat().st_size) for f in found] == [("remote", 0)]
    if again == "fsck":
        assert fsck.repair(found, clone) == []
        assert list(fsck.remote(clone)) == []
        assert [path.stat().st_size for path in (clone / fsck.QUARANTINE).iterdir()] == [0]
    subprocess.run([sys.executable, "-m", "dvc", "push", "-q"], cwd=clone, check=True)
    assert list(fsck.remote(clone)) == []
    assert fsck.missing_in_remote(clone) == []


def test_a_damaged_object_that_the_cache_lacks_leaves_the_remote_and_is_named(clone: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "push", "-q"], cwd=clone, check=True)
    victim = next(o for o in lock_here(clone) if o.path.endswith(".gguf")).md5
    held = clone.parent / "store/files/md5" / victim[:2] / victim[2:]
    flip(held)
    object_path(victim, clone).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "so8t.cli", "fsck", "--remote", "--repair"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 5, done.stdout + done.stderr
    assert victim in done.stdout
    assert "every byte" not in done.stdout
    assert not held.exists()
    assert fsck.missing_in_remote(clone)


def test_gc_keeps_what_every_tag_needs_and_removes_the_rest(clone: Path) -> None:
    loose = clone / ".dvc/cache/files/md5/ab"
    loose.mkdir(exist_ok=True)
    data = b"an output of a run that nobody kept"
    name = hashlib.md5(data, usedforsecurity=False).hexdigest()
    held = object_path(name, clone)
    held.parent.mkdir(exist_ok=True)
    held.write_bytes(data)
    assert store.unused(clone) == (1, len(data))
    assert held.is_file()
    store.collect(clone)
    assert not held.is_file()
    assert store.unused(clone) == (0, 0)
    rollback.go_to(rollback.plan("v-one", clone), clone)


def test_gc_keeps_what_a_branch_an_experiment_and_the_workspace_need(clone: Path) -> None:
    kept = {
        name: out_at(name, f"models/gguf/{STEM}.gguf", clone).md5
        for name in ("v-one", "v-two", "v-three")
    }
    run(clone, "git", "checkout", "-q", "-b", "side", "v-two")
    build(clone, 11)  # committed on a branch that is nowhere else
    run(clone, "git", "commit", "-qam", "side")
    kept["side"] = out_at("side", f"models/gguf/{STEM}.gguf", clone).md5
    build(
        clone, 12
    )  # an experiment: a commit that only refs/exps names, as `dvc exp run` leaves it
    run(clone, "git", "add", "-A")
    tree = run(clone, "git", "write-tree").strip()
    commit = run(clone, "git", "commit-tree", tree, "-p", "side", "-m", "experiment").strip()
    baseline = run(clone, "git", "rev-parse", "side").strip()
    run(clone, "git", "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/try-twelve", commit)
    kept["experiment"] = out_at(commit, f"models/gguf/{STEM}.gguf", clone).md5
    build(clone, 13)  # not committed: the workspace
    kept["workspace"] = next(out.md5 for out in lock_here(clone) if out.path.endswith(".gguf"))
    lost = object_path(hashlib.md5(b"unnamed", usedforsecurity=False).hexdigest(), clone)
    lost.parent.mkdir(exist_ok=True)
    lost.write_bytes(b"unnamed")
    store.collect(clone)
    assert len(set(kept.values())) == 6
    assert [name for name, md5 in kept.items() if not object_path(md5, clone).is_file()] == []
    assert not lost.exists()


def test_a_stage_of_files_and_folders_is_stored_once(tmp_path: Path) -> None:
    """With the shipped .dvc/config: the file in the workspace and the one in the cache are one (two names, one inode)."""
    (tmp_path / "make.py").write_text(
        "from pathlib import Path\nPath('folder/deep').mkdir(parents=True)\n"
        "for name in ('file', 'folder/one', 'folder/deep/two'):\n    Path(name).write_bytes(name.encode() * 100_000)\n"
    )
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  made: {cmd: python make.py, outs: [file, folder]}\n", encoding="utf-8"
    )
    for command in (("git", "init", "-q"), (sys.executable, "-m", "dvc", "init", "-q")):
        run(tmp_path, *command)
    shutil.copyfile(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q"],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert {
        name: (tmp_path / name).stat().st_nlink
        for name in ("file", "folder/one", "folder/deep/two")
    } == {"file": 2, "folder/one": 2, "folder/deep/two": 2}
    objects = [
        path
        for path in (tmp_path / ".dvc/cache/files/md5").glob("??/*")
        if not path.name.endswith(".dir")
    ]
    names = [tmp_path / "file", tmp_path / "folder/one", tmp_path / "folder/deep/two"]
    assert sorted(p.stat().st_ino for p in objects) == sorted(p.stat().st_ino for p in names)


def test_a_bundle_verifies_with_python_alone_and_notices_one_changed_byte(
    clone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stick"
    bundle.make("v-two", out, clone)
    verify = [sys.executable, "-I", str(out / "verify.py")]
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
    flip(out / f"release/{STEM}.gguf")
    done = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"release/{STEM}.gguf: changed" in done.stdout
    with pytest.raises(ArtifactError, match="there already"):
        bundle.make("v-two", out, clone)


@pytest.mark.parametrize("with_library", [True, False])
def test_a_bundle_made_again_with_new_sums_is_still_known_by_its_signature(
    clone: Path, tmp_path: Path, with_library: bool
) -> None:
    out = tmp_path / "stick"
    bundle.make("v-two", out, clone)
    # Without site-packages there is no cryptography: the lines of RFC 8032 decide.
    alone = [] if with_library else ["-S"]
    verify = [sys.executable, "-I", *alone, str(out / "verify.py")]
    good = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert good.returncode == 0, good.stdout + good.stderr
    key = json.loads((clone / "release.sig").read_text())["key"]
    assert f"signed with key {key}" in good.stdout
    forge(out / "release/card.json")
    (out / "SHA256SUMS").unlink()
    bundle.write_sums(out)
    bad = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "release.sig: of another release" in bad.stdout
    another_key_under_our_name(out / "release")
    (out / "SHA256SUMS").unlink()
    bundle.write_sums(out)
    bad = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "release.sig: forged" in bad.stdout
    assert "fix: get the bundle again" in bad.stdout


def test_wheels_of_this_environment_are_installed_in_an_empty_one_without_index_and_answer(
    clone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stick"
    bundle.make("v-three", out, clone, with_wheels=True)
    assert all(zipfile.ZipFile(wheel).testzip() is None for wheel in (out / "wheels").glob("*.whl"))
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True
    )
    python = tmp_path / "venv/bin/python"
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_INDEX_URL")} | {
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            *map(str, sorted((out / "wheels").glob("*.whl"))),
        ],
        check=True,
        env=outside,
    )
    assert subprocess.run([python, out / "verify.py"], check=False, env=outside).returncode == 0
    done = subprocess.run(
        [
            tmp_path / "venv/bin/so8t",
            "ask",
            "--json",
            "--release",
            out / "release",
            "要点をまとめてください。",
        ],
        cwd=tmp_path,
        env=outside,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decision"] in {"ALLOW", "ESCALATE", "DENY"}


def test_what_asking_needs_holds_no_training_library() -> None:
    names = bundle.closure()
    assert {"numpy", "llama-cpp-python", "gguf"} <= set(names)
    assert not {"torch", "transformers", "dvc", "peft"} & set(names)


def test_evidence_names_who_released_what_from_which_data(clone: Path, tmp_path: Path) -> None:
    evidence.make("so8t@v1.1.0", tmp_path / "audit", clone)
    facts = json.loads((tmp_path / "audit/evidence.json").read_text(encoding="utf-8"))
    assert facts["author"] == "tester"
    assert facts["released"][0]["version"] == "v1.1.0"
    assert facts["released"][0]["by"]
    assert (
        facts["release"][f"{STEM}.gguf"]["sha256"]
        == manifest.digests(clone / "models/release")[f"{STEM}.gguf"]
    )
    assert set(facts["outputs"]) == {f"models/gguf/{STEM}.gguf", "models/release", "data/prepared"}
    assert facts["data"]["licences"] == {"train": {"so8t: CC0-1.0": 9}}
    assert facts["environment"]["engine"]["llama_cpp"]
    assert facts["policy"]["sha256"]
    assert facts["release_key"] == json.loads((clone / "release.sig").read_text())["key"]
    assert (tmp_path / "audit/release.sig").is_file()
    assert {"params.yaml", "dvc.yaml", "dvc.lock", "evidence.json", "SHA256SUMS"} <= {
        p.name for p in (tmp_path / "audit").iterdir()
    }
    assert facts["conclusion"] == "well"
    reports = tmp_path / "audit/reports"
    # Byte for byte, and none of another project's in the same repository.
    assert {p.name: p.read_bytes() for p in reports.iterdir()} == {
        p.name: p.read_bytes() for p in (clone / "reports").iterdir()
    }
    assert (tmp_path / "audit/params.yaml").read_bytes() == (clone / "params.yaml").read_bytes()
    assert (tmp_path / "audit/release/card.json").is_file()
    assert not (tmp_path / f"audit/release/{STEM}.gguf").exists()
