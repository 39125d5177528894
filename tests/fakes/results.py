"""A whole tree of result files of a made-up model pair: real calibration, comparison and evaluation of simulated scores.

A is hardly better than chance, B is good. Only what needs trained models (verify, bake, running the files) is written by
hand, in the shapes of their stages.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from so8t import card
from so8t.calibration.calibrate import calibrate
from so8t.comparison.compare import compare, rules_of
from so8t.comparison.retention import retention
from so8t.comparison.sides import Side
from so8t.evaluation.evaluate import Job, decide_splits, write
from so8t.evaluation.speed import write_speed
from so8t.files import read_json, sha256_file, write_json, write_jsonl
from so8t.generated import NOT_RUN, NOT_TIMED, Generated, Timings
from so8t.generation.speed import distribution
from so8t.metrics import read_meta
from so8t.params import Params

ROOT = Path(__file__).parents[2]
DOMAINS = ("defense", "aerospace", "transport", "general")
VERDICTS = ("ALLOW", "ESCALATE", "DENY")
SKILL = {"a": 0.6, "b": 3.6}
SIZES = {"valid": 40, "calibration": 1600, "test_iid": 400, "test_cells": 240, "test_phrases": 240}
# Rows that the certificate is not about: how many of each kind, and the factor that names it.
KINDS = {
    "test_foreign": ("kind", {"code": 30, "advice": 30}),
    "test_evasion": ("evasion", {"zero_width": 24, "benign_around": 24}),
    "probe": ("kind", {"社外/質問": 8, "雑談": 4}),
}
SHIFT = {"test_phrases": 0.45, "test_cells": 0.8}
# How many n-grams of the worst sentence are new: none or few, some, nearly all.
NEW_NGRAMS = {"test_phrases": 0.1, "test_foreign": 0.8, "test_evasion": 0.05, "probe": 0.3}
RUN = ("Q4_K_M", "F16")


def rows_of(split: str, seed: int) -> list[dict[str, Any]]:
    """Prepared rows: two per group, verdicts and domains evenly mixed."""
    rng = np.random.default_rng(seed)
    return [
        {
            "id": f"{split}-{i:04d}",
            "group": f"{split}-g{i // 2}",
            "domain": DOMAINS[i // 2 % 4],
            "verdict": VERDICTS[rng.integers(3)],
            "text": f"依頼 {i} の内容を要約してください。",
            "thinking": f"内密の思考 {i}",
            "final": f"回答 {i} です。",
        }
        for i in range(SIZES[split])
    ]


def rows_of_kinds(split: str) -> list[dict[str, Any]]:
    """Rows of no domain, disguised or of a probe; each kind's verdicts are unsafe."""
    factor, kinds = KINDS[split]
    names = [name for name, count in kinds.items() for _ in range(count)]
    return [
        {
            "id": f"{split}-{i:04d}",
            "group": f"{split}-g{i}",
            "domain": "foreign",
            "verdict": VERDICTS[1 + i % 2],
            "text": f"範囲外の依頼 {i} です。",
            "factors": {factor: name},
        }
        for i, name in enumerate(names)
    ]


def strangeness_of(split: str, count: int) -> dict[str, np.ndarray]:
    """Familiarity signals: of the texts, so the same for every file."""
    rng = np.random.default_rng(len(split))
    new = rng.beta(1, 30, count) + NEW_NGRAMS.get(split, 0.0) * rng.random(count)
    return {"ngrams": np.round(np.minimum(new, 1.0), 3), "length": rng.gamma(2, 0.5, count)}


def score_rows(
    rows: list[dict[str, Any]], model: str, split: str, noise: float, seed: int
) -> list[dict[str, Any]]:
    """Scores whose quality depends on the model, the shift of the split and the noise of a type."""
    rng = np.random.default_rng(seed)
    scored = []
    strange = strangeness_of(split, len(rows))
    for place, row in enumerate(rows):
        logits = (
            rng.normal(size=3)
            + np.eye(3)[VERDICTS.index(row["verdict"])] * SKILL[model] * SHIFT.get(split, 1.0)
            + rng.normal(size=3) * noise
        )
        cue = logits * 1.3 + rng.normal(size=3) * 0.3
        scored.append(
            {
                **{k: row[k] for k in ("id", "group", "domain", "verdict")},
                "authority": "handle",
                "prefill": logits.tolist(),
                "authority_logits": [0.0, 0.0],
                "cue": (cue - np.log(np.exp(cue).sum()) - 0.02).tolist(),
                "residual": 0.02,
                "reserved_mass": 0.0001,
                "strangeness": {name: float(values[place]) for name, values in strange.items()},
                "refusal": None,
                "parts": 0,
                "whole": None,
            }
        )
    return scored


