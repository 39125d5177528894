"""Synthetic scores with known laws, in memory and as a scores directory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from so8t.familiarity import Index, Reference
from so8t.files import sha256_file
from so8t.metrics import Scores
from so8t.params import Calibration, Temperature
from so8t.verdict import VERDICTS

DOMAINS = ("aerospace", "defense", "general", "transport")
BOUNDS = Temperature(min=0.05, max=20.0, grid_min=0.5, grid_max=2.0, grid_steps=16)
ENGINE = {
    "llama_cpp": "test",
    "flash_attn": False,
    "type_k": "f16",
    "type_v": "f16",
    "n_ctx": 2048,
    "n_batch": 512,
    "threads": 2,
}


def limits(**changes: Any) -> Calibration:
    """params.calibration of the demo, with changes."""
    values = {
        "alpha": 0.05,
        "delta": 0.05,
        "alpha_deny": None,
        "guarantee": "worst_domain",
        "cost": None,
        "floor_allow": 0.5,
        "residual_mass_max": 0.2,
        "unparsed_max": 0.05,
        "bootstrap": 200,
        "novelty": 0.02,
        "signals": ["ngrams", "length"],
        "temperature": BOUNDS,
    }
    return Calibration.model_validate(values | changes)


def meta(name: str = "b-Q4_K_M", *, digest: str = "d" * 64) -> dict[str, Any]:
    """meta.json of a scores directory."""
    return {
        "schema": "so8t.scores/2",
        "file": f"{name}.gguf",
        "semantic_digest": digest,
        "template_sha256": "t" * 64,
        "engine": ENGINE,
        "n": {},
        "sampled": False,
        "splits_sha256": {"calibration": "c" * 64},
    }


def make(
    n: int,
    seed: int,
    *,
    separation: float = 2.4,
    sharpness: float = 1.0,
    per_group: int = 2,
    domains: tuple[str, ...] = DOMAINS,
    name: str = "r",
) -> Scores:
    """n rows in groups; logits = sharpness * (N(0, 1) + separation on the gold class); groups share half their noise."""
    rng = np.random.default_rng(seed)
    count = -(-n // per_group)
    group = np.repeat(np.arange(count), per_group)[:n]
    gold = rng.integers(0, 3, n)
    noise = np.sqrt(0.5) * (rng.standard_normal((count, 3))[group] + rng.standard_normal((n, 3)))
    logits = noise + separation * np.eye(3)[gold]
    return Scores(
        tuple(f"{name}{i:05d}" for i in range(n)),
        tuple(f"{name}g{g:05d}" for g in group),
        tuple(domains[g % len(domains)] for g in group),
        gold,
        sharpness * logits,
        np.full(n, 0.01),
        strangeness=usual(n),
    )


def usual(n: int) -> dict[str, np.ndarray]:
    """Familiarity signals of n rows that are like any other."""
    return {"ngrams": np.zeros(n), "length": np.zeros(n)}


# Calibration rows of which none is strange: what is as usual as they are is familiar.
_USUAL = {domain: [0.0] * 200 for domain in DOMAINS}
INDEX = Index(
    0.02,
    ("ngrams", "length"),
    Reference.of(["資料を要約して"]),
    {"ngrams": _USUAL, "length": _USUAL},
)
FAMILIAR = {"ngrams": 0.0, "length": 0.0}
STRANGE = {"ngrams": 0.5, "length": 0.0}


def train_of(folder: Path) -> Path:
    """The training rows that a scores directory of `write` was made with."""
    return folder / "train.jsonl"


def with_logits(scores: Scores, logits: np.ndarray) -> Scores:
    """The same rows with other numbers."""
    return replace(scores, logits=logits)


def write(folder: Path, splits: dict[str, Scores], about: dict[str, Any] | None = None) -> Path:
    """Write a scores directory; non-finite numbers become null, as the score stage writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, scores in splits.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as out:
            for i, name in enumerate(scores.ids):
                numbers = [float(x) if np.isfinite(x) else None for x in scores.logits[i]]
                out.write(
                    json.dumps(
                        {
                            "id": name,
                            "group": scores.groups[i],
                            "domain": scores.domains[i],
                            "verdict": VERDICTS[scores.gold[i]].value,
                            "authority": None,
                            "prefill": numbers,
                            "cue": numbers,
                            "authority_logits": [0.0, 0.0],
                            "residual": float(scores.residual[i]),
                            "reserved_mass": 0.0,
                            "strangeness": {
                                signal: float(values[i])
                                for signal, values in scores.strangeness.items()
                            },
                            "refusal": None,
                            "parts": 0,
                            "whole": None,
                        }
                    )
                    + "\n"
                )
    row = {"id": "t", "text": "資料を要約して", "group": "t", "verdict": "ALLOW"}
    train_of(folder).write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    held = {"reference_sha256": sha256_file(train_of(folder)), **(about or meta(folder.name))}
    (folder / "meta.json").write_text(json.dumps(held), encoding="utf-8")
    return folder
