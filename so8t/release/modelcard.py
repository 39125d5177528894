"""The model card (README.md of a release, Hugging Face's card format), from result files only.

Every number stands beside the file and key it was read from; what was not measured says "not run".
Covered: what the file is, its certificate, test metrics, fidelity, limits. Not covered: times (they
differ from machine to machine), prose about quality that no file measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from so8t.coverage import in_english

NOT_RUN = "not run"
SPLITS = ("test_iid", "test_cells", "test_phrases")
HEADLINE = "/splits/test_iid"
# Key of a metric in the evaluation, and its type by the hub's names.
METADATA_METRICS = (
    ("accuracy", "accuracy"),
    ("macro_f1", "f1"),
    ("false_allow_rate", "false_allow_rate"),
    ("allow_rate_on_allow", "allow_rate"),
)
SUMMARY = (
    "A Japanese assistant that sorts every request into ALLOW, ESCALATE or DENY from one prefill, "
    "and answers what it allows. The file is a stock GGUF; the decision is made of its numbers by "
    "`card.json`."
)
# No number: the same release must come out on every machine, and each of them has other times.
SPEED = (
    "They depend on the machine, so none is quoted here. What was measured where the file was made "
    "is in `reports/speed.md` of the project."
)


@dataclass(frozen=True, slots=True)
class Names:
    """How things are called in the card.

    Attributes:
        name: of the released model.
        base_model: what it was made of.
        file: the GGUF file.
        card, evaluate, verify, compare: the result files, as shown beside their numbers.
    """

    name: str
    base_model: str
    file: str
    card: str
    evaluate: str
    verify: str
    compare: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Result files by the name they are shown under; a file that was not made is absent.

    Attributes:
        files: content by shown name.
    """

    files: Mapping[str, Any]

    def value(self, file: str, pointer: str) -> Any:
        """The value at a JSON pointer, or None.

        Args:
            file: shown name.
            pointer: JSON pointer, such as `/splits/test_iid/accuracy`.
        """
        found = self.files.get(file)
        for part in pointer.strip("/").split("/"):
            found = _child(found, part)
        return found


def _child(parent: Any, part: str) -> Any:
    if isinstance(parent, Mapping):
        return parent.get(part)
    if isinstance(parent, list) and part.isdigit() and int(part) < len(parent):
        return parent[int(part)]
    return None


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a table: what it is, and where its number lies.

    Attributes:
        label: what it is.
        file: shown name of the result file.
        pointer: JSON pointer into it.
    """

    label: str
    file: str
    pointer: str


def shown(value: Any) -> str:
    """A value as people read it; a rate with its interval and count.

    Args:
        value: of a result file; null where it is missing.

    Returns:
        Text for a table.
    """
    if value is None:
        return NOT_RUN
    if isinstance(value, Mapping):
        return _shown_mapping(value)
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value) or "none"
    if isinstance(value, float):
        # Four digits: more would promise what so few rows cannot.
        return f"{value:.4g}"
    return str(value)


def _shown_mapping(value: Mapping[str, Any]) -> str:
    """An object of a result file as text.

    Args:
        value: a rate with its interval, or counts by name.
    """
    if "value" not in value:
        # Sorted, so that the same result gives the same page.
        items = [f"{name} {shown(item)}" for name, item in sorted(value.items())]
        return ", ".join(items) or "none"
    interval = value.get("ci95") or []
    # No interval where there were too few groups to draw one.
    if len(interval) != 2:
        return shown(value["value"])
    low, high = interval
    return f"{shown(value['value'])} ({low:.3f}-{high:.3f}, n = {value.get('n')})"


def table(facts: Facts, rows: Sequence[Fact]) -> list[str]:
    """A Markdown table with the source of every number.

    Args:
        facts: result files by shown name.
        rows: one line each.

    Returns:
        Lines of Markdown.
    """
    lines = ["| | | source |", "|---|---|---|"]
    for row in rows:
        value = shown(facts.value(row.file, row.pointer))
        lines.append(f"| {row.label} | {value} | `{row.file}` `{row.pointer}` |")
    return lines


# --- the head that the hub reads ---


def metadata(facts: Facts, names: Names) -> list[str]:
    """The YAML head that the hub reads; strings are quoted as JSON, which is YAML.

    Args:
        facts: result files by shown name.
        names: what things are called.

    Returns:
        Lines of YAML between two rules.
    """
    return [
        "---",
        "language:",
        "- ja",
        # The weights are the base model's, whose licence holds for them.
        "license: other",
        "license_name: as-base-model",
        "library_name: gguf",
        "pipeline_tag: text-generation",
        f"base_model: {json.dumps(names.base_model)}",
        f"model_file: {json.dumps(names.file)}",
        "tags:",
        "- gguf",
        "- llama.cpp",
        "- safety",
        "- triage",
        "- calibrated",
        *_model_index(facts, names),
        "---",
    ]


def _model_index(facts: Facts, names: Names) -> list[str]:
    """Test metrics in the hub's format; empty when none was measured."""
    results = []
    for key, kind in METADATA_METRICS:
        value = _plain_number(facts.value(names.evaluate, f"{HEADLINE}/{key}"))
        if value is not None:
            # The hub shows bare numbers; intervals stand in the table below.
            results += [f"    - type: {kind}", f"      name: {key}", f"      value: {value}"]
    # An empty index would look like a model without any quality.
    if not results:
        return []
    return [
        "model-index:",
        f"- name: {json.dumps(names.name)}",
        "  results:",
        "  - task:",
        "      type: text-classification",
        "      name: ALLOW / ESCALATE / DENY",
        "    dataset:",
        "      type: so8t-test-iid",
        "      name: test_iid",
        "    metrics:",
        *results,
    ]