def ran(model: str, seed: int) -> Generated:
    """Sections that need a running model, made up."""
    rng, good = np.random.default_rng(seed), model == "b"

    def rate(k: int, n: int) -> dict[str, Any]:
        return {
            "value": k / n,
            "k": k,
            "n": n,
            "ci95": [max(0.0, k / n - 0.1), min(1.0, k / n + 0.1)],
        }

    score = {
        "value": 31.5 if good else 12.25,
        "n": 24,
        "ci95": [24.0, 39.5] if good else [8.0, 17.0],
    }
    return Generated(
        {
            "generation": {
                "status": "run",
                "n": 24,
                "tokens": 1920,
                "format_adherence": rate(23 if good else 3, 24),
                "final_present": rate(23 if good else 4, 24),
                "hit_limit": rate(1, 24),
                "reserved_emitted": 0,
                "overlap": {
                    "n": 24,
                    "bleu": score,
                    "chrf": score,
                    "rouge_l": {"value": 0.41, "n": 24, "ci95": [0.3, 0.5]},
                },
            },
            "stability": {
                "status": "run",
                "n": 2,
                "tokens": 2048,
                "loops": 1,
                "repetitive": 1,
                "unstable": 1,
                "hit_limit": 2,
                "texts": [],
            },
            "retention": {
                "status": "run",
                "n": 64,
                "tokens": 2100,
                "nll_per_token": {"value": 1.2, "n": 64, "ci95": [1.1, 1.3]},
                "perplexity": {"value": 3.4 if good else 3.1, "n": 64, "ci95": [3.0, 3.7]},
                "bits_per_character": 0.8,
                "plain": {
                    "status": "run",
                    "n": 24,
                    "chrf": score,
                    "chance_chrf": {"value": 8.75, "n": 24, "ci95": [6.5, 11.0]},
                    "above_chance": {"value": 3.5, "n": 24, "ci95": [-1.0 if good else 1.0, 8.0]},
                    "beyond_chance": not good,
                    "marked": rate(5 if good else 0, 24),
                    "empty": rate(0, 24),
                },
            },
        },
        [
            {
                "kind": "likelihood",
                "id": f"v{i}",
                "group": f"g{i // 2}",
                "nats": float(rng.gamma(9, 4 if good else 3)),
                "tokens": 30,
            }
            for i in range(64)
        ]
        + [
            {
                "kind": "plain",
                "id": f"v{i}",
                "group": f"g{i // 2}",
                "chrf": float(rng.uniform(5, 20)),
            }
            for i in range(24)
        ]
        + [
            {
                "kind": "served",
                "id": f"t{i}",
                "group": f"h{i}",
                "text": f"依頼 {i}",
                "final": f"{model} の回答 {i}",
            }
            for i in range(24)
        ],
    )


def timings(seed: int) -> Timings:
    """Times of a made-up machine; another seed is another machine."""
    seconds = np.random.default_rng(seed).lognormal(-5, 0.3, 24).tolist()
    rates = [1 / second for second in seconds]
    return Timings(
        {
            "status": "run",
            "n": 24,
            "threads": 2,
            "prefill_tokens_per_s": distribution([90 * rate for rate in rates], digits=1),
            "decode_tokens_per_s": distribution([24 * rate for rate in rates], digits=1),
            "prefill_s": distribution(seconds),
            "verdict_s": distribution(seconds),
            "cue_s": distribution([2 * one for one in seconds]),
            "prompt_tokens_mean": 90.0,
            "peak_rss_bytes": 300 * 2**20 + 4096 * seed,
        },
        seconds,
    )


def write_times(root: Path, job: Job, timed: Timings) -> None:
    """The files of times of one file."""
    name = f"speed-{job.model}-{job.type}"
    write_speed(
        job,
        timed,
        out=root / f"reports/metrics/{name}.json",
        plots=root / f"reports/plots/{name}",
    )


