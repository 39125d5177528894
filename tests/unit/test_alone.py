"""A row whose request does not stand alone is refused under a reason of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from so8t.data.alone import REASONS
from so8t.data.formats import Sample, sample_of
from so8t.data.page import _dropped
from so8t.data.prepare import prepare
from so8t.data.summary import brief, metrics_of, refused_warning
from so8t.params import Source, load
from so8t.plan.cli import rows_of
from so8t.progress import Progress
from stages.prepare import main

ROOT = Path(__file__).parents[2]
PARAMS = load(ROOT / "params.yaml")
SYSTEM = PARAMS.data.system
OTHER = "あなたは海賊です。"
TURNS = [["先ほどの資料は何ですか。", "社外秘の設計書です。"]]
USER = {"role": "user", "content": "それを社外に送ってください。"}
SAID = {"role": "assistant", "content": "お送りできません。"}


def labelled(**fields: Any) -> dict[str, Any]:
    return {"text": "それを社外に送ってください。", "label": "DENY", **fields}


def alpaca(**fields: Any) -> dict[str, Any]:
    return {"instruction": "それを社外に送って。", "output": "お送りできません。", **fields}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def sharegpt(*turns: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **fields}


EXCHANGE = (("human", "それを社外に送って。"), ("gpt", "お送りできません。"))
RENDERED = "<|user|>\n一<|end|>\n<|assistant|>\n二<|end|>\n"
REFUSED: dict[str, list[dict[str, Any]]] = {
    "several_turns": [
        labelled(history=TURNS),
        labelled(history=[{"role": "user", "content": "先ほどの資料は何ですか。"}]),
        labelled(history="利用者: 先ほどの資料は何ですか。"),
        labelled(chat_history=TURNS),
        labelled(chatHistory=TURNS),
        labelled(conversation=[USER, SAID]),
        alpaca(history=TURNS),
        chat(USER, SAID, history=TURNS),
        chat(USER, SAID, USER),
        chat(USER, SAID, USER, SAID),
        chat(USER, USER),
        sharegpt(*EXCHANGE, *EXCHANGE),
        alpaca(output=f"{RENDERED}{RENDERED}"),
    ],
    "own_system": [
        labelled(system=OTHER),
        labelled(system_prompt=OTHER),
        labelled(systemPrompt=OTHER),
        labelled(system={"role": "system", "content": OTHER}),
        alpaca(system=OTHER),
        sharegpt(*EXCHANGE, system=OTHER),
        sharegpt(("system", OTHER), *EXCHANGE),
        chat({"role": "system", "content": OTHER}, USER, SAID),
        chat({"role": "developer", "content": OTHER}, USER, SAID),
        chat({"role": "system", "content": SYSTEM}, {"role": "system", "content": OTHER}, USER),
        alpaca(output=f"<|system|>\n{OTHER}<|end|>\n{RENDERED}"),
    ],
    "tools": [
        labelled(tools=[{"name": "send_mail"}]),
        labelled(tools='[{"name": "send_mail"}]'),
        labelled(functions=[{"name": "send_mail"}]),
        sharegpt(*EXCHANGE, tools='[{"name": "send_mail"}]'),
        sharegpt(EXCHANGE[0], ("function_call", "{}"), ("observation", "送信済み"), EXCHANGE[1]),
        chat(USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}),
        chat(USER, {"role": "tool", "content": "送信済み"}, SAID),
    ],
    "media": [
        labelled(images=["plan.png"]),
        labelled(image="plan.png"),
        sharegpt(*EXCHANGE, videos=["plan.mp4"]),
        chat({"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}, SAID),
        chat({**USER, "images": ["plan.png"]}, SAID),
    ],
    "more_context": [
        labelled(context="送り先は社内の部署です。"),
        labelled(input="送り先は社内の部署です。"),
        labelled(question="この文は安全ですか。"),
        alpaca(text="設計書の本文です。"),
        alpaca(prompt="送り先は社内の部署です。"),
        chat(USER, SAID, context="送り先は社内の部署です。"),
        chat(USER, SAID, instruction="次の会話を要約してください。"),
    ],
}
CASES = [(reason, row) for reason, rows in REFUSED.items() for row in rows]


@pytest.mark.parametrize(("reason", "row"), CASES)
def test_what_depends_on_more_is_refused_under_its_reason(reason: str, row: dict[str, Any]) -> None:
    assert sample_of(row, "f:1", "s", SYSTEM) == reason


STANDING = [
    labelled(),
    labelled(history=[], system="", tools=None, images=[]),
    labelled(history=[["", ""]], tools="", turns=1),
    labelled(system=f" {SYSTEM}\n", system_prompt=None),
    labelled(factors={"context": "平時", "history": "なし"}, title="題", url="u", license="CC0"),
    labelled(prompt="それを社外に送ってください。", context="社外"),
    alpaca(input="", history=[], system=SYSTEM),
    chat(USER, SAID),
    chat({"role": "system", "content": SYSTEM}, USER, SAID, history=None),
    chat({"role": "system", "content": ""}, USER, SAID, text=USER["content"]),
    sharegpt(*EXCHANGE, system="", tools=""),
    sharegpt(("system", SYSTEM), *EXCHANGE),
]


@pytest.mark.parametrize("row", STANDING)
def test_what_stands_alone_is_kept(row: dict[str, Any]) -> None:
    assert isinstance(sample_of(row, "f:1", "s", SYSTEM), Sample)


def text_of(row: dict[str, Any]) -> str:
    found = sample_of(row, "f:1", "s", SYSTEM)
    assert isinstance(found, Sample)
    return found.text


def test_what_an_instruction_is_about_is_part_of_the_request() -> None:
    assert text_of(alpaca(input="設計書")) == "それを社外に送って。\n設計書"
    assert text_of(alpaca(context="設計書")) == "それを社外に送って。\n設計書"
    # Alpaca's own files hold the row a second time, rendered as one text.
    frame = "### Instruction:\nそれを社外に送って。\n\n### Input:\n設計書\n\n### Response:\nお送りできません。"
    assert text_of(alpaca(input="設計書", text=frame)) == "それを社外に送って。\n設計書"
    longer = f"{frame}\n{'送り先は社内の部署です。' * 40}"
    assert sample_of(alpaca(input="設計書", text=longer), "f:1", "s", SYSTEM) == "more_context"


def test_a_lone_user_turn_takes_the_answer_beside_it() -> None:
    found = sample_of(chat(USER, output="お送りできません。"), "f:1", "s", SYSTEM)
    assert isinstance(found, Sample)
    assert found.final == "お送りできません。"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose source holds one row of each refused kind, and one that stands alone."""
    rows = [row for listed in REFUSED.values() for row in listed[:1]]
    rows.append({"text": "公開済みの時刻表を要約してください。", "label": "ALLOW"})
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(
        text.replace("data/raw/synthetic.jsonl", "rows.jsonl"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    return tmp_path


def test_refused_rows_are_counted_shown_and_warned_of(project: Path) -> None:
    params = load(project / "params.yaml")
    counts = prepare(params.data, params.seed, None, Progress("test"))
    found = metrics_of(counts)
    assert found["dropped"] == dict.fromkeys(sorted(REASONS), 1)
    assert found["rows"]["total"] == 1
    warning = refused_warning(counts.dropped)
    shown: list[Callable[[str], bool]] = [
        lambda reason: f"{reason} 1 (" in str(warning),
        lambda reason: f"{reason} 1" in brief(found),
        lambda reason: f"| {reason} | 1 |" in _dropped(found["dropped"]),
        lambda reason: f"* `{reason}`: {REASONS[reason]}" in _dropped(found["dropped"]),
    ]
    assert all(is_shown(reason) for is_shown in shown for reason in REASONS)
    assert rows_of(params).warnings == [warning]
    done = CliRunner().invoke(
        main, ["out", "--metrics", "m", "--page", "p", "--plots", "q", "--dry-run"]
    )
    assert f"warning: {warning}" in done.stderr


def test_without_such_rows_nothing_is_said() -> None:
    assert refused_warning({"too_long": 3}) is None
    assert _dropped({"too_long": 3}).splitlines()[-1] == "| too_long | 3 |"


def test_a_source_with_another_system_prompt_is_read_under_that_prompt(project: Path) -> None:
    source = Source(path="rows.jsonl", weight=1.0, use="auto")
    data = PARAMS.data.model_copy(update={"sources": [source], "system": OTHER})
    assert "own_system" not in prepare(data, 1, None, Progress("test")).dropped
