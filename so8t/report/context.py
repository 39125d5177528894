"""What every part of the report needs: the result files, the words, and which file is released.

Model A is the base model and model B the retrained one. Each was quantised to several types (F16,
Q4_K_M, ...); one file of one model is released, and the report is about that one first.
"""

from dataclasses import dataclass

from so8t.report.document import Figure, Heading, plain, row
from so8t.report.sources import LOOKS, PARAMS, Line, Number, Records, ResultFile, Sources
from so8t.report.texts import Words

TRAIN_TABLE = "reports/plots/train.csv"
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
        params = sources.file(PARAMS)
        released = params.value("/release")
        types = params.value("/scoring/types")
        words = Words(sources.language)
        return cls(sources, words, released["model"], released["type"], tuple(types))

    # --- files of the project ---

    @property
    def params(self) -> ResultFile:
        """The parameters of the run."""
        return self.sources.file(PARAMS)

    @property
    def ab(self) -> ResultFile:
        """The paired comparison of A and B."""
        return self.sources.file("reports/metrics/ab.json")

    @property
    def prepare(self) -> ResultFile:
        """Counts of the prepared data, and what trivial classifiers reach on them."""
        return self.sources.file("reports/metrics/prepare.json")

    @property
    def train(self) -> ResultFile:
        """Summary of the training log."""
        return self.sources.file("reports/metrics/train.json")

    @property
    def bake(self) -> ResultFile:
        """What folding rotations and heads into a stock model changed."""
        return self.sources.file("models/baked/so8t_bake.json")

    @property
    def looks(self) -> ResultFile:
        """How often calibration and test rows were read so far."""
        return self.sources.file(LOOKS)

    # --- files of one model and type ---

    def evaluated(self, model: str, kind: str) -> ResultFile:
        """Metrics of one file."""
        return self.sources.file(f"reports/metrics/evaluate-{model}-{kind}.json")

    def verified(self, model: str, kind: str) -> ResultFile:
        """Verification of one file."""
        return self.sources.file(f"reports/metrics/verify-{model}-{kind}.json")

    def card(self, model: str, kind: str) -> ResultFile:
        """Calibration card of one file."""
        return self.sources.file(f"models/calibration/{model}-{kind}.json")

    def table(self, model: str, name: str) -> Records:
        """One CSV table of a model at the released type; empty when it does not exist."""
        return self.sources.table(f"reports/plots/{model}-{self.type}/{name}.csv")

    def drift(self, model: str, kind: str) -> ResultFile:
        """The part of ab.json about one file's drift from F16."""
        drift = self.ab.at("/drift")
        for place, entry in enumerate(drift.value("") or []):
            if entry["file"] == f"{model}-{kind}.gguf":
                return drift.at(f"/{place}")
        # A key that leads nowhere, so that the numbers of a file without entry read "not run".
        return drift.at("/None")

    # --- the released file ---

    @property
    def released(self) -> ResultFile:
        """Metrics of the released file."""
        return self.evaluated(self.model, self.type)

    @property
    def released_card(self) -> ResultFile:
        """Card of the released file."""
        return self.card(self.model, self.type)

    def name(self) -> Number:
        """Registered name of the released model."""
        profile = self.params.value("/profile")
        own = f"/profiles/{profile}/names/{self.model}"
        # A profile holds only what differs from the section above.
        is_own = self.params.value(own) is not None
        return self.params.show(own if is_own else f"/names/{self.model}", "text")

    def kind(self) -> Number:
        """Released type."""
        return self.params.show("/release/type", "text")

    # --- pieces that several sections share ---

    def heading(self, name: str) -> Heading:
        """A section's heading."""
        return Heading(2, self.words.heading(name))

    def figure(self, name: str) -> Figure:
        """A figure with its caption."""
        return Figure(name, self.words(f"f_{name}"))

    def heads(self, *names: str) -> list[str]:
        """Heads of a table's columns."""
        return [self.words(name) for name in names]

    def from_files(self, *files: ResultFile) -> str:
        """The line under a table that names its files, those that do not exist included."""
        for file in files:
            # Asking for a file is what puts it, with its digest or null, into report.json.
            self.sources.content(file.name)
        names = ", ".join(file.name for file in files)
        return plain(self.words.say("source", files=names))

    def rate_row(
        self, name: str, file: ResultFile, keys: list[str], style: str = "percent"
    ) -> list[Line]:
        """A row of one metric at several keys of one file."""
        cells = [file.rate(key, style) for key in keys]
        return row(self.words(name), *cells)

    def number_row(self, name: str, file: ResultFile, key: str, style: str) -> list[Line]:
        """A row of one plain number."""
        return row(self.words(name), file.cell(key, style))

    def percentile(self, file: ResultFile, key: str, style: str) -> Line:
        """A percentile of times; says so where too few runs leave its upper limit open."""
        line = file.rate(key, style)
        measured = file.at(key)
        if measured.has("/value") and not measured.has("/ci95/1"):
            return (*line, f"; {self.words('unresolved')}")
        return line
