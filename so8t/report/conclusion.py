"""The first lines: is the released file certified, how useful is it, and is B better than A."""

from so8t.report.context import HEADLINE, Context, styles_of
from so8t.report.document import Paragraph
from so8t.report.sources import Line, joined

# How the comparison's outcome is marked; every other outcome is bad.
TONES = {"b_better": "good", "no_difference": "plain"}


def missing_groups(context: Context) -> Line:
    """Domains whose calibration rows lack unsafe groups, with how many; "none" when none does."""
    need = context.released_card.at("/certificate/need_groups")
    domains = need.value("") or {}
    parts: list[Line] = []
    for domain in domains:
        count = need.show(f"/{domain}", "count")
        parts.append((f"{domain} ", count))
    return joined(parts, ", ") if parts else (context.words("none"),)


def certificate(context: Context) -> Paragraph:
    """The conclusion: one sentence with its certificate."""
    status = context.released_card.value("/status")
    if status is None:
        line = context.words.say("no_card", name=context.name(), type=context.kind())
        return Paragraph(line, "bad")
    if status == "certified":
        return Paragraph(_certified(context), "good")
    return Paragraph(_not_certified(context), "bad")


def _certified(context: Context) -> Line:
    card = context.released_card
    return context.words.say(
        "certified",
        name=context.name(),
        type=context.kind(),
        alpha=card.show("/certificate/alpha", "percent"),
        delta=card.show("/certificate/delta", "percent"),
        guarantee=context.words(str(card.value("/certificate/guarantee"))),
        groups=card.show("/certificate/groups", "count"),
        errors=card.show("/certificate/false_allows", "count"),
        split=HEADLINE,
        allow=context.released.rate(f"/splits/{HEADLINE}/allow_rate_on_allow"),
    )


def _not_certified(context: Context) -> Line:
    card = context.released_card
    name = context.name()
    kind = context.kind()
    alpha = card.show("/certificate/alpha", "percent")
    reasons: list[Line] = []
    for place, _ in enumerate(card.value("/reasons") or []):
        reasons.append(card.cell(f"/reasons/{place}", "text"))
    return context.words.say(
        "not_certified",
        name=name,
        type=kind,
        alpha=alpha,
        reasons=joined(reasons, ", "),
        # What to collect, where too few unsafe rows are the reason.
        need=missing_groups(context),
    )


def comparison(context: Context) -> Paragraph:
    """One sentence on B against A."""
    ab = context.ab
    code = ab.value("/conclusion/code")
    if code is None:
        return Paragraph(context.words.say("code_none"))
    # Verdicts that B no longer gives at all: then no rate of B means what it says.
    lost = ab.value("/conclusion/collapsed") or []
    line = context.words.say(
        f"code_{code}",
        split=str(ab.value("/conclusion/split")),
        primary=_primary_endpoints(context),
        collapsed=", ".join(lost),
    )
    return Paragraph(line, TONES.get(code, "bad"))


def _primary_endpoints(context: Context) -> Line:
    """The endpoints that decide: each difference with its interval, p-value and detectable size."""
    ab = context.ab
    parts = []
    for name in ab.value("/conclusion/primary") or {}:
        endpoint = ab.at(f"/conclusion/primary/{name}")
        style = styles_of(name)
        sentence = context.words.say(
            "primary",
            endpoint=context.words(name),
            difference=endpoint.show("/difference", style.difference),
            low=endpoint.show("/ci95/0", style.difference),
            high=endpoint.show("/ci95/1", style.difference),
            p=endpoint.show("/p_adjusted", "p"),
            mde=endpoint.show("/mde", style.width),
        )
        parts.append(sentence)
    return joined(parts, "; ") if parts else (context.words("none"),)


def sampled(context: Context) -> Paragraph | None:
    """A warning when anything was measured on a sample of the rows."""
    for file in (context.released, context.released_card):
        if file.value("/sampled"):
            return Paragraph(context.words.say("sampled"), "bad")
    return None