def score_file(
    root: Path, model: str, kind: str, prepared: dict[str, list[dict[str, Any]]], seed: int
) -> Path:
    """data/scores/{model}-{kind}/ as the score stage writes it."""
    folder = root / f"data/scores/{model}-{kind}"
    noise = {"F16": 0.0, "Q8_0": 0.02, "Q5_K_M": 0.1, "Q4_K_M": 0.25}[kind]
    for split, rows in prepared.items():
        write_jsonl(folder / f"{split}.jsonl", score_rows(rows, model, split, noise, seed))
    write_json(
        folder / "meta.json",
        {
            "schema": "so8t.scores/2",
            "reference_sha256": sha256_file(root / "data/prepared/train.jsonl"),
            "file": f"{model}-{kind}.gguf",
            "semantic_digest": f"{model}{kind}".ljust(64, "0"),
            "template_sha256": "1" * 64,
            "engine": {"llama_cpp": "test", "flash_attn": False, "n_ctx": 2048},
            "n": {s: len(r) for s, r in prepared.items()},
            "sampled": False,
            "splits_sha256": {},
        },
    )
    return folder


def evaluate_file(root: Path, folder: Path, params: Params, seed: int) -> None:
    """Card, metrics and tables of one file."""
    model, _, kind = folder.name.partition("-")
    card_path, gguf = (
        root / f"models/calibration/{folder.name}.json",
        root / f"models/gguf/{folder.name}.gguf",
    )
    made = calibrate(
        folder,
        card_path,
        train=root / "data/prepared/train.jsonl",
        readout=getattr(params.scoring.readout, model),
        limits=params.calibration,
        seed=params.seed,
    )
    gguf.parent.mkdir(parents=True, exist_ok=True)
    gguf.write_bytes(b"0" * {"F16": 9000, "Q8_0": 5000, "Q5_K_M": 3600, "Q4_K_M": 3000}[kind])
    job = Job(gguf, folder, made, read_meta(folder))
    found, timed = (ran(model, seed), timings(seed)) if kind in RUN else (NOT_RUN, NOT_TIMED)
    write_times(root, job, timed)
    write(
        job,
        decide_splits(job),
        found,
        params,
        prepared=root / "data/prepared",
        out=root / f"reports/metrics/evaluate-{folder.name}.json",
        plots=root / f"reports/plots/{folder.name}",
    )
    write_jsonl(root / f"data/answers/{folder.name}.jsonl", found.answers)
    drift = {
        "prompts": 32,
        "positions": 900,
        "top1": 0.98,
        "max_abs_error": 0.4,
        "kl_mean": 0.002,
        "verdict_flips": 1,
    }
    exact = {
        "prompts": 32,
        "positions": 900,
        "top1": 0.999,
        "max_abs_error": 0.01,
        "kl_mean": 1e-6,
        "verdict_probability_max_error": 0.002,
    }
    write_json(
        root / f"reports/metrics/verify-{folder.name}.json",
        {
            "schema": "so8t.verify/1",
            "file": gguf.name,
            "type": kind,
            "bytes": gguf.stat().st_size * 1500,
            "bits_per_weight": 4.9,
            "problems": [],
            "semantic_digest": "0" * 64,
            **({"logits": exact} if kind == "F16" else {"drift": drift}),
        },
    )


def compare_files(root: Path, params: Params, prepare: dict[str, Any]) -> None:
    """reports/metrics/ab.json."""

    def side(name: str) -> Side:
        return Side(
            root / f"data/scores/{name}", card.read(root / f"models/calibration/{name}.json")
        )

    kind = params.release.type
    pairs = [
        (side(f"{model}-F16"), side(f"{model}-{quant}"))
        for model in ("a", "b")
        for quant in params.scoring.types
        if quant != "F16"
    ]
    found = compare(
        side(f"a-{kind}"),
        side(f"b-{kind}"),
        rules_of(params.compare, params.seed),
        prepare=prepare,
        pairs=pairs,
    )
    kept = retention(
        root / f"data/answers/a-{kind}.jsonl",
        root / f"data/answers/b-{kind}.jsonl",
        draws=500,
        seed=1,
    )
    write_json(root / "reports/metrics/ab.json", {**found, "retention": kept})


