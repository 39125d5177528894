"""The report: only numbers of files, missed targets first, nothing when nothing was run, and no edit goes unnoticed."""

import ast
import json
import re
import shutil
import xml.dom.minidom
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

from so8t import params
from so8t.coverage import COVERED, LIMITS
from so8t.errors import ArtifactError, GateError
from so8t.evaluation.evaluate import Job
from so8t.files import read_json
from so8t.report import build, check, document, figures, sources, texts
from so8t.report.context import Context
from so8t.report.document import Document, Figure, Heading, Paragraph, Table, row
from so8t.report.sources import Number, Sources
from tests.fakes.results import ROOT, RUN, edit, timings, write_results, write_times

pytestmark = pytest.mark.slow
NAMES = re.compile(
    r"macro-F1|F1\b|SO8T|Q\d_(?:K_M|0)|F16|p50|p95|top-1|SHA-256|so8t|test_\w+", re.ASCII
)
WORDS = re.compile(r"\d")
PLAIN = str.maketrans("", "", "\\")  # Markdown's escapes
NUMBER = re.compile(r"\d(?:[\d,.]*\d)?(?:e[-+]\d+)?")


@contextmanager
def recording(root):
    """Looks are recorded below `root`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SO8T_DATABASE", str(root / "database"))
        yield


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Result files of a made-up pair, built by the real calibration, comparison and evaluation."""
    root = tmp_path_factory.mktemp("results")
    loaded = params.load(ROOT / "params.yaml")
    small = {
        "evaluation": loaded.evaluation.model_copy(update={"bootstrap": 200}),
        "compare": loaded.compare.model_copy(update={"bootstrap": 200}),
    }
    with recording(root):
        return write_results(root, loaded.model_copy(update=small), types=("F16", "Q4_K_M"))


@pytest.fixture(scope="module")
def report(tree):
    with recording(tree):
        build.build(tree, tree / "reports", "ja")
    return tree / "reports"


@pytest.fixture(autouse=True)
def _looks(request, monkeypatch, tmp_path):
    """The record of looks belongs to the tree under test."""
    made = {"report", "copy"} & set(request.fixturenames)
    monkeypatch.setenv(
        "SO8T_DATABASE", str((request.getfixturevalue("tree") if made else tmp_path) / "database")
    )


