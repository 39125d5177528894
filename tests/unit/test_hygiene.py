"""Personal data, licences, language, hazards: what must go goes, what only looks like it stays."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from so8t.data import summary
from so8t.data.census import census
from so8t.data.evasion import DISGUISES
from so8t.data.formats import Sample, sample_of
from so8t.data.hygiene import clean, is_forbidden_target, is_japanese, personal_data
from so8t.data.page import page_text
from so8t.data.prepare import prepare
from so8t.files import read_jsonl, write_jsonl
from so8t.params import Source, load
from so8t.progress import Progress
from so8t.request import canonical_form
from so8t.verdict import Verdict

DATA = load().data
PERSONAL = {
    "email": [
        "taro.yamada@example.co.jp に送ってください。",
        "連絡はhanako_01@mail.example.comまで。",
        "ｔａｒｏ＠ｅｘａｍｐｌｅ．ｊｐ 宛てです。",
        "<info@example.org> をご覧ください。",
        "メール: a+b@sub.example.net",
        "x.y-z%1@example.info へ転送。",
        "宛先はsuzuki@例.example.jpです。担当sato@example.jp",
        "CC:tanaka@ex-ample.co.jp,",
        "「mori@example.ne.jp」が届け先です。",
        "メールアドレスはKATO@EXAMPLE.COMです。",
        "yuki@example.tokyo に返信",
        "問い合わせ先(ask@example.go.jp)",
    ],
    "phone": [
        "電話は03-1234-5678です。",
        "携帯090-1234-5678へ。",
        "TEL 0120-444-444 まで。",
        "０３－１２３４－５６７８に連絡。",
        "+81 90-1234-5678 にかけて。",
        "(03)1234-5678が窓口です。",
        "電話番号は09012345678です。",
        "080 1234 5678 にお願いします。",
        "FAX: 06-6123-4567",
        "050-1234-5678 が新しい番号。",
        "携帯は07012345678",
        "連絡先 045-123-4567",
        "+81-3-1234-5678",
        "03(1234)5678に電話して。",
    ],
    "postal_code": [
        "〒100-0001 千代田区",
        "〒1000001に送る。",
        "郵便番号は160-0022です。",
        "〒 530-0001 大阪",
        "住所: 812-0011 福岡",
        "〒０６０－０００１ 札幌",
        "送り先は〒980-0811。",
        "郵便番号 460-0008",
        "住所は950-0087です。",
        "〒700-0901、岡山",
    ],
    "my_number": [
        "マイナンバーは6214 9832 0257です。",
        "個人番号 621498320257 を登録。",
        "My Number: 6214-9832-0257",
        "６２１４９８３２０２５７が私の個人番号です。",
        "マイナンバー（123456789018）を見せて。",
        "個人番号: 1234 5678 9018",
        "my number 123456789018",
        "マイナンバーカードの番号1234-5678-9018",
        "番号は621498320257、これが個人番号。",
        "個人番号の欄に6214-9832-0257と記入。",
    ],
    "card": [
        "カード番号は4111 1111 1111 1111です。",
        "4111111111111111で払う。",
        "5500-0000-0000-0004 を登録。",
        "3400 0000 0000 009",
        "378282246310005で決済。",
        "３５３０１１１３３３３０００００",
        "6011 1111 1111 1117 が番号です。",
        "クレジット: 5105105105105100",
        "2223003122003222",
        "30569309025904で支払う。",
        "4012-8888-8888-1881",
        "6011000990139424",
        "カード4222222222222",
        "支払い 5555 5555 5555 4444",
    ],
}
LOOK_ALIKES = [
    "承認番号A-1234です。",
    "申請B-5678は差し戻しです。",
    "2024-10-12に行います。",
    "2024年10月12日10時30分",
    "午前9:00-17:30の勤務",
    "型番AB-1234-5678を使う。",
    "品番 12-345-67",
    "第3章-第12章を要約。",
    "価格は1,234,567円です。",
    "座標は35.6812, 139.7671です。",
    "版1.2.3.4を入れる。",
    "192.168.0.1 の機器",
    "注文番号202410120001",
    "伝票 123456789012 を確認。",
    "整理番号 621498320257 を引く。",
    "会員番号6214 9832 0257",
    "受付番号1234-5678-9012",
    "管理番号 1234 5678 9018 です。",
    "数値は4111111111111112です。",
    "番号4111 1111 1111 1112は誤り。",
    "1234567890123456という列",
    "9999 9999 9999 9999",
    "0000-0000-0000-0000",
    "8888888888888888",
    "写真を@で区切る。",
    "時給@1,200円",
    "a@bという記法",
    "@channel に知らせる。",
    "user@host で入る。",
    "@tanakaさんへ",
    "例は名前＠部署です。",
    "100-0001という部品",
    "幅は100-2000の間です。",
    "123-4567号室",
    "区間 101-2345 を点検。",
    "ロット 160-0022 を出荷。",
    "〒の記号を説明して。",
    "郵便番号の書き方を教えて。",
    "住所欄の入力方法",
    "電話の使い方を教えて。",
    "電話番号の様式を決める。",
    "個人番号の取り扱い規程",
    "マイナンバー制度の一般解説",
    "マイナンバー 621498320258",
    "個人番号 1234 5678 9012",
    "カード決済の仕組みを説明。",
    "クレジットカードの一般的な注意",
    "03章と12章",
    "第090号の文書",
    "部屋は0312です。",
    "1/2の縮尺で描く。",
    "2-3-4の順に行う。",
    "3.14159265358979",
    "0.123456789",
    "10-20-30の配合",
    "12:34:56.789",
    "ISO 9001:2015",
    "JIS Z 8301",
    "令和6年4月1日から",
    "電圧は100-200V、電流は10-20A",
    "1列目から100000列目まで",
    "平成31年-令和5年の推移",
]


def a_row(**changes: object) -> Sample:
    row = sample_of({"text": "資料の見方を教えてください。", "label": "ALLOW"}, "f:1", "s")
    assert isinstance(row, Sample)
    return replace(row, **changes)


def test_there_are_sixty_of_each() -> None:
    assert sum(map(len, PERSONAL.values())) >= 60
    assert len(LOOK_ALIKES) >= 60


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in PERSONAL.items() for text in texts]
)
def test_personal_data_is_found_and_the_row_dropped(kind: str, text: str) -> None:
    assert kind in personal_data(text)
    for place in ("text", "final", "thinking"):
        assert str(clean(a_row(**{place: f"この依頼は次のとおりです。{text}"}), DATA)).startswith(
            "personal_data:"
        )


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_a_look_alike_is_kept(text: str) -> None:
    assert personal_data(text) == []
    assert isinstance(clean(a_row(text=f"次の件です。{text}"), DATA), Sample)


def test_sixty_rows_with_personal_data_go_sixty_look_alikes_stay_and_the_page_counts_them(
    tmp_path: Path,
) -> None:
    """Through `prepare`, with collected rows with and without a licence beside them."""
    bad = [(kind, text) for kind, texts in PERSONAL.items() for text in texts]
    rows = [
        {"text": f"{i:03d}番の件です。{text}", "label": "ALLOW"} for i, (_, text) in enumerate(bad)
    ]
    rows += [
        {"text": f"{i:03d}号の話です。{text}", "label": "ALLOW"}
        for i, text in enumerate(LOOK_ALIKES)
    ]
    page = {
        "instruction": "施設の見学の申し込み方を教えてください。",
        "output": "窓口で申し込みます。",
        "url": "https://example.org/a",
    }
    rows += [
        page,
        {
            **page,
            "instruction": "駐輪場の使い方と注意する点を教えてください。",
            "license": "CC-BY-4.0",
        },
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = DATA.model_copy(
        update={"sources": [Source(path=str(tmp_path / "rows.jsonl"), weight=1.0, use="train")]}
    )
    counts = prepare(data, 1, tmp_path / "out", Progress("test"))
    kept = [row["text"] for _, row in read_jsonl(tmp_path / "out" / "train.jsonl")]
    assert len(bad) >= 60 <= len(LOOK_ALIKES)
    assert not any(text in row for row in kept for _, text in bad)
    # Rows are kept in their canonical form, in which full-width signs are plain ones.
    missing = [text for text in LOOK_ALIKES if not any(canonical_form(text) in row for row in kept)]
    assert missing == []
    metrics = summary.metrics_of(counts)
    found = {
        reason: n for reason, n in metrics["dropped"].items() if reason.startswith("personal_data:")
    }
    assert (sum(found.values()), set(found)) == (
        len(bad),
        {f"personal_data:{kind}" for kind in PERSONAL},
    )
    assert metrics["dropped"]["no_license"] == 1
    shown = page_text(
        metrics | {"census": census(tmp_path / "out"), "tokens": None}, tmp_path / "out", {}
    )
    assert all(f"| {reason} | {n} |" in shown for reason, n in metrics["dropped"].items())


def test_a_collected_row_needs_a_licence() -> None:
    raw = {
        "instruction": "資料の見方を教えてください。",
        "output": "順に読みます。",
        "url": "https://example.org/a",
    }
    row = sample_of(raw, "f:1", "s")
    assert isinstance(row, Sample)
    assert clean(row, DATA) == "no_license"
    assert isinstance(clean(replace(row, license="CC-BY-4.0"), DATA), Sample)


@pytest.mark.parametrize(
    "text",
    [
        "資料を見せてください。",
        "APIの使い方",
        "エラー E1234 の意味は？",
        "緊急停止手順",
        "PDFをCSVに変換する方法",
    ],
)
def test_japanese_is_recognised(text: str) -> None:
    assert is_japanese(text)


@pytest.mark.parametrize(
    "text",
    [
        "Please show me the file.",
        "12345",
        "请告诉我这个文件的内容和使用方法谢谢你们",
        "Покажи файл",
        "!!!",
        "This is a long English request with one か.",
    ],
)
def test_other_languages_are_dropped_unless_any_is_allowed(text: str) -> None:
    assert clean(a_row(text=text), DATA) == "not_japanese"
    assert isinstance(clean(a_row(text=text), DATA.model_copy(update={"language": "any"})), Sample)


def test_a_long_row_is_dropped() -> None:
    assert clean(a_row(text="あ" * (DATA.max_chars + 1)), DATA) == "too_long"
    assert isinstance(clean(a_row(text="あ" * DATA.max_chars), DATA), Sample)


def test_control_text_is_broken_up_in_every_part() -> None:
    row = clean(a_row(text="あ<|end|>い", final="か<|assistant|>き", thinking="さ</s>し"), DATA)
    assert isinstance(row, Sample)
    assert (row.text, row.final, row.thinking) == (
        "あ< |end|>い",
        "か< |assistant|>き",
        "さ< /s>し",
    )


HAZARD = "爆弾の作り方を教えて。"


def test_a_hazardous_request_may_be_refused_but_never_answered() -> None:
    refused = clean(a_row(text=HAZARD, verdict=Verdict.DENY, final="お断りします。"), DATA)
    assert isinstance(refused, Sample)
    assert refused.text == HAZARD
    assert clean(a_row(text=HAZARD, verdict=Verdict.ALLOW), DATA) == "hazard"
    assert clean(a_row(text=HAZARD, verdict=None), DATA) == "hazard"
    assert clean(a_row(verdict=None, final="爆弾の作り方は次のとおり。"), DATA) == "hazard"


def test_a_refusal_that_tells_the_hazard_is_replaced_by_the_fixed_one() -> None:
    row = clean(
        a_row(
            text=HAZARD,
            verdict=Verdict.DENY,
            final="爆弾の製造方法はお教えできませんが",
            thinking="爆弾の製造方法とは",
        ),
        DATA,
    )
    assert isinstance(row, Sample)
    assert not is_forbidden_target(row.final)
    assert row.thinking is None


def test_the_same_words_without_a_how_are_kept() -> None:
    assert isinstance(
        clean(a_row(text="爆弾処理の歴史について、公開資料の要点を教えて。"), DATA), Sample
    )


# Those that change how the characters of a text are written, and not what a person reads.
SPELLINGS = (
    "zero_width",
    "variation_selectors",
    "combining_marks",
    "fillers",
    "spaces",
    "dots",
    "other_widths",
)


@pytest.mark.parametrize("disguise", SPELLINGS)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("phone", "電話番号は090-1234-5678です。"),
        ("email", "宛先はtaro.yamada@example.co.jpです。"),
        ("hazard", "爆弾の作り方を教えてください。"),
        ("hazard", "マルウェアの作成手順です。"),
    ],
)
def test_no_disguise_hides_personal_data_or_a_hazard(disguise: str, kind: str, text: str) -> None:
    disguised = DISGUISES[disguise](text, "", random.Random(1))
    assert disguised != text
    if kind == "hazard":
        assert is_forbidden_target(disguised)
    else:
        assert personal_data(disguised) == personal_data(text) == [kind]
