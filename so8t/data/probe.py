"""The founding documents' keyword agent: the baseline that a model must beat by a wide margin.

Words and order are as described in SPEC 3.22. It is here to be compared with, never to decide.

Is the data trivial? Probes that read no meaning: one factor at a time, keyword rules, character n-grams.

The figures are baselines for model B and guards for the generator; they never touch the model.
Covered: accuracy, macro-F1 and false-allow rate by split. Not covered: intervals (metrics).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from so8t.files import read_jsonl
from so8t.rows import SPLITS
from so8t.verdict import VERDICTS, Verdict

DENY_WORDS = (
    "機密",
    "秘密",
    "未公開",
    "内部",
    "機密情報",
    "秘密情報",
    "パスワード",
    "認証情報",
    "API キー",
    "APIキー",
    "トークン",
    "秘密鍵",
    "プライベートキー",
)
ESCALATE_WORDS = (
    "詳細な仕様",
    "具体的な運用",
    "専門的な判断",
    "内部構造",
    "設計",
    "実装",
    "運用方法",
    "技術仕様",
    "詳細仕様",
    "性能データ",
)


def verdict(text: str) -> Verdict:
    """The first list with a word in the text decides; otherwise ALLOW."""
    if any(word in text for word in DENY_WORDS):
        return Verdict.DENY
    return Verdict.ESCALATE if any(word in text for word in ESCALATE_WORDS) else Verdict.ALLOW


TRAIN_ROWS = 8000  # the probe learns from at most so many rows
NGRAMS = (1, 4)  # characters


def labelled(path: Path) -> list[dict[str, Any]]:
    """The rows of a split that have a verdict, at most TRAIN_ROWS of them."""
    rows: list[dict[str, Any]] = []
    for _, row in read_jsonl(path):
        if row["verdict"] is not None:
            rows.append(
                {
                    "text": row["text"],
                    "verdict": row["verdict"],
                    "factors": row["factors"],
                    "pair": row["pair"],
                    "domain": row["domain"],
                }
            )
        if len(rows) >= TRAIN_ROWS:
            break
    return rows


def probes(folder: Path) -> dict[str, Any]:
    """Every probe on the prepared splits."""
    splits = {name: labelled(folder / f"{name}.jsonl") for name in SPLITS}
    return {
        "single_factor": single_factor([row for rows in splits.values() for row in rows]),
        "keywords": {
            name: score(rows, [verdict(r["text"]) for r in rows])
            for name, rows in splits.items()
            if rows
        },
        "ngram": ngram(splits),
    }


def single_factor(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy of the best rule that looks at one factor only, for every factor, and the largest."""
    counts: dict[str, dict[Any, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        for name, value in {**row["factors"], "domain": row["domain"]}.items():
            counts[name][str(value)][row["verdict"]] += 1
    accuracy = {
        name: round(
            sum(max(c.values()) for c in values.values())
            / sum(sum(c.values()) for c in values.values()),
            4,
        )
        for name, values in sorted(counts.items())
    }
    return {"by_factor": accuracy, "largest": max(accuracy.values()) if accuracy else None}


def score(rows: Sequence[Mapping[str, Any]], predicted: Iterable[str]) -> dict[str, Any]:
    """n, accuracy, macro-F1, false-allow rate (over true ESCALATE and DENY), and share of pairs with every member right."""
    gold, said = [str(r["verdict"]) for r in rows], [str(p) for p in predicted]
    unsafe = [p for g, p in zip(gold, said, strict=True) if g != Verdict.ALLOW]
    return {
        "n": len(gold),
        "accuracy": _share([g == p for g, p in zip(gold, said, strict=True)]),
        "macro_f1": _macro_f1(gold, said),
        "false_allow_rate": _share([p == Verdict.ALLOW for p in unsafe]),
        "pairs_right": _pairs(rows, gold, said),
    }


def _share(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 4) if hits else None


def _macro_f1(gold: list[str], said: list[str]) -> float:
    values = []
    for verdict in VERDICTS:
        right = sum(g == p == verdict for g, p in zip(gold, said, strict=True))
        total = gold.count(verdict) + said.count(verdict)
        values.append(2 * right / total if total else 0.0)
    return round(sum(values) / len(values), 4)


def _pairs(rows: Sequence[Mapping[str, Any]], gold: list[str], said: list[str]) -> float | None:
    pairs: dict[str, list[bool]] = defaultdict(list)
    for row, g, p in zip(rows, gold, said, strict=True):
        if row["pair"]:
            pairs[row["pair"]].append(g == p)
    return _share([all(hits) for hits in pairs.values() if len(hits) > 1])


def ngram(splits: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """Character n-gram TF-IDF and logistic regression, learnt from train, scored on every split; None if it cannot learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train = splits["train"]
    if len({r["verdict"] for r in train}) < 2:
        return None
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, sublinear_tf=True, min_df=2),
        LogisticRegression(C=20.0, max_iter=2000),
    )
    model.fit([r["text"] for r in train], [r["verdict"] for r in train])
    return {
        name: score(rows, model.predict([r["text"] for r in rows]))
        for name, rows in splits.items()
        if rows
    }
