"""Is the data trivial? Probes that read no meaning say how far one gets without any.

There are three: the best rule that looks at one factor, two lists of keywords, and a linear
classifier on character n-grams. Their figures are baselines for the trained model and guards for
the generator; they never touch the model.

The keyword lists and their order are those of the project's first design, which decided by them.
They are here to be compared with, never to decide.

Covered: accuracy, macro-F1 and false-allow rate by split. Not covered: intervals (`so8t.metrics`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from so8t.rows import SPLITS, Row, read_rows
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
# Rows read of each split, so that the n-gram probe stays quick however large the data are.
MOST_ROWS = 8000
NGRAMS = (1, 4)  # characters, shortest and longest


def probes(folder: Path) -> dict[str, Any]:
    """Every probe on the prepared splits in `folder`, as it goes into the metrics.

    Returns:
        `single_factor` as `single_factor` gives it; `keywords` and `ngram`, each {split: what
        `score` gives}; `ngram` is null where there is nothing to learn from.
    """
    splits = {}
    every = []
    keywords = {}
    for name in SPLITS:
        rows = labelled(folder / f"{name}.jsonl")
        splits[name] = rows
        every.extend(rows)
        if rows:
            said = [keyword_verdict(row.text) for row in rows]
            keywords[name] = score(rows, said)
    return {
        "single_factor": single_factor(every),
        "keywords": keywords,
        "ngram": ngram(splits),
    }


def labelled(path: Path) -> list[Row]:
    """The rows of a split that have a verdict, at most MOST_ROWS of them."""
    rows: list[Row] = []
    for row in read_rows(path):
        if row.verdict is not None:
            rows.append(row)
        if len(rows) >= MOST_ROWS:
            break
    return rows


def keyword_verdict(text: str) -> Verdict:
    """The first list with a word in the text decides; otherwise ALLOW."""
    if any(word in text for word in DENY_WORDS):
        return Verdict.DENY
    if any(word in text for word in ESCALATE_WORDS):
        return Verdict.ESCALATE
    return Verdict.ALLOW


def single_factor(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy of the best rule that looks at one factor only.

    Returns:
        `by_factor` {name: accuracy on these very rows}, and the `largest` of them, null where no
        row has a factor.
    """
    # Factor -> value -> verdict -> rows
    counts: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        verdict = str(row.verdict)
        factors = {**row.factors, "domain": row.domain}
        for name, value in factors.items():
            values = counts.setdefault(name, defaultdict(Counter))
            values[str(value)][verdict] += 1
    accuracy = {}
    for name, values in sorted(counts.items()):
        right = 0
        total = 0
        for verdicts in values.values():
            # The best such rule gives every value the verdict that it has most often.
            right += max(verdicts.values())
            total += verdicts.total()
        accuracy[name] = round(right / total, 4)
    largest = max(accuracy.values(), default=None)
    return {"by_factor": accuracy, "largest": largest}


def ngram(splits: Mapping[str, Sequence[Row]]) -> dict[str, Any] | None:
    """TF-IDF of character n-grams and logistic regression, learnt from train, scored everywhere.

    Returns:
        {split: what `score` gives} for every split with rows; None where train has fewer than two
        verdicts, so that there is nothing to learn.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train = splits["train"]
    texts = [row.text for row in train]
    verdicts = [str(row.verdict) for row in train]
    if len(set(verdicts)) < 2:
        return None
    weights = TfidfVectorizer(
        analyzer="char",
        ngram_range=NGRAMS,
        sublinear_tf=True,
        # An n-gram that occurs once can be learnt by heart, and nothing else.
        min_df=2,
    )
    # Regularised little: the probe should find what there is to be found.
    model = make_pipeline(weights, LogisticRegression(C=20.0, max_iter=2000))
    model.fit(texts, verdicts)
    scores = {}
    for name, rows in splits.items():
        if rows:
            said = model.predict([row.text for row in rows])
            scores[name] = score(rows, said)
    return scores


def score(rows: Sequence[Row], predicted: Iterable[str]) -> dict[str, Any]:
    """How right predicted verdicts are.

    Args:
        rows: n labelled rows.
        predicted: n verdicts.

    Returns:
        `n`, `accuracy`, `macro_f1`, `false_allow_rate` (share of true ESCALATE and DENY rows that
        are allowed) and `pairs_right` (share of minimal pairs with every member right); null where
        there is nothing to take a share of.
    """
    gold = [str(row.verdict) for row in rows]
    said = [str(verdict) for verdict in predicted]
    hits = []
    false_allows = []
    for true, found in zip(gold, said, strict=True):
        hits.append(found == true)
        if true != Verdict.ALLOW:
            false_allows.append(found == Verdict.ALLOW)
    return {
        "n": len(gold),
        "accuracy": _share(hits),
        "macro_f1": _macro_f1(gold, said),
        "false_allow_rate": _share(false_allows),
        "pairs_right": _share(_pairs(rows, hits)),
    }


def _share(hits: Sequence[bool]) -> float | None:
    if not hits:
        return None
    share = sum(hits) / len(hits)
    return round(share, 4)


def _macro_f1(gold: list[str], said: list[str]) -> float:
    pairs = Counter(zip(gold, said, strict=True))
    total = 0.0
    for verdict in VERDICTS:
        right = pairs[verdict, verdict]
        # F1 = 2 * right / (true + predicted); 0 for a verdict that neither side names.
        named = gold.count(verdict) + said.count(verdict)
        if named:
            total += 2 * right / named
    macro = total / len(VERDICTS)
    return round(macro, 4)


def _pairs(rows: Sequence[Row], hits: Sequence[bool]) -> list[bool]:
    """For each pair with more than one member here, whether all of them are right."""
    pairs: dict[str, list[bool]] = defaultdict(list)
    for row, hit in zip(rows, hits, strict=True):
        if row.pair:
            pairs[row.pair].append(hit)
    whole = []
    for members in pairs.values():
        # The partner may have been dropped by `prepare`.
        if len(members) > 1:
            whole.append(all(members))
    return whole
