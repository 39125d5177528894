"""Modelfiles: the chat template recognised, not guessed; nothing written that Ollama would change."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t.chat import render
from so8t.errors import ArtifactError, ParamsError
from so8t.ollama.smoke_test import CASES, check_reply, loops
from so8t.release import gotemplate, modelfile
from tests.fakes.tiny_gguf import TEMPLATE

PHI35 = (
    Path(__file__).parents[2].parent
    / "shared"
    / "fixtures"
    / "phi-3.5-mini"
    / "chat_template.jinja"
)
PHI4 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GO = modelfile.go_template(modelfile.FAMILIES[0], "# 最終回答\n")
turns = st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("template", "family"), [(TEMPLATE, "phi-3"), (PHI4, "phi-4-mini"), (CHATML, "chatml")]
)
def test_known_templates_are_recognised(template: str, family: str) -> None:
    assert modelfile.recognise(template, Path("x.gguf")).name == family


@pytest.mark.skipif(not PHI35.is_file(), reason="fixtures of Phi-3.5 not found in ../shared")
def test_the_real_phi_35_template_is_recognised() -> None:
    assert modelfile.recognise(PHI35.read_text(encoding="utf-8"), Path("x.gguf")).name == "phi-3"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content'] }}",
        TEMPLATE.replace("<|end|>\n", "<|end|>"),
        CHATML.replace("'] + '<|im_end|>'", "'] | trim + ' <|im_end|>'"),
        "{% broken",
    ],
)
def test_an_unknown_template_is_refused_by_name(template: str) -> None:
    with pytest.raises(ArtifactError, match="no family"):
        modelfile.recognise(template, Path("x.gguf"))


@pytest.mark.parametrize("template", [TEMPLATE, PHI4, CHATML])
@given(said=turns)
def test_go_and_chat_template_say_the_same(template: str, said: list[str]) -> None:
    family = modelfile.recognise(template, Path("x.gguf"))
    go = modelfile.go_template(family, "# 最終回答\n")
    conversation = [{"role": "system", "content": "s"}]
    conversation += [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)
    ]
    wanted = render(template, conversation, add_generation_prompt=True) + "# 最終回答\n"
    assert gotemplate.execute(go, gotemplate.messages(conversation)) == wanted


def test_the_turn_opens_at_the_final_answer_unless_thinking_is_exposed() -> None:
    family = modelfile.FAMILIES[0]
    assert modelfile.opener("heading", expose_thinking=False) == "# 最終回答\n"
    assert modelfile.opener("quadruple", expose_thinking=False) == "<final>"
    assert modelfile.opener("heading", expose_thinking=True) == ""
    assert "# 思考ステップ" in modelfile.stops(family, expose_thinking=False)
    assert modelfile.stops(family, expose_thinking=True) == list(family.stops)


@pytest.mark.parametrize(
    "system",
    [
        '彼は"""と言う',
        'x"""\nPARAMETER temperature 5',
        "あなたは　安全な",
        "a\u200bb",
        'はい"',
        "a\tb",
    ],
)
def test_a_system_prompt_that_ollama_would_change_is_refused(system: str) -> None:
    with pytest.raises(ParamsError, match="SYSTEM"):
        modelfile.write("b.gguf", GO, system, {})


def test_a_modelfile_holds_what_was_asked_for() -> None:
    text = modelfile.write(
        "b.gguf",
        GO,
        "規則。\n二行目",
        {"temperature": 0.65, "num_ctx": 2048, "stop": ["<|end|>", "# 判定"]},
    )
    assert text.splitlines()[1:] == [
        "FROM ./b.gguf",
        f'TEMPLATE """{GO}"""',
        'SYSTEM """規則。',
        '二行目"""',
        "PARAMETER temperature 0.65",
        "PARAMETER num_ctx 2048",
        'PARAMETER stop "<|end|>"',
        'PARAMETER stop "# 判定"',
    ]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ if }}", "missing value for if"),
        ("{{ .Nobody }}", "can't evaluate field"),
        ("{{ range .Messages }}", "unexpected EOF"),
        ("{{ slice .A 1 }}", "not defined"),
        ("a {{ .A", "unclosed action"),
        ("{{ eq .A }}", "wrong number"),
    ],
)
def test_what_the_evaluator_does_not_know_it_refuses(template: str, words: str) -> None:
    with pytest.raises(gotemplate.GoTemplateError, match=words):
        gotemplate.execute(template, {"A": "x", "Messages": []})


def test_conditions_and_trim_marks_follow_go() -> None:
    template = (
        '{{ if and (eq .A "x") .B -}}  yes {{- else if or .B .A }} other{{ else }}no{{ end }}'
    )
    assert gotemplate.execute(template, {"A": "x", "B": "1"}) == "yes"
    assert gotemplate.execute(template, {"A": "y", "B": ""}) == " other"
    assert gotemplate.execute(template, {"A": "", "B": ""}) == "no"


@pytest.mark.parametrize(
    ("number", "said", "passed", "empty"),
    [
        (0, "4です。", True, False),
        (0, "5です。", False, False),
        (1, "群です。", True, False),
        (1, "", False, True),
        (1, "english only", False, False),
        (2, "とても重要です。" * 5, False, False),
        (2, "# 思考ステップ\n秘密", False, False),
        (3, "ALLOW", True, False),
        (3, "DENY", False, False),
        (4, "ESCALATION", True, False),
        (5, "DENY\n", True, False),
        (5, "わからない", False, False),
        (5, "  ", False, True),
    ],
)
def test_the_replies_to_the_six_prompts_are_checked(
    number: int, said: str, passed: bool, empty: bool
) -> None:
    found = check_reply(
        CASES[number], "p", lambda *_: said, fmt="heading", answer_tokens=9, stops=[]
    )
    assert (found.passed, found.empty) == (passed, empty)


def test_a_loop_is_a_piece_at_the_end_over_and_over() -> None:
    assert loops("はじめに、" + "くりかえし" * 3)
    assert not loops("ははは。同じ言葉を使っても、文は違います。同じ言葉。")
