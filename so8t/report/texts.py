"""The report's words in its language: names looked up, sentences filled in.

Headings show both languages, the report's own first. The words themselves are in `sentences` and
`labels`; numbers come from result files alone.
"""

from so8t import coverage
from so8t.report import labels, sentences
from so8t.report.sentences import Pairs
from so8t.report.sources import NOT_RUN, Language, Line, Number

WORDS: Pairs = {
    **sentences.CONCLUSION,
    **sentences.TARGETS,
    **sentences.NOTES,
    **coverage.LIMITS,
    "covered": coverage.COVERED,
    **labels.HEADINGS,
    **labels.OUTCOMES,
    **labels.COMMON,
    **labels.METRICS,
    **labels.COMPARISON,
    **labels.CALIBRATION,
    **labels.UNFAMILIAR,
    **labels.TYPES,
    **labels.RUNNING,
    **labels.SPEED,
    **labels.TRAINING,
    **labels.DATA,
    **labels.FIGURES,
}
# Codes of what no certificate covers, for a file that has no card to list them.
LIMITS = tuple(coverage.LIMITS)


class Words:
    """The words of one language.

    Attributes:
        language: `ja` or `en`.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        # The place of the language in each pair of `WORDS`.
        self._own = 0 if language == "ja" else 1

    def __call__(self, name: str) -> str:
        """A phrase; a name without words stands for itself (codes, split and domain names)."""
        # Domains and reasons may be the user's own words, in one language only.
        if name not in WORDS:
            return name
        return WORDS[name][self._own]

    def heading(self, name: str) -> str:
        """Both languages, the report's own first.

        Args:
            name: among the words.
        """
        pair = WORDS[name]
        own = pair[self._own]
        other = pair[1 - self._own]
        return f"{own} / {other}"

    def say(self, phrase: str, /, **parts: str | Number | Line) -> Line:
        """A sentence with its slots filled in.

        Numbers stay numbers in the line, so that the HTML page can show where each is from.

        Args:
            phrase: name of the sentence.
            parts: what stands in each slot; the slot `{not_run}` fills itself.
        """
        line: list[str | Number] = []
        for piece in self(phrase).split("{"):
            slot, brace, rest = piece.partition("}")
            # The part before the first slot, or a sentence without any.
            if not brace:
                line.append(piece)
                continue
            part = NOT_RUN[self.language] if slot == "not_run" else parts[slot]
            if isinstance(part, tuple):
                line.extend(part)
            else:
                line.append(part)
            line.append(rest)
        return tuple(text for text in line if text != "")
