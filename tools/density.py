"""How densely code is written, counted from its syntax trees, as one Markdown table row per folder.

    python -m tools.density so8t
    python -m tools.density so8t /path/to/site-packages/httpx

Expressions, ternaries and nested comprehensions are counted per line that is not blank; wide lines
and comments per line of any kind. A comprehension is nested when it has two `for` or holds another
one. Importers are those among the files that were given.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
HEAD = (
    "| | expressions per line | lines over 100 / 120 columns | ternaries / nested comprehensions "
    "per 1,000 lines | comments per 100 lines "
    "| modules; with one importer; under 100 lines; over 400 |"
)


@dataclass(slots=True)
class Counts:
    """What was counted over some files; `lengths` has the lines of each module that holds code."""

    lines: int = 0
    filled: int = 0
    over_100: int = 0
    over_120: int = 0
    comments: int = 0
    expressions: int = 0
    ternaries: int = 0
    nested: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    importers: Counter[str] = field(default_factory=Counter)


def _is_nested(node: ast.AST) -> bool:
    if not isinstance(node, COMPREHENSIONS):
        return False
    inner = (child for child in ast.walk(node) if child is not node)
    return len(node.generators) > 1 or any(isinstance(child, COMPREHENSIONS) for child in inner)


def _comment_lines(source: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})


def _imported(tree: ast.Module) -> set[str]:
    """Every name that the file imports, with and without its last part."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def count(root: Path) -> Counts:
    """Count every Python file below `root`."""
    counts = Counts()
    imports: list[set[str]] = []
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        _add(counts, source, tree)
        says_only_what_it_is = len(tree.body) <= 1 and path.name == "__init__.py"
        if not says_only_what_it_is:
            counts.lengths[_module_of(path, root)] = len(source.splitlines())
        imports.append(_imported(tree))
    for module in counts.lengths:
        counts.importers[module] = sum(module in imported for imported in imports)
    return counts


def _add(counts: Counts, source: str, tree: ast.Module) -> None:
    lines = source.splitlines()
    counts.lines += len(lines)
    counts.filled += sum(bool(line.strip()) for line in lines)
    counts.over_100 += sum(len(line) > 100 for line in lines)
    counts.over_120 += sum(len(line) > 120 for line in lines)
    counts.comments += _comment_lines(source)
    for node in ast.walk(tree):
        counts.expressions += isinstance(node, ast.expr)
        counts.ternaries += isinstance(node, ast.IfExp)
        counts.nested += _is_nested(node)


def row(name: str, counts: Counts) -> str:
    """One line of the table."""
    sizes = counts.lengths.values()
    single = sum(number == 1 for number in counts.importers.values())
    short, long = sum(size < 100 for size in sizes), sum(size > 400 for size in sizes)
    cells = [
        name,
        f"{counts.expressions / counts.filled:.1f}",
        f"{counts.over_100 / counts.lines:.1%} / {counts.over_120 / counts.lines:.1%}",
        f"{1e3 * counts.ternaries / counts.filled:.0f} / {1e3 * counts.nested / counts.filled:.1f}",
        f"{1e2 * counts.comments / counts.lines:.1f}",
        f"{len(sizes)}; {single}; {short}; {long}",
    ]
    return f"| {' | '.join(cells)} |"


def main(folders: list[str]) -> None:
    """Print the table for the folders given."""
    print(HEAD)
    print("|---|---|---|---|---|---|")
    for folder in folders:
        print(row(folder, count(Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:] or ["so8t"])
