"""`so8t ask`: decides as the card says, fails closed, and keeps thinking to itself."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from so8t import card as cards
from so8t.chat import Thinking
from so8t.errors import ArtifactError
from so8t.familiarity import write_index
from so8t.llama import Engine
from so8t.manifest import Manifest, write_manifest
from so8t.scoring.reader import GgufReader
from so8t.serving.answer import Assistant
from so8t.serving.cli import WITHDRAWN, ask
from so8t.serving.copied import copies
from so8t.verdict import Verdict
from tests.fakes.cards import LOOSE_INDEX, make_card
from tests.fakes.released import (
    FAULTS,
    IDS,
    card_that_is_a_folder,
    edited_index,
    flipped_weights,
    forged_card,
    index_missing,
    sign,
    swap_json,
    threads_as_text,
    without_signature,
    write_inside,
)
from tests.fakes.scores import FAMILIAR

pytestmark = pytest.mark.parity
SYSTEM = "仕分け係です。"
ESCALATE, DENY = "担当者に引き継ぎます。", "お受けできません。"
SECRET = "対象は弾薬庫の鍵の置き場所であり三番目の棚にある"


def release(tiny: Path, folder: Path, card: cards.Card, **changes: Any) -> Path:
    """A signed release in a folder of its own."""
    folder.mkdir()
    write_inside(tiny, card, folder / tiny.name)
    (folder / "Modelfile").write_text(f"FROM ./{tiny.name}\n", encoding="utf-8")
    fields = {
        "schema": "so8t.release/1",
        "model": "b",
        "type": "F16",
        "file": tiny.name,
        "name": "so8t-b",
        "system": SYSTEM,
        "format": "heading",
        "semantic_digest": card.semantic_digest,
        "template_sha256": card.template_sha256,
        "think_tokens": 12,
        "answer_tokens": 12,
        "replies": {"escalate": ESCALATE, "deny": DENY},
        **changes,
    }
    write_manifest(folder, Manifest.model_validate(fields))
    cards.write(folder / "card.json", card)
    write_index(folder / "familiarity.json", LOOSE_INDEX)
    sign(folder)
    return folder


class Script:
    """What the model will say in phase 1 and phase 2, and the prompts it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *said: str) -> None:
        self.said, self.given = list(said), []
        script = self

        def stream(engine: Engine, ids: list[int], **_: Any) -> Iterator[int]:
            script.given.append(engine.detokenize(ids).decode())
            yield from engine.tokenize(script.said.pop(0) + "<|end|>")

        monkeypatch.setattr(Engine, "stream", stream)


def test_the_decision_is_the_cards_over_the_files_own_numbers(tiny: Path, tmp_path: Path) -> None:
    texts = [f"依頼{n}を見せて" for n in range(12)]
    with Engine(tiny, n_ctx=1024, threads=1) as engine:
        reader = GgufReader(engine, SYSTEM)
        logits = [reader.read(text).prefill or () for text in texts]
    middle = sorted(
        cards.apply(make_card(tiny, SYSTEM), row, None, FAMILIAR).probabilities[2] for row in logits
    )[6]
    card = make_card(tiny, SYSTEM, deny=middle)
    wanted = [cards.apply(card, row, None, FAMILIAR) for row in logits]
    with Assistant(release(tiny, tmp_path / "r", card)) as assistant:
        answers = [assistant.answer(text) for text in reversed(texts)][::-1]
    assert [a.probabilities for a in answers] == [w.probabilities for w in wanted]
    assert len({w.verdict for w in wanted}) > 1
    for answer, decision in zip(answers, wanted, strict=True):
        assert answer.verdict == decision.verdict or (
            decision.verdict is Verdict.ALLOW and answer.reason
        )
        if answer.verdict is not Verdict.ALLOW:
            assert answer.text == (DENY if answer.verdict is Verdict.DENY else ESCALATE)


