"""dvc.yaml names the code that gives each stage's result its meaning: the folders it runs, and the shared floor."""

import re
from pathlib import Path

import grimp
import pytest

from so8t.params import Params, read_yaml

ROOT = Path(__file__).parents[2]
# Plumbing: how files are written, progress shown and errors worded. A change there re-runs nothing.
PLUMBING = {
    "so8t",
    "so8t.bug",
    "so8t.errors",
    "so8t.files",
    "so8t.processes",
    "so8t.progress",
    "so8t.quiet",
    "so8t.stage",
}
PLUMBING_PACKAGES = ("so8t.params", "so8t.records")
STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]
GRAPH = grimp.build_graph("so8t", "stages", include_external_packages=False, cache_dir=None)


def _body(name: str) -> dict:
    stage = STAGES[name]
    return stage.get("do", stage)


def place_of(module: str) -> str:
    """The folder of a module of a package, the file of a module that stands alone."""
    path = Path(*module.split("."))
    if (ROOT / path).is_dir():
        return path.as_posix()
    if len(path.parts) > 2:
        return path.parent.as_posix()
    return path.with_suffix(".py").as_posix()


def code_of(script: str) -> set[str]:
    """What a stage script imports, directly or not, as folders and files; plumbing and bare packages left out."""
    module = f"stages.{script}"
    chain = GRAPH.find_upstream_modules(module) | {module}
    found = set()
    for name in chain:
        is_plumbing = name in PLUMBING or name.startswith(PLUMBING_PACKAGES)
        if is_plumbing or name == "stages" or _says_only_what_it_is(name):
            continue
        found.add(place_of(name))
    return {place for place in found if not any(place.startswith(f"{other}/") for other in found)}


def _says_only_what_it_is(module: str) -> bool:
    init = ROOT.joinpath(*module.split("."), "__init__.py")
    return init.is_file() and len(init.read_text(encoding="utf-8").splitlines()) <= 3


def listed_by(name: str) -> set[str]:
    """The code that dvc.yaml names for a stage."""
    return {dep for dep in _body(name)["deps"] if dep.startswith(("so8t/", "stages/"))}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_depends_on_exactly_the_code_it_runs(name: str) -> None:
    script = re.search(r"stages/(\w+)\.py", _body(name)["cmd"])[1]
    assert listed_by(name) == code_of(script)


def test_conversion_and_quantisation_do_not_run_each_other_again() -> None:
    assert "so8t/gguf/quantize" not in listed_by("convert")
    assert "so8t/gguf/convert" not in listed_by("quantize")


def test_making_the_release_knows_no_ollama_client() -> None:
    assert not {place for place in code_of("release") if "ollama" in place or "server" in place}


def test_every_section_of_params_belongs_to_a_stage() -> None:
    used = {str(key).split(".")[0] for name in STAGES for key in _body(name).get("params", [])}
    assert used - {"profiles"} <= set(Params.model_fields)
    assert set(Params.model_fields) - {"profile"} <= used


def test_a_stage_that_reads_a_section_reads_what_the_profile_changes_in_it() -> None:
    for name in STAGES:
        params = [str(key) for key in _body(name).get("params", [])]
        for section in ("names", "base", "scratch", "loss", "train"):
            reads = [key for key in params if key == section or key.startswith(f"{section}.")]
            own = f"profiles.${{profile}}.{section}"
            assert bool(reads) == any(key.startswith(own) for key in params), (name, section)


def test_every_plotted_file_is_the_output_of_a_stage() -> None:
    plots = read_yaml(ROOT / "dvc.yaml")["plots"]
    plotted = {str(path) for plot in plots for body in plot.values() for path in body["y"]}
    written = set()
    for name in STAGES:
        body = _body(name)
        for out in [*body.get("outs", []), *body.get("metrics", [])]:
            written.add(next(iter(out)) if isinstance(out, dict) else out)
    patterns = [re.sub(r"\\\$\\\{.*?\\\}", ".*", re.escape(path)) for path in written]
    for path in plotted:
        assert any(re.fullmatch(rf"{pattern}(/.*)?", path) for pattern in patterns), path


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_stage_says_what_it_does(name: str) -> None:
    assert _body(name)["desc"]
