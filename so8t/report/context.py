"""What every part of the report needs: the result files, the words, and which file is released.

Model A is the base model and model B the retrained one. Each was quantised to several types (F16,
Q4_K_M, ...); one file of one model is released, and the report is about that one first.
"""

from dataclasses import dataclass

from so8t.report.document import Heading, plain, row
from so8t.report.sources import PARAMS, Line, Number, Sources
from so8t.report.texts import Words

AB = "reports/metrics/ab.json"
PREPARE = "reports/metrics/prepare.json"
TRAIN = "reports/metrics/train.json"
TRAIN_TABLE = "reports/plots/train.csv"
BAKE = "models/baked/so8t_bake.json"
# Rows like those of training, then cells of the policy and phrasings that training never saw.
SPLITS = ("test_iid", "test_cells", "test_phrases")
HEADLINE = SPLITS[0]
MODELS = ("a", "b")
# The type that nothing else is quantised from: it has no drift from itself.
UNQUANTISED = "F16"


@dataclass(frozen=True, slots=True)
class EndpointStyles:
    """How an endpoint of the comparison is shown: its value, a difference, a size without sign."""

    value: str
    difference: str
    width: str


RATE = EndpointStyles("percent", "points", "width")
SCORE = EndpointStyles("ratio", "signed", "ratio")
SCORES = ("macro_f1", "ece", "brier_score", "nll")


def styles_of(endpoint: str) -> EndpointStyles:
    """How an endpoint of ab.json is shown; those that are no rates have no percent sign."""
    return SCORE if endpoint in SCORES else RATE


@dataclass(frozen=True, slots=True)
class Context:
    """Sources, words, the released model and type, and all types that were scored."""

    sources: Sources
    words: Words
    model: str
    type: str
    types: tuple[str, ...]

    @classmethod
    def of(cls, sources: Sources) -> "Context":
        """Read what is released from params.yaml."""
        released = sources.value(PARAMS, "/release")
        types = sources.value(PARAMS, "/scoring/types")
        words = Words(sources.language)
        return cls(sources, words, released["model"], released["type"], tuple(types))

    # --- where the result files of one model and type lie ---

    def evaluated(self, model: str, kind: str) -> str:
        """Metrics of one file."""
        return f"reports/metrics/evaluate-{model}-{kind}.json"

    def verified(self, model: str, kind: str) -> str:
        """Verification of one file."""
        return f"reports/metrics/verify-{model}-{kind}.json"

    def card(self, model: str, kind: str) -> str:
        """Calibration card of one file."""
        return f"models/calibration/{model}-{kind}.json"

    def tables(self, model: str, kind: str) -> str:
        """Directory of one file's CSV tables."""
        return f"reports/plots/{model}-{kind}"

    def drift(self, model: str, kind: str) -> str:
        """Key in ab.json of one file's drift from F16.

        A file that has no entry gets a key that leads nowhere, so that its numbers read "not run".
        """
        entries = self.sources.value(AB, "/drift") or []
        for place, entry in enumerate(entries):
            if entry["file"] == f"{model}-{kind}.gguf":
                return f"/drift/{place}"
        return "/drift/None"

    # --- the released file ---

    @property
    def released(self) -> str:
        """Metrics of the released file."""
        return self.evaluated(self.model, self.type)

    @property
    def released_card(self) -> str:
        """Card of the released file."""
        return self.card(self.model, self.type)

    def name(self) -> Number:
        """Registered name of the released model."""
        profile = self.sources.value(PARAMS, "/profile")
        return self.sources.show(PARAMS, f"/profiles/{profile}/names/{self.model}", "text")

    def kind(self) -> Number:
        """Released type."""
        return self.sources.show(PARAMS, "/release/type", "text")

    # --- pieces that several sections share ---

    def heading(self, name: str) -> Heading:
        """A section's heading."""
        return Heading(2, self.words.heading(name))

    def heads(self, *names: str) -> list[str]:
        """Heads of a table's columns."""
        return [self.words(name) for name in names]

    def from_files(self, *files: str) -> str:
        """The line under a table that names its files, those that do not exist included."""
        for file in files:
            # Asking for a file is what puts it, with its digest or null, into report.json.
            self.sources.content(file)
        return plain(self.words.say("source", files=", ".join(files)))

    def metric_row(
        self, file: str, name: str, keys: list[str], style: str = "percent"
    ) -> list[Line]:
        """A row of one metric at several keys of one file."""
        cells = [self.sources.rate(file, key, style) for key in keys]
        return row(self.words(name), *cells)

    def number_row(self, name: str, file: str, key: str, style: str) -> list[Line]:
        """A row of one plain number."""
        return row(self.words(name), self.sources.cell(file, key, style))

    def percentile(self, file: str, key: str, style: str) -> Line:
        """A percentile of times; says so where too few runs leave its upper limit open."""
        line = self.sources.rate(file, key, style)
        measured = self.sources.has(file, f"{key}/value")
        if measured and not self.sources.has(file, f"{key}/ci95/1"):
            return (*line, f"; {self.words('unresolved')}")
        return line
