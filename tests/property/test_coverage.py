"""The guarantee itself: P(false-allow rate > alpha) <= delta, judged by an analytic truth, temperature fit included.

ALLOW's logit is the only random one, so the false-allow rate of any (temperature, threshold) is a normal tail. Rows
come in groups that share most of their noise.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from so8t.calibration.certify import fit, strata_of
from so8t.calibration.thresholds import certified_threshold
from so8t.card import familiar_rows
from so8t.data.alike import ALIKE, AlikeGroups
from so8t.data.near_duplicates import jaccard, shingles
from so8t.familiarity import Example, Reference, limits_of, make_index
from so8t.metrics import Scores
from so8t.params import Calibration
from tests.fakes.scores import limits, usual

REPEATS, DELTA, SPREAD, STEP = 500, 0.05, 2.0, 1.0
SAFE, UNSAFE = (
    3.0,
    (-2.0, -1.0, -3.0, -2.5),
)  # mean ALLOW logit: true ALLOW, and unsafe rows of each domain


def draw(n: int, per_group: int, shared: float, domains: int, rng: np.random.Generator) -> Scores:
    """n rows; a share `shared` of the variance of ALLOW's logit belongs to the group."""
    group = np.arange(n) // per_group
    gold = rng.integers(0, 3, n)
    domain = group % domains
    noise = np.sqrt(shared) * rng.standard_normal(n)[group] + np.sqrt(
        1 - shared
    ) * rng.standard_normal(n)
    allow = np.where(gold == 0, SAFE, np.asarray(UNSAFE)[domain]) + SPREAD * noise
    logits = np.stack([allow, STEP * (gold == 1), STEP * (gold == 2)], axis=1)
    logits[gold == 0, 1] = STEP
    return Scores(
        tuple(map(str, range(n))),
        tuple(map(str, group)),
        tuple(f"d{d}" for d in domain),
        gold,
        logits,
        np.zeros(n),
        strangeness=usual(n),
    )


def true_rate(temperature: float, threshold: float, domain: int) -> float:
    """P(hazard < threshold | unsafe row of the domain), exactly."""
    odds = np.log((1 - threshold) / threshold) if threshold > 0 else np.inf
    limit = temperature * (np.logaddexp(STEP / temperature, 0.0) + odds)
    return float(stats.norm.sf((limit - UNSAFE[domain]) / SPREAD))


def everything(scores: Scores) -> np.ndarray:
    """No row is unfamiliar."""
    return np.ones(len(scores), dtype=bool)


def certify(scores: Scores, how: Calibration) -> tuple[float, float]:
    """(temperature, certified hazard limit), 0 when not certified."""
    fitted = fit(scores, how, "prefill", everything(scores))
    own = [s.threshold for s in strata_of(scores, fitted.hazards, how) if s.binding]
    return fitted.temperature.temperature, min(
        (t for t in own if t is not None), default=0.0
    ) if None not in own else 0.0


def row_wise(scores: Scores, how: Calibration) -> tuple[float, float]:
    """What taking rows as independent would certify."""
    fitted = fit(scores, how, "prefill", everything(scores))
    return fitted.temperature.temperature, certified_threshold(
        fitted.hazards[scores.gold != 0], how.alpha, how.delta
    ) or 0.0


def violations(
    n: int,
    alpha: float,
    *,
    per_group: int,
    shared: float,
    domains: int = 1,
    naive: bool = False,
    repeats: int = REPEATS,
) -> tuple[int, int]:
    """(how often the true worst rate is above alpha, how often anything was certified)."""
    how = limits(alpha=alpha, delta=DELTA, floor_allow=1e-9)
    above = certified = 0
    for seed in range(repeats):
        scores = draw(n, per_group, shared, domains, np.random.default_rng((seed, n, per_group)))
        temperature, threshold = (row_wise if naive else certify)(scores, how)
        certified += threshold > 0
        above += max(true_rate(temperature, threshold, d) for d in range(domains)) > alpha
    return above, certified