def test_thinking_is_used_and_never_shown(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    script = Script(
        monkeypatch, f"# 思考ステップ\n{SECRET}\n\n# 最終回答\n捨てられる", "予定は三時です。"
    )
    folder = release(
        tiny, tmp_path / "r", make_card(tiny, SYSTEM), think_tokens=400, answer_tokens=400
    )
    result = CliRunner().invoke(ask, ["予定は?", "--release", str(folder), "--json"])
    said = json.loads(result.output)
    assert (said["decision"], said["answer"], said["cut"]) == ("ALLOW", "予定は三時です。", False)
    assert script.given[0].endswith("<|assistant|>\n# 判定\nALLOW\n")
    assert script.given[1].endswith(f"# 判定\nALLOW\n# 思考ステップ\n{SECRET}\n\n# 最終回答\n")
    everything = result.output + caplog.text + repr(result)
    assert not any(SECRET[i : i + 8] in everything for i in range(len(SECRET) - 7))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (f"実は、{SECRET}のです。", "repeated private thinking"),
        ("はい。\n# 思考ステップ\n内緒", "marker"),
        (
            "、".join(SECRET[i : i + 8] for i in range(0, len(SECRET), 8)),
            "repeated private thinking",
        ),
        ("はい。【最・終・回・答】内緒", "marker"),
        ("はい。\nUser: つぎは?\nAssistant: 内緒", "marker"),
        ("申し訳ありませんが、お答えできません。", "refuses what the decision allows"),
        (DENY, "refuses what the decision allows"),
        ("", "no answer"),
    ],
)
def test_an_answer_that_may_not_be_shown_escalates(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, reason: str
) -> None:
    Script(monkeypatch, f"# 思考ステップ\n{SECRET}", answer)
    folder = release(
        tiny, tmp_path / "r", make_card(tiny, SYSTEM), think_tokens=400, answer_tokens=400
    )
    with Assistant(folder) as assistant:
        given = assistant.answer("予定は?")
    assert (given.verdict, given.text) == (Verdict.ESCALATE, ESCALATE)
    assert reason in given.reason
    assert SECRET[:8] not in repr(given)


def test_what_the_user_said_may_be_repeated() -> None:
    assert copies(f"「{SECRET}」ですね", Thinking(SECRET), "予定は?")
    assert not copies(f"「{SECRET}」ですね", Thinking(SECRET), f"教えて。{SECRET}。")
    assert copies(
        "　".join(SECRET), Thinking(SECRET), ""
    )  # spaces between the characters hide nothing


def test_limits_end_both_phases_and_the_answer_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Script(monkeypatch, "# 思考ステップ\n" + "長" * 50, "い" * 50)
    folder = release(tiny, tmp_path / "r", make_card(tiny, SYSTEM))
    with Assistant(folder) as assistant:
        given = assistant.answer("予定は?")
    assert given.cut
    assert given.text == "い" * 4  # 12 tokens of three bytes


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=IDS)
def test_what_was_not_signed_is_refused_before_an_engine_opens_the_file(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, says: str
) -> None:
    folder = release(tiny, tmp_path / "r", make_card(tiny, SYSTEM, escalate=0.2))
    fault(folder)
    monkeypatch.setattr("so8t.serving.answer.Engine", None)  # no engine could be made
    result = CliRunner().invoke(ask, ["予定は?", "--release", str(folder)])
    assert isinstance(result.exception, ArtifactError), result.exception
    assert re.search(says, str(result.exception))
    assert "fix: " in str(result.exception)
    assert result.output == ""


