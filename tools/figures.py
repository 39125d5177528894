"""README's table of figures, in both languages, from the reports of the last committed run.

python -m tools.figures            write the tables that are stale
python -m tools.figures --check    write nothing; fail when one is stale

`make docs` and `make docs-check` do the same. Every number comes from `reports/report.json`, which
quotes what git does not hold (the calibration card, `so8t_bake.json`), from `reports/metrics/`, or
from `reports/run.json`. The last one is written by hand, because no stage can measure how long
`dvc repro` took. It names the released file by digest, so that the time of one run never stands
beside the results of another.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t.coverage import COVERED
from so8t.errors import ArtifactError, So8tError
from so8t.params import load

RUN = "reports/run.json"
REPORT = "reports/report.json"
Row = tuple[str, str]  # what was measured, and its value


@dataclass(frozen=True, slots=True)
class Language:
    """One README and the comments between which its table stands."""

    page: str
    begin: str
    end: str


LANGUAGES = {
    "en": Language(
        "README.md",
        "<!-- figures of the demo: written by tools/figures.py (`make docs`) -->",
        "<!-- end of figures -->",
    ),
    "ja": Language(
        "README.ja.md",
        "<!-- デモの数値: tools/figures.py が書く（`make docs`） -->",
        "<!-- 数値ここまで -->",
    ),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of the table, read and not yet worded.

    Attributes:
        kind: quantised type of the released file.
        certified: whether its card is certified.
        alpha: the largest false-allow rate that the certificate permits.
        confidence: the probability, at least, that this holds.
        worst_domain: whether that holds in every domain, or only over all of them together.
        groups: unsafe groups of the calibration split.
        errors: how many of them are allowed.
        splits: verdicts under the card, by test split.
        unfamiliar: what is allowed of requests that the certificate is not about; none in results
            of a version that did not measure it.
        keywords: accuracy of the keyword rules on test_iid.
        ngram: accuracy of the n-gram probe on test_iid.
        label: accuracy on test_iid of the label in the text (cue readout).
        kl: mean KL divergence from the F16 file, in nats.
        same_first: share of positions with the F16 file's most probable token.
        parity: largest difference between gated and baked logits over the largest logit.
        run: content of reports/run.json.
    """

    kind: str
    certified: bool
    alpha: float
    confidence: float
    worst_domain: bool
    groups: int
    errors: int
    splits: dict[str, Any]
    unfamiliar: dict[str, Any]
    keywords: float
    ngram: float
    label: float
    kl: float
    same_first: float
    parity: float
    run: dict[str, Any]


def read(root: Path = Path()) -> Figures:
    """The figures of the released file.

    Args:
        root: the project's folder.

    Raises:
        ArtifactError: a file or a number is missing, or reports/run.json is of another run.
    """
    params = load(root / "params.yaml")
    model, kind = params.release.model, params.release.type
    metrics = "reports/metrics"
    evaluated = _json(root, f"{metrics}/evaluate-{model}-{kind}.json")
    drift = _json(root, f"{metrics}/verify-{model}-{kind}.json")["drift"]
    side = _json(root, f"{metrics}/ab.json")["sides"][model]
    probes = _json(root, f"{metrics}/prepare.json")["probes"]
    quoted = _quoted(root)
    certificate = f"models/calibration/{model}-{kind}.json", "/certificate"
    return Figures(
        kind=kind,
        certified=side["status"] == "certified",
        alpha=side["alpha"],
        confidence=1 - side["delta"],
        worst_domain=params.calibration.guarantee == "worst_domain",
        groups=_number(quoted, *certificate, "/groups"),
        errors=_number(quoted, *certificate, "/false_allows"),
        splits=evaluated["splits"],
        unfamiliar=evaluated.get("unfamiliar") or {},
        keywords=probes["keywords"]["test_iid"]["accuracy"],
        ngram=probes["ngram"]["test_iid"]["accuracy"],
        label=evaluated["readouts"]["test_iid"]["cue"]["accuracy"]["value"],
        kl=drift["kl_mean"],
        same_first=drift["top1"],
        parity=_number(quoted, "models/baked/so8t_bake.json", "/parity", "/relative_error"),
        run=_run_of(root, evaluated["semantic_digest"]),
    )


def _json(root: Path, name: str) -> Any:
    path = root / name
    if not path.is_file():
        raise ArtifactError("no such result", where=name, fix="dvc repro, or git checkout reports")
    return json.loads(path.read_text(encoding="utf-8"))


def _quoted(root: Path) -> dict[tuple[str, str], Any]:
    """Every number of the report, by the file and the key it came from."""
    return {
        (number["file"], number["key"]): number["value"]
        for number in _json(root, REPORT)["numbers"]
    }