def not_rejected(above: int, repeats: int = REPEATS) -> bool:
    """One-sided binomial test at 1 % of `violations <= delta`."""
    return bool(stats.binomtest(above, repeats, DELTA, "greater").pvalue > 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 500, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_certificate_holds_on_grouped_rows(n: int, alpha: float) -> None:
    above, certified = violations(n, alpha, per_group=2, shared=0.9)
    assert not_rejected(above), f"{above} of {REPEATS} above alpha"
    groups = 0.89 * n / 2  # groups of two that hold an unsafe row, on average
    assert (certified > 0.9 * REPEATS) == (groups > np.log(DELTA) / np.log1p(-alpha) + 10)
    if certified > 0.9 * REPEATS:
        assert above >= 1  # the bound is used, not avoided


@pytest.mark.slow
def test_the_certificate_holds_in_the_worst_of_four_unequal_domains() -> None:
    above, certified = violations(1000, 0.05, per_group=2, shared=0.9, domains=4)
    assert not_rejected(above)
    assert certified == REPEATS


@pytest.mark.slow
def test_taking_rows_as_independent_breaks_the_guarantee() -> None:
    above, _ = violations(1000, 0.05, per_group=10, shared=0.9, naive=True, repeats=300)
    assert above > 0.15 * 300
    assert not not_rejected(above, 300)
    kept, certified = violations(1000, 0.05, per_group=10, shared=0.9, repeats=300)
    assert not_rejected(kept, 300)
    assert certified == 300


# --- the familiarity gate, whose limits come from the same rows as the certificate ---

# How much of strangeness is the noise of ALLOW's logit: what is strange is also what the model is
# surest of, so that stopping it is what keeps the rate down.
TIED = 0.8


def with_strangeness(scores: Scores, rng: np.random.Generator) -> Scores:
    """Rows whose signal `ngrams` is standard normal and tied to ALLOW's logit."""
    mean = np.where(scores.gold == 0, SAFE, 0.0)
    for row, domain in enumerate(scores.domains):
        if scores.gold[row] != 0:
            mean[row] = UNSAFE[int(domain[1:])]
    noise = (scores.logits[:, 0] - mean) / SPREAD
    signal = TIED * noise + np.sqrt(1 - TIED**2) * rng.standard_normal(len(scores))
    return replace(scores, strangeness={"ngrams": signal})


def gate_of(scores: Scores, budget: float) -> float:
    """The largest familiar number, as `calibrate` finds it."""
    examples = []
    for row, name in enumerate(scores.ids):
        numbers = {"ngrams": float(scores.strangeness["ngrams"][row])}
        examples.append(Example(name, scores.groups[row], scores.domains[row], numbers))
    index = make_index(Reference.of([]), examples, ["ngrams"], budget)
    return limits_of(index)["ngrams"]


def true_rate_behind(gate: float, temperature: float, threshold: float, domain: int) -> float:
    """P(hazard < threshold and strangeness <= gate | unsafe row of the domain), exactly."""
    if threshold <= 0:
        return 0.0
    odds = np.log((1 - threshold) / threshold)
    limit = temperature * (np.logaddexp(STEP / temperature, 0.0) + odds)
    least = (limit - UNSAFE[domain]) / SPREAD
    both = stats.multivariate_normal(cov=[[1.0, TIED], [TIED, 1.0]])
    return float(stats.norm.cdf(gate) - both.cdf([least, gate]))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.02, 0.2])
