"""dvc.yaml lists the code that gives each stage's result its meaning: no more, no less."""

import re
from pathlib import Path

import grimp
import pytest

from so8t.params import Params, read_yaml

ROOT = Path(__file__).parents[2]
GROUND = {
    "so8t",
    "so8t.operations",
    "so8t.progress",
    "so8t.errors",
    "so8t.files",
    "so8t.progress",
    "so8t.quiet",
    "so8t.stage",
}  # plumbing: a reworded error re-runs nothing
GROUND_PACKAGES = ("so8t.params", "so8t.records")
STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]
GRAPH = grimp.build_graph("so8t", "stages", include_external_packages=False, cache_dir=None)


def _body(name: str) -> dict:
    stage = STAGES[name]
    return stage.get("do", stage)


def _module_file(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    return (
        f"{module.replace('.', '/')}.py"
        if path.with_suffix(".py").is_file()
        else f"{module.replace('.', '/')}/__init__.py"
    )


def code_of(script: str) -> set[str]:
    """Files of the import closure of a stage script, without the ground and empty files."""
    module = f"stages.{script}"
    chain = GRAPH.find_upstream_modules(module) | {module}
    chain = {
        m for m in chain if m not in GROUND and not m.startswith(GROUND_PACKAGES) and m != "stages"
    }
    return {file for file in map(_module_file, chain) if _says_more_than_its_docstring(ROOT / file)}


def _says_more_than_its_docstring(path: Path) -> bool:
    import ast

    return any(
        not isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_depends_on_exactly_the_code_it_imports(name: str) -> None:
    script = re.search(r"stages/(\w+)\.py", _body(name)["cmd"])[1]
    listed = {dep for dep in _body(name)["deps"] if dep.endswith(".py")}
    assert listed == code_of(script)


def test_every_section_of_params_belongs_to_a_stage() -> None:
    used = {str(key).split(".")[0] for name in STAGES for key in _body(name).get("params", [])}
    assert used - {"profiles"} <= set(Params.model_fields)
    assert set(Params.model_fields) - {"profile"} <= used


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_stage_says_what_it_does(name: str) -> None:
    assert _body(name)["desc"]
