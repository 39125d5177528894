"""docs/pipeline.md: the graph as dvc.yaml writes it, with one box per stage.

Stages that dvc.yaml repeats over types or models are collapsed to one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t.operations.parallel import graph
from so8t.params import parse_yaml

HEAD = """# The pipeline

What runs after what, drawn from dvc.yaml. A stage that is repeated over models or types has one \
box here; `dvc dag` draws each by itself. Dependencies on
code are left out. Stages marked *alone* have the machine for themselves under `so8t repro -j`. \
Words: [glossary.md](glossary.md).
"""

CODE = ("so8t/", "stages/")  # folders of code, which a stage depends on but does not read
Edge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of dvc.yaml.

    Attributes:
        body: its keys, such as `cmd`, `deps` and `outs`.
        each: what it is repeated over, as dvc.yaml writes it; None for most stages.
    """

    body: dict[str, Any]
    each: Any

    @property
    def label(self) -> str:
        """What stands behind the name in the table."""
        label = ""
        if self.each:
            label += " (each)"
        if (self.body.get("meta") or {}).get("alone"):
            label += " *alone*"
        return label

    @property
    def inputs(self) -> list[str]:
        """Paths of dependencies that are not code.

        `${item.source}` stands for a value that differs from repetition to repetition: all of
        them are listed.
        """
        found: list[str] = []
        for dependency in self.body["deps"]:
            if dependency == "${item.source}":
                found += self._values("source")
            elif not str(dependency).startswith(CODE):
                found.append(str(dependency))
        return found

    def _values(self, key: str) -> list[str]:
        """The values of one key over all that the stage is repeated over."""
        # A list instead of a mapping has items without keys.
        items = self.each.values() if isinstance(self.each, dict) else []
        return [item[key] for item in items if isinstance(item, dict) and key in item]

    @property
    def outputs(self) -> list[str]:
        """Paths of outputs and metrics, as dvc.yaml writes them."""
        found = []
        for out in (*self.body.get("outs", ()), *self.body.get("metrics", ())):
            # An output with options is a mapping of one key: its path.
            found.append(next(iter(out)) if isinstance(out, dict) else str(out))
        return found


def stages() -> dict[str, Stage]:
    """Every stage of dvc.yaml.

    Returns:
        By name, in the order of the file.
    """
    content = parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8"), "dvc.yaml")
    found = {}
    for name, held in content["stages"].items():
        # A foreach keeps the stage under `do`; a matrix stands beside the stage's own keys.
        body = held.get("do", held)
        found[name] = Stage(body, held.get("matrix") or held.get("foreach"))
    return found


def edges() -> list[Edge]:
    """What follows what, as DVC resolves it, without what two other edges imply.

    Returns:
        (stage, stage that needs it), both in the order of dvc.yaml.
    """
    order = list(stages())
    found: set[Edge] = set()
    for name, node in graph().items():
        # `score@b-Q4_K_M` is one of the stages that dvc.yaml calls `score`.
        later = name.split("@")[0]
        found.update((before.split("@")[0], later) for before in node.needs)
    direct_next = {name: {later for first, later in found if first == name} for name in order}
    after = _all_after(direct_next, order)
    direct = []
    for first, last in found:
        others = direct_next[first] - {last}
        # A longer way from first to last says the same.
        if not any(last in after[other] for other in others):
            direct.append((first, last))
    return sorted(direct, key=lambda edge: (order.index(edge[0]), order.index(edge[1])))


def _all_after(direct_next: dict[str, set[str]], order: list[str]) -> dict[str, set[str]]:
    """All stages that come after each stage, directly or not.

    Args:
        direct_next: the stages that need each stage.
        order: all stages, those that come later behind those they need.
    """
    # Copies, because direct edges are needed as they are.
    after = {name: set(later) for name, later in direct_next.items()}
    # Backwards: the later stages then know all that follows them.
    for name in reversed(order):
        for later in direct_next[name]:
            after[name] |= after.get(later, set())
    return after


def page() -> str:
    """The page: picture and table."""
    lines = [HEAD, "```mermaid", "flowchart TD"]
    lines += [f"  {first} --> {later}" for first, later in edges()]
    lines += [
        "```",
        "",
        "| stage | does | reads | params | writes |",
        "|---|---|---|---|---|",
    ]
    for name, stage in stages().items():
        cells = [
            name + stage.label,
            stage.body["desc"],
            _quoted(stage.inputs),
            _quoted(stage.body.get("params", [])),
            _quoted(stage.outputs),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _quoted(items: list[str]) -> str:
    """Items as code in one cell of a table.

    Args:
        items: paths or parameters.
    """
    return ", ".join(f"`{item}`" for item in items)
