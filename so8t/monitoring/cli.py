"""`so8t drift`: are served requests still like the calibration rows?"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from so8t.errors import ArtifactError, GateError

# Imported inside the functions below, so that `--help` answers at once.
if TYPE_CHECKING:
    from so8t.card import Card
    from so8t.familiarity import Index
    from so8t.monitoring.drift import Track, Watched

STDIN = "standard input"


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.argument(
    "release",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("models/release"),
)
@click.option(
    "--delta",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=None,
    help="probability of a false alarm [default: delta of the card's certificate]",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="write the evidence after each request: a figure (.svg) or a table (.csv)",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text")
@click.option("--unsigned", is_flag=True, help="take a release that nobody signed")
def drift(
    file: Path,
    release: Path,
    delta: float | None,
    plot: Path | None,
    as_json: bool,
    unsigned: bool,
) -> None:
    """Say whether the served requests in FILE are still like the calibration rows of RELEASE.

    FILE is JSON Lines in the order of time (`-`: standard input): {"text": ...} or {"prompt": ...},
    or what `so8t ask --json` printed. RELEASE is models/release unless given. Requests are not put
    to the model.

    Codes: 0 no evidence of a drift; 8 a drift: its signal and line are printed, and the ALLOW gate
    must be closed, because the certificate does not speak about such requests. It is reported by
    mistake with probability at most delta, however long the file and however often it is read as it
    grows.
    """
    if plot is not None and plot.suffix not in (".svg", ".csv"):
        raise click.UsageError("--plot writes .svg or .csv")
    from so8t.released import open_release

    opened = open_release(release, allow_unsigned=unsigned)
    if opened.warning:
        click.echo(opened.warning, err=True)
    watched = _watch(file, opened.index, delta or _delta_of(opened.card))
    name = _name(file)
    if plot is not None:
        _write_plot(plot, watched)
    _say(watched, name, as_json)
    if watched.drifted:
        sys.exit(GateError.exit_code)


def _name(file: Path) -> str:
    return STDIN if str(file) == "-" else str(file)


def _delta_of(card: "Card") -> float:
    """The card's own delta."""
    delta = card.certificate.get("delta")
    if isinstance(delta, float) and 0.0 < delta < 1.0:
        return delta
    raise ArtifactError("the card's certificate has no delta", where=card.file, fix="give --delta")


def _watch(file: Path, index: "Index", delta: float) -> "Watched":
    from so8t.files import jsonl_objects, read_jsonl
    from so8t.monitoring.drift import watch
    from so8t.monitoring.served import served_of

    name = _name(file)
    rows = jsonl_objects(sys.stdin.buffer, name) if name == STDIN else read_jsonl(file)
    return watch(served_of(rows, name), index, delta, name=name)


def _write_plot(path: Path, watched: "Watched") -> None:
    from so8t.files import write_text
    from so8t.monitoring.plot import as_csv, as_svg

    write_text(path, as_svg(watched) if path.suffix == ".svg" else as_csv(watched))


def _say(watched: "Watched", name: str, as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps(watched.to_dict(), ensure_ascii=False))
        return
    found = watched.to_dict()
    click.echo(
        f"drift: {found['requests']} requests ({found['from_recorded']} by recorded p-values), "
        f"delta {watched.delta:g}, threshold 10^{found['log10_threshold']:.1f}"
    )
    for track in watched.tracks:
        click.echo(f"  {track.signal}  {_told(track, found['signals'][track.signal])}")
    if not watched.drifted:
        click.echo("No evidence that requests are unlike the calibration rows.")
        return
    first = watched.drifted[0]
    click.echo(
        f"DRIFT in {first.signal}, from about {name}:{watched.line(first.since)} on: close the "
        "ALLOW gate, and calibrate with rows like the requests of today."
    )


def _told(track: "Track", signal: dict[str, Any]) -> str:
    """One signal, for people; `signal` is its part of the JSON."""
    if track.is_blind:
        return (
            f"blind: the strangest request has p = {track.smallest:.2g}; too few calibration rows"
        )
    text = f"evidence 10^{signal['log10_evidence']:.1f}, at most 10^{signal['log10_most']:.1f}"
    if track.alarm is None:
        return text
    return f"{text}; alarm at line {signal['alarm_line']}, since about {signal['since_line']}"