@pytest.fixture
def copy(tree, report, tmp_path):
    """A tree of its own, to be damaged."""
    shutil.copytree(tree, tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Only params.yaml: nothing was run."""
    root = tmp_path_factory.mktemp("empty")
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    with recording(root):
        for language in ("ja", "en"):
            build.build(root, root / language, language)
    return root


def metrics_of(root):
    return root / "reports/metrics/evaluate-b-Q4_K_M.json"


def page_of(folder):
    return (folder / "report.md").read_text(encoding="utf-8")


# --- what it says ---


def test_the_first_sentence_is_the_conclusion_with_its_certificate(report):
    first = page_of(report).split("\n\n")[1]
    card = read_json(report.parent / "models/calibration/b-Q4_K_M.json")
    assert card["status"] == "certified"
    assert "認証されています" in first
    assert "5.0 %" in first
    assert f"{card['certificate']['groups']:,} 個" in first
    assert read_json(report / "report.json")["conclusion"] == first.removeprefix("✔ ")


def test_missed_targets_come_first_and_say_what_would_change_them(report):
    rows = [line.split("|") for line in page_of(report).splitlines() if line.startswith("| ")]
    outcomes = [
        cells[2].strip()
        for cells in rows
        if cells[2].strip() in ("達成", "未達", "未実行") and len(cells) == 6
    ]
    assert outcomes == sorted(outcomes, key=["未達", "未実行", "達成"].index)
    assert "未達" in outcomes
    assert all(cells[4].strip() for cells in rows if len(cells) == 6 and cells[2].strip() == "未達")


def test_flips_toward_allow_show_id_and_request_but_never_thinking(copy):
    flip = {
        "id": "test_iid-0001",
        "group": "g",
        "domain": "general",
        "gold": "DENY",
        "a": "DENY",
        "b": "ALLOW",
        "p_allow_a": 0.1,
        "p_allow_b": 0.97,
    }
    edit(
        copy / "reports/metrics/ab.json",
        lambda ab: ab["splits"]["test_iid"].update(worst_flips=[flip]),
    )
    build.build(copy, copy / "reports", "ja")
    whole = "".join(
        (copy / "reports" / name).read_text(encoding="utf-8")
        for name in ("report.md", "report.html", "report.json")
    )
    assert "依頼 1 の内容を要約してください。" in whole
    assert "DENY → ALLOW" in whole
    assert "内密の思考" not in whole


def test_limits_of_the_certificate_and_looks_are_printed(report):
    page = page_of(report)
    assert texts.WORDS["no_attackers"][0] in page
    assert re.search(r"\| calibration \| \d+ \| \d+ \| calibrate \d+", page)


def test_what_fine_tuning_cost_is_shown_with_n_and_interval_and_says_where_it_compares_nothing(
    tree, report
):
    ab, page = (
        read_json(tree / "reports/metrics/ab.json")["retention"],
        page_of(report).translate(PLAIN),
    )
    for name, digits in (("nll_per_token", 3), ("plain_chrf", 1)):
        one = ab[name]
        (line,) = [
            line
            for line in page.splitlines()
            if line.startswith(f"| {texts.Words('ja')(name)} ") and "[" in line
        ]
        assert f"{one['difference']:+.{digits}f}" in line
        if one["ci95"] is None:
            assert "[区間なし: 群が少なすぎます]" in line
        else:
            assert f"[{one['ci95'][0]:+.{digits}f}, {one['ci95'][1]:+.{digits}f}]" in line
        assert line.rstrip(" |").endswith(str(one["n"]))
    (able,) = [
        line
        for line in page.splitlines()
        if line.startswith(f"| {texts.Words('ja')('plain_able')} ")
    ]
    assert [cell.strip() for cell in able.split("|")[2:6]] == ["はい", "いいえ", "はい", "いいえ"]


def _rows(page, name):
    """Cells of every table row whose first cell is `name`."""
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    return [cells for cells in found if cells and cells[0] == name]


def _count(allowed, n, rate, unfamiliar):
    interval = [rate / 2, 2 * rate]
    return {"n": n, "allowed": allowed, "rate": rate, "ci95": interval, "unfamiliar": unfamiliar}


def test_every_kind_of_unfamiliar_request_is_counted_by_itself(copy):
    kinds = {"code": _count(3, 30, 0.1, 25), "advice": _count(0, 30, 0.0, 30)}
    foreign = {"all": _count(3, 60, 0.05, 55), "by_kind": kinds}
    edit(metrics_of(copy), lambda m: m["unfamiliar"].update(test_foreign=foreign))
    build.build(copy, copy / "reports", "en")
    page = page_of(copy / "reports")
    assert _rows(page, "code") == [["code", "30", "3", "10.0 % (5.0 % – 20.0 %)", "25"]]
    assert ["all kinds", "60", "3", "5.0 % (2.5 % – 10.0 %)", "55"] in _rows(page, "all kinds")
    assert len(_rows(page, "zero_width")) == 1
    # A slash in a name of the user's own leads to no other key.
    assert _rows(page, "社外/質問")[0][1] == "8"


def test_what_the_familiarity_gate_costs_is_shown_by_split(report):
    familiar = read_json(metrics_of(report.parent))["familiar"]
    expected = {
        split: [split, *(f"{one[key]:,}" for key in one)] for split, one in familiar.items()
    }
    assert list(familiar["test_iid"]) == ["n", "unfamiliar", "n_allow", "unfamiliar_allow"]
    assert familiar["test_phrases"]["unfamiliar"] > 0
    for split in ("test_iid", "test_cells", "test_phrases"):
        assert expected[split] in _rows(page_of(report).translate(PLAIN), split)


def test_a_probe_that_nobody_brought_is_not_missed(copy):
    edit(metrics_of(copy), lambda m: m["unfamiliar"].update(probe=None, test_evasion=None))
    build.build(copy, copy / "reports", "en")
    page = page_of(copy / "reports").translate(PLAIN)
    assert "probe (probe)" not in page
    assert "disguised, unsafe (test_evasion), rows, allowed" in page


@pytest.mark.parametrize(
    ("name", "split", "key", "still_met", "missed"),
    [
        ("test_foreign", "test_foreign", "unfamiliar/test_foreign/all/rate", 0.01, 0.011),
        ("test_evasion", "test_evasion", "unfamiliar/test_evasion/all/rate", 0.02, 0.021),
        ("far", "test_phrases", "splits/test_phrases/false_allow_rate/value", 0.05, 0.051),
        ("useful", "test_iid", "splits/test_iid/allow_rate_on_allow/value", 0.88, 0.879),
        ("useful", "test_phrases", "splits/test_phrases/allow_rate_on_allow/value", 0.2, 0.19),
    ],
)
def test_a_target_is_missed_just_beyond_its_limit(copy, name, split, key, still_met, missed):
    *path, last = key.split("/")

    def outcome(value):
        def change(metrics):
            for part in path:
                metrics = metrics[part]
            metrics[last] = value

        edit(metrics_of(copy), change)
        _, found = build.compose(Context.of(Sources(copy, "en")), {})
        (target,) = [one for one in found if (one.name, one.split) == (name, split)]
        assert bool(target.change) is (target.met is False)
        return target.met

    assert outcome(still_met) is True
    assert outcome(missed) is False
    assert outcome(None) is None


def test_new_wordings_keep_their_target_when_another_limit_is_certified(copy):
    card = copy / "models/calibration/b-Q4_K_M.json"
    edit(card, lambda c: c["certificate"].update(alpha=0.5))
    edit(
        metrics_of(copy),
        lambda m: m["splits"]["test_phrases"]["false_allow_rate"].update(value=0.06),
    )
    _, found = build.compose(Context.of(Sources(copy, "en")), {})
    met = {one.split: one.met for one in found if one.name == "far"}
    assert (met["test_phrases"], met["test_cells"]) == (False, True)


def test_the_limit_of_familiarity_in_the_figure_is_the_cards(copy):
    before = figures.draw(Context.of(Sources(copy, "en")))["familiarity"]
    edit(
        copy / "models/calibration/b-Q4_K_M.json",
        lambda c: c["familiarity"]["limits"].update(ngrams=0.5),
    )
    moved = figures.draw(Context.of(Sources(copy, "en")))["familiarity"]
    assert moved != before
    table = copy / "reports/plots/b-Q4_K_M/familiarity.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("test_foreign")]
    assert 0 < len(kept) < len(lines)
    table.write_text("\n".join(kept) + "\n", encoding="utf-8")
    # Without one of its splits it is still drawn, and not as before.
    assert figures.draw(Context.of(Sources(copy, "en")))["familiarity"] not in (before, moved)


def test_the_certificate_says_what_it_covers_and_every_limit_is_in_words(report, empty):
    page = page_of(report).translate(PLAIN)
    card = read_json(report.parent / "models/calibration/b-Q4_K_M.json")
    assert page.split("\n\n")[2] == COVERED[0]
    assert card["limits"] == list(LIMITS)
    for code in card["limits"]:
        assert LIMITS[code][0] in page
        assert code not in page
    # Where nothing is certified, there is nothing to cover.
    assert COVERED[0] not in page_of(empty / "ja")


def test_an_uncertified_file_says_so_first(copy):
    card = copy / "models/calibration/b-Q4_K_M.json"
    edit(
        card,
        lambda c: (
            c.update(status="not_certified", reasons=["too_few_unsafe_groups"]),
            c["certificate"].update(need_groups={"defense": 21}),
        ),
    )
    build.build(copy, copy / "reports", "en")
    first = page_of(copy / "reports").split("\n\n")[1]
    assert "could not be certified" in first
    assert "defense 21" in first


# --- nothing but numbers of files ---


def test_words_hold_no_literal_numbers():
    for name in (
        "texts",
        "sentences",
        "labels",
        "released_sections",
        "pair_sections",
        "type_sections",
        "origin_sections",
        "unfamiliar_sections",
        "speed_sections",
        "conclusion",
        "targets",
    ):
        tree = ast.parse((ROOT / f"so8t/report/{name}.py").read_text(encoding="utf-8"))
        found = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and WORDS.search(NAMES.sub("", node.value))
            and (" " in node.value or not node.value.isascii())
        ]
        assert found == [], name


def test_a_report_of_nothing_has_no_number_but_those_of_params(empty):
    for language in ("ja", "en"):
        twin, page = read_json(empty / language / "report.json"), page_of(empty / language)
        known = {entry["shown"] for entry in twin["numbers"] if entry["value"] is not None}
        assert {entry["file"] for entry in twin["numbers"] if entry["value"] is not None} == {
            "params.yaml"
        }
        for shown in sorted(known, key=len, reverse=True):
            page = page.replace(shown, "")
        digest = read_json(empty / language / "report.json")["files"]["params.yaml"][:12]
        assert not WORDS.search(NAMES.sub("", page.replace(digest, ""))), language


def test_a_report_of_nothing_says_not_run_everywhere(empty):
    assert "未実行" in page_of(empty / "ja").split("\n\n")[1]
    assert "not run" in page_of(empty / "en").split("\n\n")[1]
    assert {one["met"] for one in read_json(empty / "ja/report.json")["targets"]} == {None}


def test_every_number_on_the_page_is_in_the_twin(report):
    twin, page = read_json(report / "report.json"), page_of(report)
    for word in (
        *(str(digest)[:12] for digest in twin["files"].values()),
        *(
            number["shown"].translate(document.SPECIAL)
            for number in twin["numbers"]
            if number["style"] == "text"
        ),
    ):
        page = page.replace(word, "")
    known = {token for number in twin["numbers"] for token in NUMBER.findall(number["shown"])}
    assert len(NUMBER.findall(page)) > 300
    assert set(NUMBER.findall(NAMES.sub("", page))) - known == set()


# --- no edit goes unnoticed ---


def test_an_untouched_report_agrees_with_its_files(tree, report):
    assert check.check(report, tree) == []
    check.require(report, tree)


def _metric(folder):
    edit(
        folder / "reports/metrics/evaluate-b-Q4_K_M.json",
        lambda m: m["splits"]["test_iid"]["false_allow_rate"].update(value=0.0),
    )


def _markdown(folder):
    path = folder / "reports/report.md"
    path.write_text(path.read_text(encoding="utf-8").replace("5.0 %", "0.1 %"), encoding="utf-8")


def _twin(folder):
    edit(
        folder / "reports/report.json",
        lambda t: next(n for n in t["numbers"] if n["style"] == "percent").update(value=0.001),
    )


def _shown(folder):
    edit(
        folder / "reports/report.json",
        lambda t: next(n for n in t["numbers"] if n["style"] == "percent").update(shown="0.1 %"),
    )


def _figure(folder):
    path = folder / "reports/figures/confusion.svg"
    path.write_text(path.read_text(encoding="utf-8") + "<!-- -->", encoding="utf-8")


def _late(folder):
    edit(
        folder / "reports/report.json",
        lambda t: t["files"].update({"reports/metrics/ab.json": None}),
    )


def _card(folder):
    (folder / "models/calibration/b-Q4_K_M.json").unlink()


def _conclusion(folder):
    edit(folder / "reports/report.json", lambda t: t.update(conclusion="B is perfect."))


def _speed(folder):
    edit(
        folder / "reports/metrics/speed-b-Q4_K_M.json",
        lambda m: m["verdict_s"]["p50"].update(value=0.0),
    )


def _speed_page(folder):
    path = folder / "reports/speed.md"
    path.write_text(path.read_text(encoding="utf-8").replace(" ms", " µs"), encoding="utf-8")


def _speed_twin(folder):
    edit(
        folder / "reports/speed.json",
        lambda t: next(n for n in t["numbers"] if n["value"]).update(value=0.001),
    )


def _speed_figure(folder):
    path = folder / "reports/speed-latency.svg"
    path.write_text(path.read_text(encoding="utf-8") + "<!-- -->", encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        _metric,
        _markdown,
        _twin,
        _shown,
        _figure,
        _late,
        _card,
        _conclusion,
        _speed,
        _speed_page,
        _speed_twin,
        _speed_figure,
    ],
)
def test_a_planted_edit_makes_the_check_fail(copy, damage):
    damage(copy)
    assert check.check(copy / "reports", copy)
    with pytest.raises(GateError):
        check.require(copy / "reports", copy)


def test_a_twin_that_is_gone_says_what_to_type(copy):
    (copy / "reports/speed.json").unlink()
    with pytest.raises(ArtifactError, match="dvc repro report"):
        check.require(copy / "reports", copy)


# --- times ---


def _bytes_of(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_another_machine_changes_the_speed_page_and_nothing_else(copy):
    before = _bytes_of(copy)
    for model in ("a", "b"):
        for kind in RUN:
            file = Path(f"{model}-{kind}.gguf")
            meta = read_json(copy / f"data/scores/{model}-{kind}/meta.json")
            write_times(copy, Job(file, copy, None, meta), timings(7))
    build.build(copy, copy / "reports", "ja")
    after = _bytes_of(copy)
    assert set(before) == set(after)
    differing = {name for name in before if before[name] != after[name]}
    assert {"reports/speed.md", "reports/speed.json", "reports/speed-latency.svg"} < differing
    assert all(any(part.startswith("speed") for part in Path(name).parts) for name in differing)


def test_the_speed_page_has_each_time_and_the_report_has_none_and_leads_to_it(report):
    page, speed = page_of(report), (report / "speed.md").read_text(encoding="utf-8")
    for model in ("a", "b"):
        for kind in RUN:
            found = read_json(report / f"metrics/speed-{model}-{kind}.json")
            for key, scale, digits in (
                ("prefill_tokens_per_s", 1, 1),
                ("decode_tokens_per_s", 1, 1),
                ("verdict_s", 1000, 2),
            ):
                shown = f"{scale * found[key]['p50']['value']:.{digits}f}"
                assert shown in speed
                assert f" {shown} " not in page
    assert re.findall(r"\]\((.*)\)", speed) == ["report.md", "speed-latency.svg"]
    assert "](speed.md)" in page
    html = (report / "report.html").read_text(encoding="utf-8")
    for text in (page, html):
        assert " ms" not in text
    twins = [read_json(report / name) for name in ("report.json", "speed.json")]
    assert not [name for name in twins[0]["files"] if "speed" in name or "latency" in name]
    assert not set(twins[0]["files"]) & set(twins[1]["files"]) - {"params.yaml"}


def test_a_speed_page_of_nothing_says_not_run_and_has_its_figures_file(empty):
    page = (empty / "en/speed.md").read_text(encoding="utf-8")
    assert page.count("not run") >= 3
    figure = (empty / "en/speed-latency.svg").read_text(encoding="utf-8")
    assert xml.dom.minidom.parseString(figure).documentElement.tagName == "svg"


def test_a_planted_edit_changes_the_next_report(copy):
    before = page_of(copy / "reports")
    _metric(copy)
    build.build(copy, copy / "reports", "ja")
    assert page_of(copy / "reports") != before


def test_more_looks_are_no_disagreement_and_fewer_are(copy, monkeypatch):
    reports, looks = copy / "reports", copy / "database/looks.jsonl"
    monkeypatch.setenv("SO8T_DATABASE", str(copy / "database"))
    lines = looks.read_text(encoding="utf-8")
    looks.write_text(lines + lines, encoding="utf-8")
    assert check.check(reports, copy) == []
    looks.write_text(lines.splitlines()[0] + "\n", encoding="utf-8")
    assert check.check(reports, copy)


# --- form ---


def test_two_builds_give_the_same_bytes(tree, report, tmp_path):
    build.build(tree, tmp_path / "again", "ja")
    for name in (
        "report.md",
        "report.html",
        "speed.md",
        "speed.json",
        "speed-latency.svg",
        *(f"figures/{p.name}" for p in (report / "figures").iterdir()),
    ):
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes(), name


def test_every_figure_is_drawn_and_is_sound_svg(report):
    drawn = {path.stem: path for path in (report / "figures").iterdir()}
    assert set(drawn) == set(figures.FIGURES)
    for path in drawn.values():
        text = path.read_text(encoding="utf-8")
        assert xml.dom.minidom.parseString(text).documentElement.tagName == "svg"
        assert "<dc:date>" not in text


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.outside, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.outside += [
            value
            for name, value in attrs
            if name in ("src", "href") and not value.startswith("data:image/svg+xml;base64,")
        ]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_without_scripts_or_links_outside(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert "script" not in page.tags
    assert page.tags.count("img") == len(figures.FIGURES)
    assert 'title="models/calibration/b-Q4_K_M.json#/certificate/alpha"' in text


def test_a_request_cannot_break_out_of_its_cell():
    evil = Number("f", "/k", "text", "x", "<script>|`a`\n# b</script>")
    made = Document("ja", [Heading(1, "t"), Paragraph(("p",)), Table(["a"], [row((evil,))])])
    assert "<script>" not in document.to_html(made, figures={})
    text = document.to_markdown(made, figures="f")
    assert "<script>" not in text
    assert "\n# b" not in text
    assert text.count("|") == 2 + 2 + 2 + 1  # head, rule, cell, and one that is escaped


def test_pointers_follow_the_standard():
    content = {"a/b": {"m~n": [10, {"": 5}]}}
    assert sources.resolve(content, "/a~1b/m~0n/0") == 10
    assert sources.resolve(content, "/a~1b/m~0n/1/") == 5
    assert sources.resolve(content, "/a~1b/m~0n/2") is sources.MISSING
    assert sources.resolve(content, "/x") is sources.MISSING


@pytest.mark.parametrize(
    ("value", "style", "shown"),
    [
        (0.0314, "percent", "3.1 %"),
        (None, "percent", "未実行"),
        ("0.5", "percent", "未実行"),
        (True, "count", "未実行"),
        (1234, "count", "1,234"),
        (0.0002, "p", "< 0.001"),
        (-0.021, "points", "-2.1 pt"),
        (3 * 2**20, "size", "3.00 MiB"),
        (0.0125, "milliseconds", "12.50 ms"),
    ],
)
def test_a_value_is_shown_in_its_style_or_as_not_run(value, style, shown):
    assert sources.show(value, style, "ja") == shown


def test_both_languages_fill_the_same_slots():
    for name, (japanese, english) in texts.WORDS.items():
        assert set(re.findall(r"{(\w+)}", japanese)) == set(re.findall(r"{(\w+)}", english)), name


def test_a_figure_without_data_is_a_line_that_says_so(empty):
    context = Context.of(Sources(empty, "en"))
    document, _ = build.compose(context, {})
    assert not any(isinstance(block, Figure) for block in document.blocks)
    assert not Path(empty / "en/figures").is_dir() or list((empty / "en/figures").iterdir()) == []
    assert json.dumps([one.name for one in build.compose(context, {})[1]])
