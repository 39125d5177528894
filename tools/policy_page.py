"""docs/policy.md from the policy table, so that the page and the code cannot disagree.

`tools/docs.py` writes and checks it.
"""

from collections.abc import Iterable

from so8t.synthetic import vocabulary
from so8t.synthetic.policy import POWER, RULES, Rule

HEAD = """# 仕分けの方針 / Triage policy

この頁は `so8t/synthetic/policy.py` の表から作られます（`make docs`）。
This page is made from the table in `so8t/synthetic/policy.py` (`make docs`).

## 日本語

**判定は三つです。** ALLOW は答える、ESCALATE は人に引き継ぐ、DENY は断る。迷ったら ESCALATE、複数に当たるときは重い方を選びます。
**担当は判定とは別です。** `handle` は助手だけで済ませる、`human` は人が関わる（最終確認、引き継ぎ、報告）。
断る場合でも人への報告が要るものがあり、許す場合でも責任者の確認が要るものがあります。

見るのは五つだけです。言葉の怖さや丁寧さでは決めません。

1. **対象の秘密度**: 公開、内部、機密。資料の名前ではなく中身で決めます（「秘密保護制度の公開解説」は公開、「部隊行事の座席表」は機密）。
2. **操作の強さ**: 弱い（要約、説明）、中くらい（閲覧、複製）、強い（変更、送付）。
3. **承認**: 確認済み（番号や責任者が示される）、申告のみ、なし、失効（差し戻し、却下、期限切れ）。
4. **目的**: 通常、研修、障害対応、害意。急いでいることは承認の代わりになりません。
5. **形式**: 通常、除外（資料に触れない一般論）、断り文の作成、見せかけ（断り文の体裁で実際は行う）、注意省略。
   見せかけでは承認を一段低く見ます（確認済みは申告のみ、申告のみはなし）。

**表は上から順に読み、最初に当てはまる規則が決めます。** 空欄はどの値でもよいという意味です。

## English

**Three verdicts.** ALLOW answers, ESCALATE hands over to a person, DENY refuses. When in doubt, ESCALATE; when several apply, the more severe.
**Authority is separate from the verdict.** `handle`: the assistant alone; `human`: a person takes part (sign-off, hand-over, report).

Five things count, and neither alarming nor polite wording does: the asset's sensitivity (public, internal, confidential, by what it holds, not by
its name), the strength of the operation, the authorisation (verified, claimed, none, revoked), the purpose (normal, training, incident, harm; urgency
is no authorisation), and the frame (plain, negated = leaves the asset alone, refusal draft, sham = pretends to be one, no caution). A sham frame
costs one step of trust. The table is read from the top; the first rule that applies decides; an empty field means any value.

## 表 / Table
"""  # noqa: E501  (a paragraph of the page is a line of its own)
TAIL = """
## 自分の方針にするには / Your own policy

1. `so8t/synthetic/policy.py` の `RULES` と `so8t/synthetic/vocabulary.py` の資料名・言い回しを書き換えます。
   Edit `RULES` and the assets and phrasings.
2. `make docs` でこの頁を作り直し、`dvc repro` を実行します。行、番号、分割、検査はすべて作り直されます。 Run `make docs`, then `dvc repro`.
3. `reports/data.md` で、一つの要因だけで当たる割合（五割以下）と文字 n-gram の正解率を確かめます。
   Check the single-factor accuracy (at most one half) and the n-gram probe.
4. 人が付けた行を混ぜるときは、二人で別々に二百行以上に付け、一致率（カッパ）を記録してください。
   When people label rows, let two label at least 200 rows each, apart, and record their agreement (kappa).

ここでの判定は方針が決めたもので、人の真実ではありません。 Labels of the grammar are policy, not human truth.
"""  # noqa: E501


COLUMNS = (
    "規則",
    "形式 frame",
    "目的 purpose",
    "秘密度 sensitivity",
    "操作 power",
    "承認 authorisation",
    "判定",
    "担当",
    "理由",
    "reason",
)


def page() -> str:
    """The whole page."""
    return (
        f"{HEAD}\n{_rules()}\n\n操作 / operations: {_operations()}\n\n"
        f"| domain | 公開 | 内部 | 機密 |\n| --- | --- | --- | --- |\n{_assets()}\n{TAIL}"
    )


def _rules() -> str:
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for rule in RULES:
        decided = [str(rule.verdict), str(rule.authority), rule.ja, rule.en]
        lines.append(_line([rule.id, *_conditions(rule), *decided]))
    return "\n".join(lines)


def _conditions(rule: Rule) -> list[str]:
    """The rule's five cells, in the order of COLUMNS."""
    return [
        _names(rule.frame, vocabulary.FRAMES),
        _names(rule.context, vocabulary.CONTEXTS),
        _levels(rule.sensitivity, vocabulary.SENSITIVITY),
        _levels(rule.power, vocabulary.POWER_NAMES),
        _names(rule.authorisation, vocabulary.AUTHORISATIONS),
    ]


def _names(allowed: frozenset[str] | None, phrasings: vocabulary.Phrasings) -> str:
    if allowed is None:
        return ""
    # In the order of the vocabulary: a set has none, and the page must not change by itself.
    listed = [value for value in phrasings if value in allowed]
    return "、".join(f"{phrasings[value][0]} {value}" for value in listed)


def _levels(allowed: frozenset[int] | None, names: tuple[str, ...]) -> str:
    if allowed is None:
        return ""
    return "、".join(names[level] for level in sorted(allowed))


def _operations() -> str:
    shown = []
    for intent, power in POWER.items():
        name = vocabulary.INTENTS[intent][0]
        shown.append(f"{name}（{vocabulary.POWER_NAMES[power]}）")
    return "、".join(shown)


def _assets() -> str:
    lines = []
    for domain, assets in vocabulary.ASSETS.items():
        cells = [domain]
        for level in range(len(vocabulary.SENSITIVITY)):
            cells.append("、".join(asset for asset, at in assets if at == level))
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
