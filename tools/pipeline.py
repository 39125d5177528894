"""docs/pipeline.md: the graph as dvc.yaml writes it, types and models collapsed to one box per stage."""

from pathlib import Path
from typing import Any

from so8t.operations.parallel import graph
from so8t.params import parse_yaml

HEAD = """# The pipeline

What runs after what, from dvc.yaml itself; `dvc dag` draws every single stage. Code dependencies are left out: they are each stage's import closure
(tests/unit/test_graph.py). Stages marked *alone* have the machine for themselves under `so8t repro -j`.
"""


def stages() -> dict[str, dict[str, Any]]:
    """Every stage of dvc.yaml; of a foreach or matrix, its body."""
    held = parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8"), "dvc.yaml")["stages"]
    return {
        name: {**stage.get("do", stage), "each": stage.get("matrix") or stage.get("foreach")}
        for name, stage in held.items()
    }


def outputs(stage: dict[str, Any]) -> list[str]:
    """Paths of outs and metrics, as written."""
    return [
        next(iter(out)) if isinstance(out, dict) else str(out)
        for out in (*stage.get("outs", ()), *stage.get("metrics", ()))
    ]


def inputs(stage: dict[str, Any]) -> list[str]:
    """Paths of dependencies that are not code; `${item.source}` as each of its values."""
    found = [str(dep) for dep in stage["deps"] if not str(dep).endswith(".py")]
    each = stage["each"] if isinstance(stage["each"], dict) else {}
    given = [
        value["source"] for value in each.values() if isinstance(value, dict) and "source" in value
    ]
    return [value for dep in found for value in (given if dep == "${item.source}" else [dep])]


def edges() -> list[tuple[str, str]]:
    """(stage, stage that needs it), as DVC resolves them, models and types collapsed; what follows from two others is left out."""
    order = list(stages())
    found = {
        (before.split("@")[0], name.split("@")[0])
        for name, node in graph().items()
        for before in node.needs
    }
    after = {name: {b for a, b in found if a == name} for name in order}
    for name in reversed(order):  # longest chains first: later stages know all that follows them
        after[name] |= {far for near in after[name] for far in after.get(near, ())}
    direct = {
        (a, b)
        for a, b in found
        if not any(b in after[near] for x, near in found if x == a and near != b)
    }
    return sorted(direct, key=lambda edge: (order.index(edge[0]), order.index(edge[1])))


def page() -> str:
    """The page: picture and table."""
    lines = [
        HEAD,
        "```mermaid",
        "flowchart TD",
        *(f"  {a} --> {b}" for a, b in edges()),
        "```",
        "",
        "| stage | does | reads | params | writes |",
        "|---|---|---|---|---|",
    ]
    for name, stage in stages().items():
        label = (
            name
            + (" (each)" if stage["each"] else "")
            + (" *alone*" if (stage.get("meta") or {}).get("alone") else "")
        )
        cells = [
            ", ".join(f"`{item}`" for item in items)
            for items in (inputs(stage), stage.get("params", []), outputs(stage))
        ]
        lines.append(f"| {label} | {stage['desc']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
