"""Diff, dump and document import, and the polite collector against a server on this machine."""

import bz2
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from so8t.data import documents, wikipedia
from so8t.data.cli import data, describe, diff
from so8t.data.collector import Collector, urls_of
from so8t.data.formats import Sample, sample_of
from so8t.errors import DataError
from so8t.files import write_jsonl

FILTERS = wikipedia.Filters(min_chars=20, max_chars=200, symbol_share=0.3)


# --- diff ---


def rows(*names: str, **changes: object) -> list[dict]:
    return [
        {"id": n, "text": f"{n}の依頼", "verdict": "ALLOW", "group": n, "final": "はい", **changes}
        for n in names
    ]


def test_diff_names_what_was_added_removed_moved_relabelled_and_reworded(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write_jsonl(a / "train.jsonl", rows("one", "two", "three", "four"))
    write_jsonl(a / "valid.jsonl", rows("five"))
    write_jsonl(
        b / "train.jsonl",
        [
            *rows("one"),
            *rows("two", verdict="DENY"),
            *rows("three", text="別の文"),
            *rows("five"),
            *rows("six"),
        ],
    )
    write_jsonl(b / "valid.jsonl", [])
    found = diff(a, b)
    assert {k: v for k, v in found["ids"].items() if v} == {
        "added": ["six"],
        "removed": ["four"],
        "moved": ["five"],
        "relabelled": ["two"],
        "reworded": ["three"],
    }
    assert found["moves"] == {"valid -> train": 1}
    assert "relabelled: 1 (two)" in describe(found)


def test_diff_of_equal_data_says_same(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a" / "train.jsonl", rows("one", "two"))
    write_jsonl(tmp_path / "b" / "train.jsonl", rows("two", "one"))
    assert diff(tmp_path / "a", tmp_path / "b")["same"]
    assert (
        CliRunner()
        .invoke(data, ["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
        .exit_code
        == 0
    )


def test_diff_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        diff(tmp_path, tmp_path)
    write_jsonl(tmp_path / "x.jsonl", [{"a": 1}])
    with pytest.raises(DataError, match="without id"):
        diff(tmp_path / "x.jsonl", tmp_path / "x.jsonl")


# --- dumps ---

PAGE = "<page><title>{0}</title><ns>{1}</ns>{2}<revision><text>{3}</text></revision></page>"
PROSE = "'''駅'''（えき）は、[[列車]]が止まる[[施設|場所]]である。&lt;ref&gt;出典 https://example.org&lt;/ref&gt;人が乗り降りする。{{仮リンク|a|{{b}}}}"
DUMP = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">'
    + "".join(
        [
            PAGE.format(
                "駅",
                0,
                "",
                PROSE
                + "\n== 歴史 ==\n* 箇条書き\n{| class=x\n| 表\n|}\n[[ファイル:a.jpg|thumb|[[説明]]]]次の段落である。",
            ),
            PAGE.format("転送", 0, '<redirect title="駅"/>', "#転送 [[駅]]" + "あ" * 40),
            PAGE.format("利用者:a", 2, "", "あ" * 60),
            PAGE.format("短い", 0, "", "短い。"),
            PAGE.format("リンク", 0, "", "詳しくは https://example.org を見ること。" + "あ" * 20),
            PAGE.format("記号", 0, "", "＋−×÷＝≠＜＞∞∴♂♀°′″℃￥＄￠￡" * 2 + "あ"),
        ]
    )
    + "</mediawiki>"
)


@pytest.mark.parametrize("suffix", [".xml", ".xml.bz2"])
def test_a_dump_gives_clean_paragraphs_with_provenance(suffix: str, tmp_path: Path) -> None:
    path, dropped = tmp_path / f"dump{suffix}", Counter()
    path.write_bytes(bz2.compress(DUMP.encode()) if suffix.endswith("bz2") else DUMP.encode())
    found = list(wikipedia.rows(path, "CC BY-SA 4.0", FILTERS, dropped))
    assert [r["title"] for r in found] == ["駅"]
    assert (
        found[0]["text"]
        == "駅（えき）は、列車が止まる場所である。人が乗り降りする。\n次の段落である。"
    )
    assert found[0]["license"] == "CC BY-SA 4.0"
    assert found[0]["url"].startswith("https://ja.wikipedia.org/wiki/%E9%A7%85")
    assert dropped == {"length": 1, "link": 1, "symbols": 1}
    assert isinstance(sample_of(found[0], "f:1", "s"), Sample)


def test_a_jsonl_dump_and_a_damaged_one(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "d.jsonl",
        [{"title": "駅", "text": "列車が止まる場所である。人が乗り降りするところをいう。"}],
    )
    assert len(list(wikipedia.rows(tmp_path / "d.jsonl", "x", FILTERS, Counter()))) == 1
    (tmp_path / "bad.xml").write_text(DUMP[:300], encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        list(wikipedia.rows(tmp_path / "bad.xml", "x", FILTERS, Counter()))
    out = CliRunner().invoke(
        data,
        [
            "import-wikipedia",
            str(tmp_path / "d.jsonl"),
            str(tmp_path / "o.jsonl"),
            "--min-chars",
            "20",
        ],
    )
    assert out.output.startswith("1 rows")


# --- documents ---


def test_documents_become_passages_with_provenance(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "一つ目の段落です。\n\n" + "長い文です。" * 30, encoding="utf-8"
    )
    (tmp_path / "b.md").write_text("# 題\n\n本文です。", encoding="utf-8")
    (tmp_path / "skip.bin").write_bytes(b"x")
    found = list(
        documents.rows(
            documents.files_below(tmp_path), license_name="社内", domain="general", max_chars=100
        )
    )
    assert [r["source"] for r in found] == ["a.txt", "a.txt", "a.txt", "b.md"]
    assert max(len(r["text"]) for r in found) <= 100
    assert (
        "".join(r["text"] for r in found[:3]).replace("\n", "")
        == "一つ目の段落です。" + "長い文です。" * 30
    )
    assert len({r["id"] for r in found}) == 4


def test_html_gives_its_main_text(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    body = "".join(
        f"<p>点検は毎朝行います。記録は台帳に残します。第{i}項です。</p>" for i in range(5)
    )
    page = f"<html><head><script>alert(1)</script></head><body><nav>品書き</nav><article>{body}</article></body></html>"
    (tmp_path / "p.html").write_text(page, encoding="utf-8")
    text = documents.extract(tmp_path / "p.html")
    assert "第4項" in text
    assert "alert" not in text


def test_pdf_is_read_and_a_broken_or_empty_one_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure()
    figure.text(0.1, 0.5, "inspection record 42")
    figure.savefig(tmp_path / "a.pdf")
    plt.close(figure)
    assert "inspection record 42" in documents.extract(tmp_path / "a.pdf")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 broken")
    with pytest.raises(DataError):
        documents.extract(tmp_path / "b.pdf")


@pytest.mark.parametrize(
    ("name", "content"), [("a.docx", b"x"), ("a.txt", "漢字".encode("cp932")), ("a.md", b"  \n")]
)
def test_unreadable_documents_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        documents.extract(tmp_path / name)
    assert caught.value.where.endswith(name)


# --- collector ---

PAGES = {
    "/ok": (200, "text/plain; charset=utf-8", "本文です。".encode()),
    "/private/x": (200, "text/plain", b"no"),
    "/moved": (302, "text/plain", b""),
    "/pic": (200, "image/png", b"x"),
    "/sjis": (200, "text/plain", "漢字".encode("cp932")),
    "/slow": (200, "text/plain", "二つ目".encode()),
}
ROBOTS = b"User-agent: *\nDisallow: /private/\nCrawl-delay: 3\n"


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    status, robots = getattr(request, "param", (200, ROBOTS))
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers['User-Agent']}")
            code, kind, body = (
                (status, "text/plain", robots)
                if self.path == "/robots.txt"
                else PAGES.get(self.path, (404, "text/plain", b""))
            )
            self.send_response(code)
            self.send_header("Content-Type", kind)
            if code == 302:
                self.send_header("Location", "/ok")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def collector(folder: Path, waits: list[float] | None = None) -> Collector:
    return Collector(
        folder / "session.json",
        "社内",
        "SO8T-collector/1 (+mailto:a)",
        0.0,
        sleep=(waits if waits is not None else []).append,
    )


def test_the_collector_obeys_robots_and_says_where_rows_come_from(
    server: tuple[str, list[str]], tmp_path: Path
) -> None:
    base, asked = server
    waits: list[float] = []
    worker = collector(tmp_path, waits)
    found = list(
        worker.rows(
            [f"{base}{p}" for p in (*PAGES, "/absent")]
            + ["file:///etc/hosts", "http://u:p@127.0.0.1/"]
        )
    )
    assert [r["text"] for r in found] == ["本文です。", "二つ目"]
    assert found[0].keys() >= {
        "url",
        "license",
        "fetched_at",
        "robots_sha256",
        "robots_ok",
        "user_agent",
    }
    assert list(worker.done.values()) == [
        "taken",
        "robots_disallow",
        "status_302",
        "not_text",
        "not_utf8",
        "taken",
        "status_404",
        "not_a_plain_url",
        "not_a_plain_url",
    ]
    assert not any(line.startswith("/private") for line in asked)
    assert all("SO8T-collector" in line for line in asked)
    assert waits
    assert all(2 < w <= 3 for w in waits)


@pytest.mark.parametrize(
    "server", [(500, b""), (403, b""), (302, b""), (200, b"\xff\xfe\x00")], indirect=True
)
def test_rules_that_cannot_be_read_mean_no(server: tuple[str, list[str]], tmp_path: Path) -> None:
    base, asked = server
    worker = collector(tmp_path)
    assert list(worker.rows([f"{base}/ok", f"{base}/slow"])) == []
    assert set(worker.done.values()) == {"robots_unreadable"}
    assert len(asked) == 1


def test_no_answer_at_all_means_no(tmp_path: Path) -> None:
    worker = collector(tmp_path)
    assert list(worker.rows(["http://127.0.0.1:9/ok"])) == []
    assert list(worker.done.values()) == ["robots_unreadable"]


def test_a_second_run_goes_on_where_the_first_stopped(
    server: tuple[str, list[str]], tmp_path: Path
) -> None:
    base, asked = server
    assert len(list(collector(tmp_path).rows([f"{base}/ok"]))) == 1
    assert len(list(collector(tmp_path).rows([f"{base}/ok", f"{base}/slow"]))) == 1
    assert sum(line.startswith("/ok") for line in asked) == 1
    assert json.loads((tmp_path / "session.json").read_text())["done"]


def test_lists_and_sitemaps_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# mine\nhttp://a/1\nhttp://a/2\nhttp://a/1\n")
    (tmp_path / "s.xml").write_text(
        "<urlset><url><loc> http://a/1 </loc></url><url><loc>http://a/2</loc></url></urlset>"
    )
    assert (
        urls_of(tmp_path / "a.txt") == urls_of(tmp_path / "s.xml") == ["http://a/1", "http://a/2"]
    )