def _plain_number(value: Any) -> float | None:
    found = value.get("value") if isinstance(value, Mapping) else value
    # Python counts a bool as an int.
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found)


# --- the page ---


def write(facts: Facts, names: Names, *, sentence: str, commands: str) -> str:
    """The card's text.

    Args:
        facts: result files by shown name.
        names: what things are called.
        sentence: what `so8t gate` says of the certificate.
        commands: how to run the file, as Markdown.
    """
    # The card's own list: it knows what its certificate does not cover.
    limits = facts.value(names.card, "/limits") or [NOT_RUN]
    lines = [
        *metadata(facts, names),
        "",
        f"# {names.name}",
        "",
        # First, because it decides whether the rest matters.
        f"**{sentence}**",
        "",
        SUMMARY,
        "",
        "## Certificate",
        "",
        *table(facts, _certificate(names.card)),
        "",
        "## Test splits",
        "",
        *table(facts, _tests(names.evaluate)),
        "",
        "## Against the base model",
        "",
        *table(facts, _against(names.compare)),
        "",
        "## Fidelity of the file",
        "",
        *table(facts, _fidelity(names.verify, names.card)),
        "",
        "## How to run it",
        "",
        commands,
        "",
        "## Speed and memory",
        "",
        SPEED,
        "",
        "## Limits",
        "",
        *(f"- {in_english(limit)}" for limit in limits),
        "- Private thinking is part of the model's text: a plain chat client can be made to show "
        "it.",
        "- A server that does not apply `card.json` gives answers without the certified decision.",
    ]
    return "\n".join(lines) + "\n"


def _certificate(card: str) -> list[Fact]:
    """What is guaranteed, and the numbers by which it is decided.

    Args:
        card: shown name of the card.
    """
    return [
        Fact("status", card, "/status"),
        # Empty for a certified file, and then the line says "none".
        Fact("reasons", card, "/reasons"),
        Fact("largest false-allow rate", card, "/certificate/alpha"),
        Fact("chance that the certificate is wrong", card, "/certificate/delta"),
        Fact("for", card, "/certificate/guarantee"),
        Fact("groups missing", card, "/certificate/need_groups"),
        Fact("readout", card, "/readout"),
        Fact("temperature", card, "/temperature"),
        Fact("DENY from", card, "/thresholds/deny"),
        Fact("nothing allowed from", card, "/thresholds/escalate"),
        Fact("sampled", card, "/sampled"),
    ]


def _tests(evaluate: str) -> list[Fact]:
    """Four rates of each test split.

    Args:
        evaluate: shown name of the metrics file.
    """
    facts = []
    for split in SPLITS:
        key = f"/splits/{split}"
        facts += [
            Fact(f"{split}: false-allow rate", evaluate, f"{key}/false_allow_rate"),
            # Beside each other: either rate alone is easily made perfect.
            Fact(f"{split}: true ALLOW allowed", evaluate, f"{key}/allow_rate_on_allow"),
            Fact(f"{split}: accuracy", evaluate, f"{key}/accuracy"),
            Fact(f"{split}: macro-F1", evaluate, f"{key}/macro_f1"),
        ]
    return facts


def _against(compare: str) -> list[Fact]:
    """The outcome of the paired comparison.

    Args:
        compare: shown name of the comparison.
    """
    return [
        Fact("conclusion", compare, "/conclusion/code"),
        Fact("a: false-allow rate, test_iid", compare, f"{HEADLINE}/a/false_allow_rate"),
        Fact("b: false-allow rate, test_iid", compare, f"{HEADLINE}/b/false_allow_rate"),
    ]


def _fidelity(verify: str, card: str) -> list[Fact]:
    """How near the file is to what it was made of.

    Args:
        verify: shown name of the verification.
        card: shown name of the card.
    """
    return [
        Fact("tensor types", verify, "/histogram"),
        Fact("bits per weight", verify, "/bits_per_weight"),
        Fact("top-1 agreement with F16", verify, "/drift/top1"),
        # Of a quantised file; the next line is of F16 alone, so one of the two is "not run".
        Fact("KL from F16, mean", verify, "/drift/kl_mean"),
        Fact("top-1 agreement with Hugging Face", verify, "/logits/top1"),
        Fact("semantic digest", card, "/semantic_digest"),
        Fact("engine", card, "/engine"),
    ]