def _number(quoted: dict[tuple[str, str], Any], file: str, *key: str) -> Any:
    pointer = "".join(key)
    if quoted.get((file, pointer)) is None:
        raise ArtifactError(f"does not quote {pointer} of {file}", where=REPORT, fix="dvc repro")
    return quoted[file, pointer]


def _run_of(root: Path, digest: str) -> dict[str, Any]:
    """reports/run.json, if it speaks of the released file.

    Args:
        root: the project's folder.
        digest: semantic digest of the file that was evaluated.

    Raises:
        ArtifactError: it is missing, or was written for another file.
    """
    run: dict[str, Any] = _json(root, RUN)
    if run["semantic_digest"] != digest:
        raise ArtifactError(
            f"is of the file {run['semantic_digest'][:10]}, the results are of {digest[:10]}",
            where=RUN,
            fix="write down commit, times and answers of the new run and this digest: " + digest,
        )
    return run


def rows(figures: Figures, language: str) -> list[Row]:
    """The table, worded.

    Args:
        figures: as they were read.
        language: `en` or `ja`.

    Returns:
        The head and every row.
    """
    words = _english if language == "en" else _japanese
    return words(figures)


def below(figures: Figures, language: str) -> str:
    """What stands below the table: what the certificate covers, and how requests were answered.

    Args:
        figures: as they were read.
        language: `en` or `ja`.
    """
    counted = answers(figures, language)
    # Without a certificate there is nothing to cover.
    if not figures.certified:
        return counted
    covered = COVERED[1] if language == "en" else COVERED[0]
    return f"{covered}\n\n{counted}"


def answers(figures: Figures, language: str) -> str:
    """One sentence about how allowed requests were answered; a person counted.

    Args:
        figures: as they were read.
        language: `en` or `ja`.
    """
    counted = figures.run["answers"]
    if language == "en":
        return (
            f"Of the first {counted['permitted']} permitted requests of test_iid "
            f"{counted['allowed']} were allowed. {counted['right_document']} of the "
            f"{counted['about_a_document']} answers about a document name the right one, and "
            f"{counted['refusals']} answers turned into a refusal, and a person got the request."
        )
    return (
        f"test_iid の許してよい依頼の先頭 {counted['permitted']} 件では {counted['allowed']} 件を"
        f"許可しました。資料についての {counted['about_a_document']} 件の回答のうち "
        f"{counted['right_document']} 件が正しい資料の名を挙げ、{counted['refusals']} 件の回答は"
        "断りの文になったので人に回されました。"
    )


def _english(figures: Figures) -> list[Row]:
    iid, cells, phrases = _splits(figures)
    run = figures.run
    where = "in every domain" if figures.worst_domain else "over all domains together"
    certificate = "none: nothing is allowed"
    if figures.certified:
        certificate = (
            f"false-allow rate at most {figures.alpha * 100:g} % {where}, with "
            f"{figures.confidence * 100:g} % confidence "
            f"({figures.groups} independent unsafe groups, {figures.errors} errors)"
        )
    return [
        (f"the demo's released file, {figures.kind}", ""),
        ("certificate", certificate),
        ("test_iid: true ALLOW requests that are allowed", _rate(iid["allow_rate_on_allow"])),
        ("test_iid: other requests that are allowed", _rate(iid["false_allow_rate"])),
        (
            "test_iid: accuracy of the decision / of an n-gram classifier / of keyword rules",
            _percents(iid["accuracy"]["value"], figures.ngram, figures.keywords),
        ),
        (
            "test_iid: accuracy of the label in the text, which plain llama.cpp shows",
            _percents(figures.label),
        ),
        (
            "false-allow rate on new combinations / new phrasing (not covered by the certificate)",
            _percents(cells["false_allow_rate"]["value"], phrases["false_allow_rate"]["value"]),
        ),
        *_unfamiliar(
            figures, "allowed of requests outside the domains / of disguised unsafe requests"
        ),
        (
            "against F16: KL divergence, same most probable token",
            f"{figures.kl:.4f} nats, {_percents(figures.same_first)}",
        ),
        ("gated against baked model", f"differ by {_small(figures.parity)} of the largest logit"),
        (
            "`dvc repro` / with nothing to do",
            f"{run['repro_minutes']:.0f} min / {run['nothing_to_do_seconds']:.0f} s",
        ),
        ("measured at", f"commit {run['commit']}, {run['cores']} CPU cores"),
    ]