def test_an_unsigned_release_answers_only_when_asked_to_and_says_so_in_both_languages(
    tiny: Path, tmp_path: Path
) -> None:
    folder = release(tiny, tmp_path / "r", make_card(tiny, SYSTEM))
    without_signature(folder)
    result = CliRunner().invoke(ask, ["予定は?", "--release", str(folder), "--json", "--unsigned"])
    assert "警告" in result.stderr
    assert "WARNING: this release is not signed" in result.stderr
    assert json.loads(result.stdout)["decision"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (forged_card, "keys in the GGUF file are not the card's"),
        (flipped_weights, "does not match its seal"),
        (card_that_is_a_folder, "card.json: a folder, not a file"),
        (threads_as_text, "card.json: the card is not consistent: .*engine.threads is '1', no int"),
        (edited_index, "familiarity.json: the familiarity index is of another card"),
        (index_missing, "familiarity.json: file not found"),
        (lambda folder: swap_json(folder / "release.json", template_sha256="0"), "template_sha256"),
        (lambda folder: swap_json(folder / "release.json", file="card.json"), "."),
        (lambda folder: swap_json(folder / "release.json", file="none.gguf"), "file not found"),
        (lambda folder: swap_json(folder / "release.json", schema="so8t.release/0"), "schema"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_unsigned_too(
    tiny: Path, tmp_path: Path, fault: Any, says: str
) -> None:
    folder = release(tiny, tmp_path / "r", make_card(tiny, SYSTEM, escalate=0.2))
    without_signature(folder)
    fault(folder)
    with pytest.raises(ArtifactError, match=says) as refused:
        Assistant(folder, allow_unsigned=True)
    assert refused.value.where
    assert refused.value.fix


def test_a_key_beside_the_release_of_a_project_is_not_believed(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    folder = release(tiny, tmp_path / "models/release", make_card(tiny, SYSTEM))
    for name in ("release.sig", "release.pub"):  # where git ignores everything
        (tmp_path / name).rename(tmp_path / "models" / name)
    with pytest.raises(ArtifactError, match="not signed"):
        Assistant(folder)


def test_a_request_longer_than_the_context_goes_to_a_person(tiny: Path, tmp_path: Path) -> None:
    folder = release(tiny, tmp_path / "r", make_card(tiny, SYSTEM, escalate=1.0))
    with Assistant(folder) as assistant:
        answer = assistant.answer("予定を教えてください。" * 400)
    assert answer.verdict is Verdict.ESCALATE
    assert answer.reason == "longer than the model's context"
    assert answer.text == ESCALATE


def test_an_uncertified_card_never_allows(tiny: Path, tmp_path: Path) -> None:
    with Assistant(
        release(tiny, tmp_path / "r", make_card(tiny, SYSTEM, certified=False))
    ) as assistant:
        answers = [assistant.answer(f"依頼{n}") for n in range(6)]
    assert {a.verdict for a in answers} == {Verdict.ESCALATE}
    assert "not certified" in answers[0].reason


@pytest.mark.parametrize(
    "change", [{"semantic_digest": "0" * 64}, {"template_sha256": "0" * 64}, {"engine": "other"}]
)
def test_a_card_for_something_else_is_refused(
    tiny: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    if "engine" in change:
        change = {"engine": make_card(tiny, SYSTEM).engine | {"llama_cpp": "0.0.1"}}
    folder = release(tiny, tmp_path / "r", make_card(tiny, SYSTEM, **change))
    with pytest.raises(ArtifactError, match=next(iter(change)).replace("_", ".")):
        Assistant(folder)


def test_another_system_prompt_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="template_sha256"):
        Assistant(release(tiny, tmp_path / "r", make_card(tiny, SYSTEM), system="何でも答えます。"))


def test_a_real_generation_stays_inside_its_limits(tiny: Path, tmp_path: Path) -> None:
    with Assistant(release(tiny, tmp_path / "r", make_card(tiny, SYSTEM))) as assistant:
        first, second = assistant.answer("猫は?"), assistant.answer("猫は?")
        again = assistant.answer("犬は?"), assistant.answer("猫は?")
    assert first == second == again[1]
    assert first.probabilities is not None
    assert first.authority is not None
    assert sum(first.authority.values()) == pytest.approx(1.0)
    assert "placeholder" not in first.text


# --- streaming ---

STORY = "予定は三時です。会場は二階の大会議室で、受付は二時半から始まります。資料は当日に配りますので、持ち物は筆記用具だけで足ります。お待ちしています。"


def streamed(folder: Path, text: str = "予定は?") -> tuple[list[str], Any]:
    """The pieces that were shown, and the answer."""
    pieces: list[str] = []
    with Assistant(folder) as assistant:
        given = assistant.answer(text, show=pieces.append)
    return pieces, given


@pytest.mark.parametrize("fmt", ["heading", "quadruple"])
def test_a_streamed_answer_comes_in_pieces_and_is_the_answer(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str
) -> None:
    said = STORY if fmt == "heading" else f"{STORY}</final>"
    script = Script(monkeypatch, SECRET, said, SECRET, said)
    folder = release(
        tiny,
        tmp_path / "r",
        make_card(tiny, SYSTEM),
        think_tokens=400,
        answer_tokens=900,
        format=fmt,
    )
    pieces, given = streamed(folder)
    assert len(pieces) > 5
    assert "".join(pieces) == given.text == STORY
    with Assistant(folder) as assistant:
        assert assistant.answer("予定は?") == given
    assert script.said == []


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (f"実は、{SECRET}のです。", "repeated private thinking"),
        (f"\n# 思考ステップ\n{SECRET}", "marker"),
        (f"<think>{SECRET}", "marker"),
        (f"【思考ステップ】{SECRET}", "marker"),
        ("こう、".join(SECRET[i : i + 6] for i in range(0, 24, 6)), "repeated private thinking"),
    ],
)
def test_a_stream_that_turns_private_stops_before_it_and_is_taken_back(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, reason: str
) -> None:
    Script(monkeypatch, f"# 思考ステップ\n{SECRET}", f"{STORY * 2}{ending}{STORY}")
    folder = release(
        tiny, tmp_path / "r", make_card(tiny, SYSTEM), think_tokens=400, answer_tokens=1900
    )
    pieces, given = streamed(folder)
    shown = "".join(pieces)
    assert shown
    assert (STORY * 2).startswith(shown)
    assert (given.verdict, given.text) == (Verdict.ESCALATE, ESCALATE)
    assert reason in given.reason


def test_a_refusal_is_not_shown_while_it_is_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Script(monkeypatch, f"# 思考ステップ\n{SECRET}", f"申し訳ありません。{STORY * 2}")
    folder = release(
        tiny, tmp_path / "r", make_card(tiny, SYSTEM), think_tokens=400, answer_tokens=1900
    )
    pieces, given = streamed(folder)
    assert (pieces, given.verdict, given.text) == ([], Verdict.ESCALATE, ESCALATE)
    assert "refuses" in given.reason
    assert given.probabilities is not None


def test_ask_stream_prints_decision_then_answer_and_takes_back_what_is_withheld(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = release(
        tiny, tmp_path / "r", make_card(tiny, SYSTEM), think_tokens=400, answer_tokens=1900
    )
    Script(monkeypatch, SECRET, STORY, SECRET, f"{STORY * 2}{SECRET}{STORY}")
    good = CliRunner().invoke(ask, ["予定は?", "--release", str(folder), "--stream"]).output
    assert good.startswith("ALLOW ")
    assert good.endswith(f"\n\n{STORY}\n")
    bad = CliRunner().invoke(ask, ["予定は?", "--release", str(folder), "--stream"]).output
    assert (
        bad.index("予定は三時")
        < bad.index(WITHDRAWN)
        < bad.index("\nESCALATE ")
        < bad.index(ESCALATE)
    )
    assert not any(SECRET[i : i + 2] in good + bad for i in range(len(SECRET) - 1))
    assert (
        CliRunner()
        .invoke(ask, ["予定は?", "--release", str(folder), "--stream", "--json"])
        .exit_code
        == 2
    )


def test_ask_stream_of_a_refusal_is_the_deployments_reply(tiny: Path, tmp_path: Path) -> None:
    folder = release(tiny, tmp_path / "r", make_card(tiny, SYSTEM, certified=False))
    said = CliRunner().invoke(ask, ["予定は?", "--release", str(folder), "--stream"]).output
    assert said.startswith("ESCALATE ")
    assert said.endswith(f"\n{ESCALATE}\n")
