"""The first lines: is the released file certified, how useful is it, and is B better than A."""

from so8t.report.document import Paragraph
from so8t.report.page import AB, HEADLINE, Page
from so8t.report.sources import Line, joined

SIGNED = {"macro_f1": "signed", "ece": "signed", "brier_score": "signed", "nll": "signed"}
WIDTH = {"signed": "ratio", "points": "width"}  # how a size without a sign is shown


def missing_groups(page: Page) -> Line:
    """Domains that lack unsafe groups, with how many; "none" when none does."""
    file, words = page.released_card, page.words
    found = page.sources.value(file, "/certificate/need_groups") or {}
    parts: list[Line] = [
        (f"{domain} ", page.sources.show(file, f"/certificate/need_groups/{domain}", "count"))
        for domain in found
    ]
    return joined(parts, ", ") if parts else (words("none"),)


def certificate(page: Page) -> Paragraph:
    """The conclusion: one sentence with its certificate."""
    file, source, words = page.released_card, page.sources, page.words
    status = source.value(file, "/status")
    names = {"name": page.name(), "type": page.kind()}
    if status is None:
        return Paragraph(words.say("no_card", **names), "bad")
    alpha = source.show(file, "/certificate/alpha", "percent")
    if status != "certified":
        reasons = source.value(file, "/reasons") or []
        shown = [(source.show(file, f"/reasons/{i}", "text"),) for i in range(len(reasons))]
        return Paragraph(
            words.say(
                "not_certified",
                **names,
                alpha=alpha,
                reasons=joined(shown, ", "),
                need=missing_groups(page),
            ),
            "bad",
        )
    return Paragraph(
        words.say(
            "certified",
            **names,
            alpha=alpha,
            delta=source.show(file, "/certificate/delta", "percent"),
            guarantee=words(str(source.value(file, "/certificate/guarantee"))),
            groups=source.show(file, "/certificate/groups", "count"),
            errors=source.show(file, "/certificate/false_allows", "count"),
            split=HEADLINE,
            allow=source.rate(page.released, f"/splits/{HEADLINE}/allow_rate_on_allow"),
        ),
        "good",
    )


def _primary(page: Page) -> Line:
    source, words, base = page.sources, page.words, "/conclusion/primary"
    parts = []
    for name in source.value(AB, base) or {}:
        key, style = f"{base}/{name}", SIGNED.get(name, "points")
        parts.append(
            words.say(
                "primary",
                endpoint=words(name),
                difference=source.show(AB, f"{key}/difference", style),
                low=source.show(AB, f"{key}/ci95/0", style),
                high=source.show(AB, f"{key}/ci95/1", style),
                p=source.show(AB, f"{key}/p_adjusted", "p"),
                mde=source.show(AB, f"{key}/mde", WIDTH[style]),
            )
        )
    return joined(parts, "; ") if parts else (words("none"),)


def comparison(page: Page) -> Paragraph:
    """One sentence on B against A."""
    code = page.sources.value(AB, "/conclusion/code")
    if code is None:
        return Paragraph(page.words.say("code_none"))
    lost = page.sources.value(AB, "/conclusion/collapsed") or []
    split = str(page.sources.value(AB, "/conclusion/split"))
    line = page.words.say(
        f"code_{code}", split=split, primary=_primary(page), collapsed=", ".join(lost)
    )
    return Paragraph(line, {"b_better": "good", "no_difference": "plain"}.get(code, "bad"))


def sampled(page: Page) -> Paragraph | None:
    """A warning when anything was measured on a sample."""
    files = (page.released, page.released_card)
    return (
        Paragraph(page.words.say("sampled"), "bad")
        if any(page.sources.value(file, "/sampled") for file in files)
        else None
    )