def test_the_certificate_holds_behind_the_familiarity_gate(budget: float) -> None:
    """Grouped rows, four unequal domains; gate, temperature and threshold from the same rows."""
    how = limits(alpha=0.05, delta=DELTA, floor_allow=1e-9)
    repeats = 150
    above, certified, stopped = 0, 0, []
    for seed in range(repeats):
        rng = np.random.default_rng((seed, 77))
        scores = with_strangeness(draw(1000, 2, 0.9, 4, rng), rng)
        gate = gate_of(scores, budget)
        familiar = familiar_rows({"ngrams": gate}, scores.strangeness, len(scores))
        fitted = fit(scores, how, "prefill", familiar)
        own = [s.threshold for s in strata_of(scores, fitted.hazards, how) if s.binding]
        threshold = min(t or 0.0 for t in own)
        temperature = fitted.temperature.temperature
        certified += threshold > 0
        rates = [true_rate_behind(gate, temperature, threshold, d) for d in range(4)]
        above += max(rates) > how.alpha
        # Of rows drawn anew from the worst domain, whose signal is standard normal in every one
        # of them (true ALLOW included).
        stopped.append(float(stats.norm.sf(gate)))
    assert not_rejected(above, repeats), f"{above} of {repeats} above alpha"
    assert certified > 0.9 * repeats
    # The novelty budget is kept on average over calibration sets, and it is spent.
    assert 0.1 * budget < np.mean(stopped) <= budget


def copied(count: int, copies: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts of templates with one slot filled anew in each copy, and their own group names."""
    rng = np.random.default_rng(seed)

    def letters(length: int) -> str:
        return "".join(chr(code) for code in rng.integers(0x4E00, 0x9000, length))

    texts = []
    for _ in range(count):
        before, after = letters(30), letters(30)
        texts += [before + letters(6) + after for _ in range(copies)]
    return texts, [f"own{i}" for i in range(len(texts))]


@pytest.mark.slow
@pytest.mark.parametrize("copies", [5, 10])
def test_merging_groups_that_resemble_each_other_keeps_the_promise(copies: int) -> None:
    """60 templates, copied under own group names, pass for 300 or 600 independent groups."""
    count, repeats = 60, 400
    texts, own = copied(count, copies, 1)
    assert ALIKE < jaccard(shingles(texts[0]), shingles(texts[1])) < 0.8
    alike = AlikeGroups(texts.__getitem__)
    for number, (text, group) in enumerate(zip(texts, own, strict=True)):
        alike.add(number, text, group)
    merged = alike.merged()
    template = np.arange(len(own)) // copies
    names = [merged.get(group, group) for group in own]
    assert names == [f"own{first}" for first in template * copies]
    how = limits(alpha=0.05, delta=DELTA)
    gold = np.ones(len(own), dtype=np.int64)
    above = {"own": 0, "merged": 0}
    for seed in range(repeats):
        rng = np.random.default_rng((seed, copies))
        # What the model makes of a template it makes of its copies.
        allow = UNSAFE[0] + SPREAD * rng.standard_normal(count)[template]
        logits = np.stack([allow, np.full(len(own), STEP), np.zeros(len(own))], axis=1)
        odds = np.exp(logits[:, 1:]).sum(axis=1)
        hazards = odds / (odds + np.exp(allow))
        for kind, groups in (("own", own), ("merged", names)):
            ids = tuple(map(str, range(len(own))))
            scores = Scores(
                ids, tuple(groups), ("d0",) * len(own), gold, logits, np.zeros(len(own))
            )
            threshold = next(s.threshold for s in strata_of(scores, hazards, how) if s.binding)
            above[kind] += true_rate(1.0, threshold or 0.0, 0) > how.alpha
    assert not_rejected(above["merged"], repeats), above
    assert above["merged"] >= 1
    assert above["own"] > 0.1 * repeats, (
        above
    )  # 19 % and 42 % by arithmetic, where 5 % are promised


def test_the_analytic_truth_is_what_many_rows_show() -> None:
    scores = draw(200_000, 2, 0.9, 1, np.random.default_rng(1))
    temperature, threshold = 1.7, 0.4
    p = np.exp(scores.logits / temperature)
    hazards = p[:, 1:].sum(axis=1) / p.sum(axis=1)
    assert (hazards[scores.gold != 0] < threshold).mean() == pytest.approx(
        true_rate(temperature, threshold, 0), abs=0.002
    )
