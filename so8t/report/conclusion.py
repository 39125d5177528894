"""The first lines: is the released file certified, how useful is it, and is B better than A."""

from so8t.report.context import HEADLINE, Context, styles_of
from so8t.report.document import Paragraph
from so8t.report.sources import Line, escape, joined

# How the comparison's outcome is marked; every other outcome is bad.
TONES = {"b_better": "good", "no_difference": "plain"}


def missing_groups(context: Context) -> Line:
    """Domains whose calibration rows lack unsafe groups, with how many; "none" when none does.

    Args:
        context: result files, words, and which file is released.

    Returns:
        Each domain with its count, which is recorded with its origin.
    """
    need = context.released_card.at("/certificate/need_groups")
    domains = need.value("") or {}
    parts: list[Line] = []
    for domain in domains:
        # Domains are the user's own words, which may hold a slash.
        key = f"/{escape(domain)}"
        count = need.show(key, "count")
        parts.append((f"{domain} ", count))
    if not parts:
        return (context.words("none"),)
    return joined(parts, ", ")


def certificate(context: Context) -> Paragraph:
    """The conclusion: one sentence with its certificate.

    Args:
        context: result files, words, and which file is released.

    Returns:
        Good where the card says `certified`, bad where it does not or where there is none.
    """
    status = context.released_card.value("/status")
    # Without a card nothing is decided, and no sentence may sound as if it were.
    if status is None:
        line = context.words.say("no_card", name=context.name(), type=context.kind())
        return Paragraph(line, "bad")
    if status == "certified":
        return Paragraph(_certified(context), "good")
    return Paragraph(_not_certified(context), "bad")


def covered(context: Context) -> Paragraph | None:
    """What the certified rate counts, and what it does not cover.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The paragraph; null where nothing is certified.
    """
    if context.released_card.value("/status") != "certified":
        return None
    return Paragraph((context.words("covered"),))


def _certified(context: Context) -> Line:
    """What is guaranteed, with which confidence, and how useful the file still is."""
    card = context.released_card
    return context.words.say(
        "certified",
        name=context.name(),
        type=context.kind(),
        alpha=card.show("/certificate/alpha", "percent"),
        delta=card.show("/certificate/delta", "percent"),
        # The guarantee is a code on the card: in every domain, or over all of them together.
        guarantee=context.words(str(card.value("/certificate/guarantee"))),
        groups=card.show("/certificate/groups", "count"),
        errors=card.show("/certificate/false_allows", "count"),
        split=HEADLINE,
        allow=context.released.rate(f"/splits/{HEADLINE}/allow_rate_on_allow"),
    )


def _not_certified(context: Context) -> Line:
    """Why no guarantee can be given, and what is missing."""
    card = context.released_card
    name = context.name()
    kind = context.kind()
    alpha = card.show("/certificate/alpha", "percent")
    reasons: list[Line] = []
    found = card.value("/reasons") or []
    for place in range(len(found)):
        reason = card.cell(f"/reasons/{place}", "text")
        reasons.append(reason)
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
    """One sentence on B against A.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A paragraph whose tone says whether B may be preferred; plain where no difference is
        shown.
    """
    ab = context.ab
    code = ab.value("/conclusion/code")
    # A base alone can be reported, without any B beside it.
    if code is None:
        return Paragraph(context.words.say("code_none"))
    # Verdicts that B no longer gives at all: then no rate of B means what it says.
    lost = ab.value("/conclusion/collapsed") or []
    split = ab.value("/conclusion/split")
    line = context.words.say(
        f"code_{code}",
        split=str(split),
        primary=_primary_endpoints(context),
        collapsed=", ".join(lost),
    )
    tone = TONES.get(code, "bad")
    return Paragraph(line, tone)


def _primary_endpoints(context: Context) -> Line:
    """The endpoints that decide: each difference with its interval, p-value and detectable size.

    Returns:
        One sentence per endpoint, joined; "none" where nothing was compared.
    """
    ab = context.ab
    parts = []
    # Chosen in params.yaml before anything was measured, so that none is picked afterwards.
    primary = ab.value("/conclusion/primary") or {}
    for name in primary:
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
    if not parts:
        return (context.words("none"),)
    return joined(parts, "; ")


def sampled(context: Context) -> Paragraph | None:
    """A warning when anything was measured on a sample of the rows.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The warning, or null where every row was read.
    """
    for file in (context.released, context.released_card):
        if file.value("/sampled"):
            return Paragraph(context.words.say("sampled"), "bad")
    return None
