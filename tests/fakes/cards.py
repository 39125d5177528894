"""Cards for tests: consistent and sealed, with the thresholds a test asks for."""

from pathlib import Path
from typing import Any

from so8t import card as cards
from so8t.familiarity import Index, Reference
from so8t.identity import semantic_digest
from so8t.llama import Engine
from so8t.prompts import Prompter

# Of an index to which everything is familiar, so that a test sees the verdict alone.
LOOSE = 1e6
LOOSE_INDEX = Index(
    0.02,
    ("ngrams", "length"),
    Reference.of(["資料を要約して"]),
    {signal: {"general": [LOOSE] * 200} for signal in ("ngrams", "length")},
)


def make_card(
    file: Path,
    system: str,
    *,
    certified: bool = True,
    escalate: float = 1.0,
    deny: float = 1.0,
    **changes: Any,
) -> cards.Card:
    """A card for a GGUF file; `escalate` 1.0 allows nearly everything, 0.0 nothing."""
    limit = escalate if certified else 0.0
    with Engine(file, n_ctx=1024, threads=1) as engine:
        engine_settings, template = engine.settings(), Prompter(engine, system).digest
    body = {
        "status": "certified" if certified else "not_certified",
        "reasons": [] if certified else ["too_few_groups"],
        "file": file.name,
        "semantic_digest": semantic_digest(file),
        "template_sha256": template,
        "engine": engine_settings,
        "readout": "prefill",
        "sampled": False,
        "temperature": 2.0,
        "thresholds": {
            "deny": deny,
            "escalate": limit,
            "allow": 1.0 - limit if certified else None,
        },
        "residual": {"applies": False, "max": 0.2},
        "familiarity": {
            "budget": 0.02,
            "budget_kept": True,
            "limits": {"ngrams": LOOSE, "length": LOOSE},
            "index": LOOSE_INDEX.digest,
        },
        "metrics": {"ece": 0.1},
        "measured": {"allow_rate_on_allow": {"value": 0.8}},
        "certificate": {
            "alpha": 0.05,
            "delta": 0.05,
            "guarantee": "worst_domain",
            "need_groups": {},
            "strata": [
                {
                    "name": "general",
                    "binding": True,
                    "threshold": 1.0,
                    "groups": 59,
                    "alpha": 0.05,
                    "allowed_errors": 0,
                }
            ],
        },
        "false_deny": {},
        "temperature_fit": {},
        "founding": {},
        "advisory": None,
        "data": {},
        "limits": [],
        "previous": None,
    }
    return cards.build(body | changes)
