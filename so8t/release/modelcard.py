"""The model card (README.md of a release, Hugging Face's card format), from result files only.

Every number stands beside the file and key it was read from; what was not measured says "not run". Covered: what the
file is, its certificate, test metrics, fidelity, limits. Not covered: prose about quality that no file measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOT_RUN = "not run"
HEADLINE = "/splits/test_iid"
METADATA_METRICS = (
    ("accuracy", "accuracy"),
    ("macro_f1", "f1"),
    ("false_allow_rate", "false_allow_rate"),
    ("allow_rate_on_allow", "allow_rate"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Result files by the name they are shown under; a file that was not made is absent."""

    files: Mapping[str, Any]

    def value(self, file: str, pointer: str) -> Any:
        """The value at a JSON pointer, or None."""
        found = self.files.get(file)
        for part in pointer.strip("/").split("/"):
            if isinstance(found, list) and part.isdigit():
                found = found[int(part)] if int(part) < len(found) else None
            else:
                found = found.get(part) if isinstance(found, Mapping) else None
        return found


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: what it is, and where its number lies."""

    label: str
    file: str
    pointer: str


def shown(value: Any) -> str:
    """A value as people read it; a rate with its interval and counts."""
    if isinstance(value, Mapping) and "value" in value:
        interval = value.get("ci95") or []
        around = (
            f" ({interval[0]:.3f}-{interval[1]:.3f}, n = {value.get('n')})"
            if len(interval) == len("ab")
            else ""
        )
        return f"{shown(value['value'])}{around}"
    if value is None:
        return NOT_RUN
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(item)}" for name, item in sorted(value.items())) or "none"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(facts: Facts, rows: Sequence[Row]) -> list[str]:
    """A Markdown table with the source of every number."""
    lines = ["| | | source |", "|---|---|---|"]
    return [
        *lines,
        *(
            f"| {row.label} | {shown(facts.value(row.file, row.pointer))} | `{row.file}` `{row.pointer}` |"
            for row in rows
        ),
    ]


def metadata(facts: Facts, *, evaluate: str, name: str, base_model: str, file: str) -> list[str]:
    """The YAML head that the hub reads; strings are quoted as JSON, which is YAML."""
    results = [
        f"    - type: {kind}\n      name: {key}\n      value: {value}"
        for key, kind in METADATA_METRICS
        if (value := _plain(facts.value(evaluate, f"{HEADLINE}/{key}"))) is not None
    ]
    index = (
        [
            "model-index:",
            f"- name: {json.dumps(name)}",
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
        if results
        else []
    )
    return [
        "---",
        "language:",
        "- ja",
        "license: other",
        "license_name: as-base-model",
        "library_name: gguf",
        "pipeline_tag: text-generation",
        f"base_model: {json.dumps(base_model)}",
        f"model_file: {json.dumps(file)}",
        "tags:",
        "- gguf",
        "- llama.cpp",
        "- safety",
        "- triage",
        "- calibrated",
        *index,
        "---",
    ]


def _plain(value: Any) -> float | None:
    found = value.get("value") if isinstance(value, Mapping) else value
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def write(facts: Facts, names: Mapping[str, str], *, sentence: str, commands: str) -> str:
    """The card's text.

    Args:
        facts: result files by shown name.
        names: `name`, `base_model`, `file`, and the shown names `card`, `evaluate`, `verify`, `compare`.
        sentence: the gate's sentence about the certificate.
        commands: how to run the file.
    """
    card, evaluate, verify, compare = (
        names[key] for key in ("card", "evaluate", "verify", "compare")
    )
    limits = facts.value(card, "/limits") or []
    lines = [
        *metadata(
            facts,
            evaluate=evaluate,
            name=names["name"],
            base_model=names["base_model"],
            file=names["file"],
        ),
        "",
        f"# {names['name']}",
        "",
        f"**{sentence}**",
        "",
        "A Japanese assistant that sorts every request into ALLOW, ESCALATE or DENY from one prefill, and answers what it "
        "allows. The file is a stock GGUF; the decision is made of its numbers by `card.json`.",
        "",
        "## Certificate",
        "",
        *table(facts, _certificate(card)),
        "",
        "## Test splits",
        "",
        *table(facts, _tests(evaluate)),
        "",
        "## Against the base model",
        "",
        *table(facts, _against(compare)),
        "",
        "## Fidelity of the file",
        "",
        *table(facts, _fidelity(verify, card)),
        "",
        "## How to run it",
        "",
        commands,
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in limits or [NOT_RUN]),
        "",
        "- Private thinking is part of the model's text: a plain chat client can be made to show it.",
        "- A server that does not apply `card.json` gives answers without the certified decision.",
    ]
    return "\n".join(lines) + "\n"


def _certificate(card: str) -> list[Row]:
    return [
        Row(label, card, pointer)
        for label, pointer in (
            ("status", "/status"),
            ("reasons", "/reasons"),
            ("largest false-allow rate", "/certificate/alpha"),
            ("chance that the certificate is wrong", "/certificate/delta"),
            ("for", "/certificate/guarantee"),
            ("groups missing", "/certificate/need_groups"),
            ("readout", "/readout"),
            ("temperature", "/temperature"),
            ("DENY from", "/thresholds/deny"),
            ("nothing allowed from", "/thresholds/escalate"),
            ("sampled", "/sampled"),
        )
    ]


def _tests(evaluate: str) -> list[Row]:
    names = (
        ("false-allow rate", "false_allow_rate"),
        ("true ALLOW allowed", "allow_rate_on_allow"),
        ("accuracy", "accuracy"),
        ("macro-F1", "macro_f1"),
    )
    return [
        Row(f"{split}: {label}", evaluate, f"/splits/{split}/{key}")
        for split in ("test_iid", "test_cells", "test_phrases")
        for label, key in names
    ]


def _against(compare: str) -> list[Row]:
    return [
        Row("conclusion", compare, "/conclusion/sentence"),
        *(
            Row(
                f"{side}: false-allow rate, test_iid",
                compare,
                f"/splits/test_iid/{side}/false_allow_rate",
            )
            for side in ("a", "b")
        ),
    ]


def _fidelity(verify: str, card: str) -> list[Row]:
    return [
        Row("tensor types", verify, "/histogram"),
        Row("bits per weight", verify, "/bits_per_weight"),
        Row("top-1 agreement with F16", verify, "/drift/top1"),
        Row("KL from F16, mean", verify, "/drift/kl_mean"),
        Row("top-1 agreement with Hugging Face", verify, "/logits/top1"),
        Row("semantic digest", card, "/semantic_digest"),
        Row("engine", card, "/engine"),
    ]
