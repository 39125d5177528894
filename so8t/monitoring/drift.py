"""Are served requests still like the calibration rows? Evidence by signal of a release.

The promise: while each request is drawn like the calibration rows of some domain, independently of
the others, a drift is reported at any time with probability at most delta. Half of delta pays for
the calibration rows, which are the same for all requests (ruler), half for the bets (martingale);
each of k signals has the k-th part of either (Bonferroni). So a signal's evidence must reach
2 k / delta.

Not covered: requests that depend on each other, such as one sentence sent a hundred times by one
person. They count a hundred times.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from so8t.errors import ArtifactError, DataError
from so8t.familiarity import Index, text_strangeness
from so8t.monitoring.martingale import beginning, first_at_least, log_bets, log_evidence
from so8t.monitoring.ruler import Ruler
from so8t.monitoring.served import FIX, Served
from so8t.request import canonical_form

# Of delta; the rest is for the bets.
CALIBRATION_SHARE: Final = 0.5
MORE_ROWS: Final = "calibrate with more groups in every domain"


@dataclass(frozen=True, slots=True)
class Track:
    """What one signal showed.

    Attributes:
        signal: its name.
        evidence: natural log of the evidence after each request.
        smallest: the p-value of a request that is stranger than every calibration row.
        alarm: index of the request at which the evidence reached the threshold; None if never.
        since: index of the request from which on the drift seems to last; None without an alarm.
    """

    signal: str
    evidence: Float[ndarray, " t"]
    smallest: float
    alarm: int | None
    since: int | None

    @property
    def is_blind(self) -> bool:
        """Whether no request could ever raise the evidence: too few calibration rows."""
        return not can_win(self.smallest)


@dataclass(frozen=True, slots=True)
class Watched:
    """What a file of served requests showed.

    Attributes:
        delta: probability of a false alarm, at most.
        threshold: what the evidence of a signal must reach.
        lines: of the file, of each request.
        texts: requests whose numbers were computed; the others' p-values had been recorded.
        tracks: by signal, in the order of the index.
    """

    delta: float
    threshold: float
    lines: Sequence[int]
    texts: int
    tracks: tuple[Track, ...]

    @property
    def drifted(self) -> tuple[Track, ...]:
        """The signals that object, the first to do so first."""
        found = [track for track in self.tracks if track.alarm is not None]
        return tuple(sorted(found, key=lambda track: track.alarm or 0))

    def to_dict(self) -> dict[str, Any]:
        """As JSON; evidence as its logarithm to base 10."""
        signals = {}
        for track in self.tracks:
            signals[track.signal] = {
                "log10_evidence": _log10(track.evidence[-1]),
                "log10_most": _log10(track.evidence.max()),
                "smallest_p": track.smallest,
                "blind": track.is_blind,
                "alarm_line": self.line(track.alarm),
                "since_line": self.line(track.since),
            }
        return {
            "drift": bool(self.drifted),
            "delta": self.delta,
            "log10_threshold": math.log10(self.threshold),
            "requests": len(self.lines),
            "from_text": self.texts,
            "from_recorded": len(self.lines) - self.texts,
            "signals": signals,
        }

    def line(self, index: int | None) -> int | None:
        """The line of a request."""
        return None if index is None else self.lines[index]


def _log10(natural: float) -> float:
    return float(natural) / math.log(10.0)


def can_win(smallest: float) -> bool:
    """Whether any bet pays more than it takes for the smallest p-value."""
    return bool(log_bets(np.array([smallest])).max() > 0.0)


def watch(served: Iterable[Served], index: Index, delta: float, *, name: str) -> Watched:
    """Measure all requests and bet against their p-values.

    Args:
        served: in the order of time.
        index: of the release that served them.
        delta: probability of a false alarm.
        name: of the file, for errors.

    Raises:
        DataError: no request at all, or p-values that this release did not give.
        ArtifactError: the release has too few calibration rows for any drift to be found.
    """
    rulers = _rulers(index, delta)
    lines = []
    texts = 0
    numbers: dict[str, list[float]] = {signal: [] for signal in index.signals}
    recorded: dict[str, list[float]] = {signal: [] for signal in index.signals}
    for request in served:
        lines.append(request.line)
        if request.text is None:
            _check_recorded(request, rulers, f"{name}:{request.line}")
            given = request.recorded
            measured = dict.fromkeys(index.signals, math.nan)
        else:
            texts += 1
            given = dict.fromkeys(index.signals, math.nan)
            measured = _measured(request.text, index, f"{name}:{request.line}")
        for signal in index.signals:
            numbers[signal].append(measured[signal])
            recorded[signal].append(given[signal])
    if not lines:
        raise DataError("no requests", where=name, fix=FIX)
    threshold = len(index.signals) / (delta * (1.0 - CALIBRATION_SHARE))
    tracks = []
    for signal, ruler in rulers.items():
        p = _p_values(
            ruler,
            np.array(numbers[signal]),
            np.array(recorded[signal]),
            _random(index, f"ties of {signal}"),
        )
        tracks.append(_track(signal, p, ruler, threshold))
    return Watched(delta, threshold, lines, texts, tuple(tracks))


def _measured(text: str, index: Index, where: str) -> dict[str, float]:
    measured = text_strangeness(canonical_form(text), index.reference)
    missing = set(index.signals) - set(measured)
    if missing:
        raise DataError(
            f"a text alone does not give {', '.join(sorted(missing))}",
            where=where,
            fix="record what `so8t ask --json` prints",
        )
    return measured


def _rulers(index: Index, delta: float) -> dict[str, Ruler]:
    share = delta * CALIBRATION_SHARE / max(1, len(index.signals))
    rulers = {}
    for signal in index.signals:
        calibration = index.calibration.get(signal, {})
        if not calibration or not all(calibration.values()):
            problem = f"a domain without calibration rows for `{signal}`"
            raise ArtifactError(problem, where="familiarity.json", fix=MORE_ROWS)
        rulers[signal] = Ruler.of(calibration, share, _random(index, f"rows of {signal}"))
    if not any(can_win(ruler.smallest) for ruler in rulers.values()):
        raise ArtifactError(
            "too few calibration rows: no drift could be found",
            where="familiarity.json",
            fix=MORE_ROWS,
        )
    return rulers


def _random(index: Index, purpose: str) -> np.random.Generator:
    """Chance that is the same for the same release, so that nobody can draw until it suits them."""
    return np.random.default_rng([*bytes.fromhex(index.digest), *purpose.encode()])


def _check_recorded(request: Served, rulers: dict[str, Ruler], where: str) -> None:
    again = "give the request's text, or the release that served it"
    if set(request.recorded) != set(rulers):
        found = ", ".join(sorted(request.recorded))
        raise DataError(
            f"p-values of {found}; this release has {', '.join(sorted(rulers))}",
            where=where,
            fix=again,
        )
    for signal, ruler in rulers.items():
        value = request.recorded[signal]
        if not ruler.gives(value):
            raise DataError(
                f"p = {value} of `{signal}` is none that this release gives: recorded by another "
                "release, or rounded",
                where=where,
                fix=again,
            )


def _p_values(
    ruler: Ruler,
    numbers: Float[ndarray, " t"],
    recorded: Float[ndarray, " t"],
    random: np.random.Generator,
) -> Float[ndarray, " t"]:
    """p-values by number, or by recorded p-value where there is no number."""
    found = ruler.of_numbers(numbers, random.random(len(numbers)))
    told = np.isnan(numbers)
    found[told] = ruler.of_recorded(recorded[told])
    return found


def _track(signal: str, p: Float[ndarray, " t"], ruler: Ruler, threshold: float) -> Track:
    evidence = log_evidence(p)
    alarm = first_at_least(evidence, math.log(threshold))
    since = None if alarm is None else beginning(p[: alarm + 1])
    return Track(signal, evidence, ruler.smallest, alarm, since)
