"""`so8t ask`: the released model on the command line."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from so8t.errors import DataError

# Imported inside the functions below, so that `--help` loads no model library.
if TYPE_CHECKING:
    from so8t.card import Card
    from so8t.serving.answer import Answer, Assistant

# "The answer shown up to here is withdrawn."
WITHDRAWN = "（ここまでに表示した回答は取り消します。）"


@click.command()
@click.argument("text")
@click.option(
    "--release",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("models/release"),
    show_default=True,
    help="folder that `dvc repro release` wrote",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="print one JSON object instead of lines for people",
)
@click.option(
    "--stream",
    is_flag=True,
    help="show an allowed answer while it is written (without the thinking, and a few characters "
    "late); an answer that turns out unfit is withdrawn in words",
)
@click.option(
    "--why",
    is_flag=True,
    help="print what the certificate covers, and how familiar the request is, by signal",
)
@click.option("--unsigned", is_flag=True, help="take a release that nobody signed")
def ask(text: str, folder: Path, as_json: bool, stream: bool, why: bool, unsigned: bool) -> None:
    """Decide what may happen with the request TEXT, and answer it if the decision is ALLOW.

    With `-` the request is read from standard input.
    """
    from so8t.serving.answer import Assistant

    if as_json and stream:
        raise click.UsageError("--json prints one object at the end: leave out --stream")
    request = _request(text)
    with Assistant(folder, allow_unsigned=unsigned) as assistant:
        if assistant.warning:
            click.echo(assistant.warning, err=True)
        if stream:
            _stream(assistant, request)
            return
        answer = assistant.answer(request)
    if as_json:
        click.echo(json.dumps(answer.to_dict(), ensure_ascii=False))
        return
    _head(answer)
    if why:
        _explain(assistant.card, answer)
    click.echo(f"\n{answer.text}{_ellipsis(answer)}")


def _request(text: str) -> str:
    """The request itself: TEXT, or standard input where TEXT is `-`.

    Raises:
        DataError: it is not UTF-8.
    """
    # Python keeps bytes of the command line that are not UTF-8 as halves of surrogate pairs.
    data: bytes = os.fsencode(text)
    if text == "-":
        data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the request is not UTF-8 (byte {error.start})",
            where="standard input" if text == "-" else "TEXT",
            fix="iconv -f CP932 -t UTF-8 FILE | so8t ask -",
        ) from None


def _head(answer: "Answer") -> None:
    """Decision, authority and reason, for people."""
    said = answer.to_dict()
    line = f"{answer.verdict}  {_percent(said['probabilities'])}"
    click.echo(line.rstrip())
    if said["authority"]:
        click.echo(f"authority  {_percent(said['authority'])} (not calibrated)")
    if answer.reason:
        click.echo(f"reason  {answer.reason}")


def _explain(card: "Card", answer: "Answer") -> None:
    """What the certificate covers, and familiarity by signal, for people."""
    from so8t.coverage import COVERED, promise

    if card.status == "certified":
        click.echo(f"certificate  {promise(card.certificate)}. {COVERED[1]}")
    familiarity = answer.familiarity
    if familiarity is None:
        click.echo("familiarity  not judged: the ALLOW gate is closed")
        return
    word = "familiar" if familiarity.is_familiar else "unfamiliar"
    click.echo(f"familiarity  {word}, p = {familiarity.p_value:.3g}")
    for signal, p in familiarity.by_signal.items():
        objects = "  objects" if signal in familiarity.unfamiliar else ""
        click.echo(f"  {signal}  p = {p:.3g}{objects}")


def _stream(assistant: "Assistant", request: str) -> None:
    """The decision first, then the answer as it is written.

    What is printed stays on the screen. An answer that is withheld in the end is therefore taken
    back in words.
    """
    begun: list[str] = []

    def decided(first: "Answer") -> None:
        begun.append(first.verdict)
        _head(first)
        click.echo()

    def show(piece: str) -> None:
        click.echo(piece, nl=False)

    answer = assistant.answer(request, decided=decided, show=show)
    # Another verdict in the end than in the beginning: ALLOW became ESCALATE.
    if begun != [answer.verdict]:
        click.echo(f"\n{WITHDRAWN}")
        _head(answer)
        click.echo(f"\n{answer.text}")
        return
    # An allowed answer is on the screen already.
    if answer.verdict == "ALLOW":
        click.echo(_ellipsis(answer))
    else:
        click.echo(answer.text)


def _ellipsis(answer: "Answer") -> str:
    return " …" if answer.cut else ""


def _percent(values: dict[str, float] | None) -> str:
    if values is None:
        return ""
    return "  ".join(f"{name} {value:.1%}" for name, value in values.items())