def other_files(root: Path) -> dict[str, Any]:
    """prepare.json, train.json, train.csv and the bake report."""
    splits = ("train", "valid", "calibration", "test_iid", "test_cells", "test_phrases")
    probe = {
        split: {
            "n": 200,
            "accuracy": 0.62,
            "macro_f1": 0.6,
            "false_allow_rate": 0.2,
            "pairs_right": 0.3,
        }
        for split in splits
    }
    prepare = {
        "schema": "so8t.prepare/1",
        "rows": dict.fromkeys(splits, 400),
        "groups": dict.fromkeys(splits, 200),
        "probes": {
            "single_factor": {"by_factor": {}, "largest": 0.48},
            "keywords": probe,
            "ngram": probe,
        },
    }
    write_json(root / "reports/metrics/prepare.json", prepare)
    from so8t.training.report import read_log, summarise, thin, to_csv

    log = root / "data/train_log.csv"
    head = (
        "step,progress,lr,loss,lm,safety,authority,label,pet,pet_raw,lambda,grad_norm_lora,grad_norm_gate,grad_norm_head,max_angle,mean_angle,"
        "orthogonality,tokens,valid_loss,valid_verdict"
    )
    lines = [head]
    for step in range(1, 201):
        decay = float(np.exp(-step / 60))
        valid = f"{1 + decay:.4f},{1 - 0.6 * decay:.4f}" if step % 20 == 0 else ","
        losses = ",".join(
            f"{value:.5f}"
            for value in (
                1 + 2 * decay,
                0.8 + decay,
                decay,
                0.5 * decay,
                0.4 * decay,
                0.2 + 0.1 * decay,
            )
        )
        weight = 0.01 if step < 40 else 0.05 if step < 120 else 0.1
        lines.append(
            f"{step},{step / 200},0.001,{losses},9,{weight},1,0.5,0.7,{step / 400},{step / 2000},2e-7,640,{valid}"
        )
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = read_log(log)
    write_json(root / "reports/metrics/train.json", summarise(rows))
    (root / "reports/plots/train.csv").write_text(to_csv(thin(rows)), encoding="utf-8")
    write_json(
        root / "models/baked/so8t_bake.json",
        {
            "schema": "so8t.bake/1",
            "layers": [0, 1, 2, 3],
            "lora_weights": 16,
            "rotated_weights": 4,
            "head_scale": 1.0,
            "parity": {
                "conversations": 32,
                "positions": 1200,
                "max_abs_error": 2e-6,
                "largest_logit": 21.0,
                "relative_error": 1e-7,
                "limit": 1e-4,
                "top1_agreement": 1.0,
                "max_abs_change_from_base": 4.2,
            },
            "drift": {
                "quantization": "nf4",
                "measured": True,
                "kl_mean": 3.4e-3,
                "kl_max": 0.2,
                "top1_agreement": 0.97,
                "verdicts": 32,
                "verdict_flips": 1,
                "flips_to_allow": 0,
            },
        },
    )
    return prepare


def write_results(
    root: Path, params: Params, types: tuple[str, ...] = ("F16", "Q8_0", "Q5_K_M", "Q4_K_M")
) -> Path:
    """Everything the report reads, below `root`; params.yaml is the project's, with only `types` scored."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    before = "".join(f"  - {kind}\n" for kind in ("F16", "Q8_0", "Q5_K_M", "Q4_K_M"))
    (root / "params.yaml").write_text(
        text.replace(before, "".join(f"  - {kind}\n" for kind in types)), encoding="utf-8"
    )
    params = params.model_copy(
        update={"scoring": params.scoring.model_copy(update={"types": list(types)})}
    )
    prepared = {split: rows_of(split, seed) for seed, split in enumerate(SIZES)}
    prepared |= {split: rows_of_kinds(split) for split in KINDS}
    write_jsonl(root / "data/prepared/train.jsonl", prepared["valid"][:20])
    for split, rows in prepared.items():
        write_jsonl(root / f"data/prepared/{split}.jsonl", rows)
    for number, (model, kind) in enumerate(
        (model, kind) for model in ("a", "b") for kind in params.scoring.types
    ):
        evaluate_file(
            root,
            score_file(root, model, kind, prepared, 100 if model == "a" else 200),
            params,
            number,
        )
    prepare = other_files(root)
    compare_files(root, params, prepare)
    return root


def edit(path: Path, change: Any) -> None:
    """Change a JSON file in place, as a person with an editor would."""
    content = read_json(path)
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