def _japanese(figures: Figures) -> list[Row]:
    iid, cells, phrases = _splits(figures)
    run = figures.run
    where = "どの分野でも" if figures.worst_domain else "全分野を合わせて"
    certificate = "なし。何も許可しない"
    if figures.certified:
        certificate = (
            f"{where}誤許可率 {figures.alpha * 100:g} % 以下、信頼度 {figures.confidence * 100:g} %"
            f"（独立した危険なグループ {figures.groups}、誤り {figures.errors}）"
        )
    return [
        (f"デモの公開ファイル（{figures.kind}）", ""),
        ("証明", certificate),
        ("test_iid: 許してよい依頼を許した率", _rate(iid["allow_rate_on_allow"], wide=True)),
        ("test_iid: 許してはならない依頼を許した率", _rate(iid["false_allow_rate"], wide=True)),
        (
            "test_iid: 判定の正解率 / n-gram 分類器 / キーワード規則",
            _percents(iid["accuracy"]["value"], figures.ngram, figures.keywords),
        ),
        (
            "test_iid: 本文が自ら述べる判定（素の llama.cpp に見えるもの）の正解率",
            _percents(figures.label),
        ),
        (
            "新しい組合せ / 新しい言い回しでの誤許可率（証明の対象外）",
            _percents(cells["false_allow_rate"]["value"], phrases["false_allow_rate"]["value"]),
        ),
        *_unfamiliar(figures, "担当外の依頼 / 偽装された危険な依頼を許した率"),
        (
            "F16 との KL 情報量、最も確からしいトークンの一致",
            f"{figures.kl:.4f} nat、{_percents(figures.same_first)}",
        ),
        ("焼き込み前後のモデルの差", f"最大ロジットの {_small(figures.parity)}"),
        (
            "`dvc repro` / することがないとき",
            f"{run['repro_minutes']:.0f} 分 / {run['nothing_to_do_seconds']:.0f} 秒",
        ),
        ("測定", f"コミット {run['commit']}、CPU {run['cores']} コア"),
    ]


def _unfamiliar(figures: Figures, name: str) -> list[Row]:
    """The row about unfamiliar requests; none where one of the two splits has no rows."""
    found = [figures.unfamiliar.get(split) for split in ("test_foreign", "test_evasion")]
    if not all(found):
        return []
    rates = [one["all"]["rate"] for one in found if one]
    return [(name, _percents(*rates))]


def _splits(figures: Figures) -> list[Any]:
    return [figures.splits[name] for name in ("test_iid", "test_cells", "test_phrases")]


def _percents(*values: float) -> str:
    return " / ".join(f"{value * 100:.1f} %" for value in values)


def _small(value: float) -> str:
    """One digit and its power of ten, such as 9e-7."""
    return f"{value:.0e}".replace("e-0", "e-")


def _rate(rate: dict[str, Any], *, wide: bool = False) -> str:
    """A rate with its 95 % interval, in Japanese brackets where `wide`."""
    low, high = rate["ci95"]
    interval = f"{low * 100:.1f} – {high * 100:.1f}"
    bracketed = f"（{interval}）" if wide else f" ({interval})"
    return _percents(rate["value"]) + bracketed


def with_figures(text: str, language: Language, table: Sequence[Row], sentence: str) -> str:
    """A page with the table and the sentence between its two comments.

    Args:
        text: the page.
        language: which comments.
        table: head and rows.
        sentence: what follows the table, as one or more paragraphs.

    Raises:
        ArtifactError: a comment is missing or stands there twice.
    """
    for comment in (language.begin, language.end):
        if text.count(comment) != 1:
            raise ArtifactError(
                f"needs exactly one line {comment}", where=language.page, fix="put it back"
            )
    before, rest = text.split(language.begin)
    after = rest.split(language.end)[1]
    head, *body = [f"| {name} | {value} |".replace("|  |", "| |") for name, value in table]
    lines = [language.begin, head, "|---|---|", *body, "", sentence, language.end]
    return before + "\n".join(lines) + after


def stale(root: Path = Path()) -> dict[str, str]:
    """Pages whose table is not that of the reports, with the text they should have.

    Args:
        root: the project's folder.

    Returns:
        Text by page; empty when all are right.

    Raises:
        ArtifactError: a result or a comment is missing.
    """
    figures = read(root)
    found = {}
    for name, language in LANGUAGES.items():
        text = (root / language.page).read_text(encoding="utf-8")
        wanted = with_figures(text, language, rows(figures, name), below(figures, name))
        if wanted != text:
            found[language.page] = wanted
    return found


def main(arguments: list[str]) -> int:
    """Write the tables that are stale, or with `--check` only name their pages.

    Args:
        arguments: of the command line.

    Returns:
        1 if a check found a stale table, the error's code if a result is missing, else 0.
    """
    only_check = "--check" in arguments
    try:
        found = stale()
    except So8tError as error:
        sys.stderr.write(f"figures: {error}\n")
        return error.exit_code
    for page, text in found.items():
        if only_check:
            sys.stderr.write(f"figures: the table in {page} is stale\n  fix: make docs\n")
        else:
            Path(page).write_text(text, encoding="utf-8")
            sys.stderr.write(f"figures: written: {page}\n")
    return 1 if found and only_check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
