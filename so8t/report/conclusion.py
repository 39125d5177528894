"""The first lines: is the released file certified, how useful is it, and is B better than A."""

from so8t.report.context import AB, HEADLINE, Context, styles_of
from so8t.report.document import Paragraph
from so8t.report.sources import Line, joined

# How the comparison's outcome is marked; every other outcome is bad.
TONES = {"b_better": "good", "no_difference": "plain"}


def missing_groups(context: Context) -> Line:
    """Domains whose calibration rows lack unsafe groups, with how many; "none" when none does."""
    file = context.released_card
    key = "/certificate/need_groups"
    domains = context.sources.value(file, key) or {}
    parts: list[Line] = []
    for domain in domains:
        count = context.sources.show(file, f"{key}/{domain}", "count")
        parts.append((f"{domain} ", count))
    return joined(parts, ", ") if parts else (context.words("none"),)


def certificate(context: Context) -> Paragraph:
    """The conclusion: one sentence with its certificate."""
    status = context.sources.value(context.released_card, "/status")
    if status is None:
        line = context.words.say("no_card", name=context.name(), type=context.kind())
        return Paragraph(line, "bad")
    if status == "certified":
        return Paragraph(_certified(context), "good")
    return Paragraph(_not_certified(context), "bad")


def _certified(context: Context) -> Line:
    file = context.released_card
    source = context.sources
    return context.words.say(
        "certified",
        name=context.name(),
        type=context.kind(),
        alpha=source.show(file, "/certificate/alpha", "percent"),
        delta=source.show(file, "/certificate/delta", "percent"),
        guarantee=context.words(str(source.value(file, "/certificate/guarantee"))),
        groups=source.show(file, "/certificate/groups", "count"),
        errors=source.show(file, "/certificate/false_allows", "count"),
        split=HEADLINE,
        allow=source.rate(context.released, f"/splits/{HEADLINE}/allow_rate_on_allow"),
    )


def _not_certified(context: Context) -> Line:
    file = context.released_card
    source = context.sources
    name = context.name()
    kind = context.kind()
    alpha = source.show(file, "/certificate/alpha", "percent")
    reasons: list[Line] = []
    for place, _ in enumerate(source.value(file, "/reasons") or []):
        reasons.append(source.cell(file, f"/reasons/{place}", "text"))
    return context.words.say(
        "not_certified",
        name=name,
        type=kind,
        alpha=alpha,
        reasons=joined(reasons, ", "),
        need=missing_groups(context),
    )


def comparison(context: Context) -> Paragraph:
    """One sentence on B against A."""
    source = context.sources
    code = source.value(AB, "/conclusion/code")
    if code is None:
        return Paragraph(context.words.say("code_none"))
    lost = source.value(AB, "/conclusion/collapsed") or []
    line = context.words.say(
        f"code_{code}",
        split=str(source.value(AB, "/conclusion/split")),
        primary=_primary_endpoints(context),
        collapsed=", ".join(lost),
    )
    return Paragraph(line, TONES.get(code, "bad"))


def _primary_endpoints(context: Context) -> Line:
    """The endpoints that decide: each difference with its interval, p-value and detectable size."""
    source = context.sources
    parts = []
    for name in source.value(AB, "/conclusion/primary") or {}:
        key = f"/conclusion/primary/{name}"
        style = styles_of(name)
        sentence = context.words.say(
            "primary",
            endpoint=context.words(name),
            difference=source.show(AB, f"{key}/difference", style.difference),
            low=source.show(AB, f"{key}/ci95/0", style.difference),
            high=source.show(AB, f"{key}/ci95/1", style.difference),
            p=source.show(AB, f"{key}/p_adjusted", "p"),
            mde=source.show(AB, f"{key}/mde", style.width),
        )
        parts.append(sentence)
    return joined(parts, "; ") if parts else (context.words("none"),)


def sampled(context: Context) -> Paragraph | None:
    """A warning when anything was measured on a sample of the rows."""
    for file in (context.released, context.released_card):
        if context.sources.value(file, "/sampled"):
            return Paragraph(context.words.say("sampled"), "bad")
    return None
