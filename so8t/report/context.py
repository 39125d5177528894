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
    """How an endpoint of ab.json is shown; those that are no rates have no percent sign.

    Args:
        endpoint: its name in ab.json.

    Returns:
        Percent and points for rates, plain numbers for scores.
    """
    return SCORE if endpoint in SCORES else RATE


@dataclass(frozen=True, slots=True)
class Context:
    """Sources, words, the released model and type, and all types that were scored.

    Attributes:
        sources: the result files, which record what is shown of them.
        words: of the report's language.
        model: the released model, `a` or `b`.
        type: the released type, such as Q4_K_M.
        types: all types that were scored.
    """

    sources: Sources
    words: Words
    model: str
    type: str
    types: tuple[str, ...]

    @classmethod
    def of(cls, sources: Sources) -> "Context":
        """Read what is released from params.yaml.

        Args:
            sources: the result files.

        Returns:
            The context of one page.

        Raises:
            ParamsError: params.yaml does not parse.
        """
        # params.yaml is a source like the others: what is read of it is recorded.
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
        """Metrics of one file.

        Args:
            model: `a` or `b`.
            kind: quant type, such as Q4_K_M.
        """
        return self.sources.file(f"reports/metrics/evaluate-{model}-{kind}.json")

    def timed(self, model: str, kind: str) -> ResultFile:
        """Times and memory of one file; for the speed page alone.

        Args:
            model: `a` or `b`.
            kind: quant type.
        """
        return self.sources.file(f"reports/metrics/speed-{model}-{kind}.json")

    def verified(self, model: str, kind: str) -> ResultFile:
        """Verification of one file.

        Args:
            model: `a` or `b`.
            kind: quant type.
        """
        return self.sources.file(f"reports/metrics/verify-{model}-{kind}.json")

    def card(self, model: str, kind: str) -> ResultFile:
        """Calibration card of one file.

        Args:
            model: `a` or `b`.
            kind: quant type.
        """
        return self.sources.file(f"models/calibration/{model}-{kind}.json")

    def table(self, model: str, name: str) -> Records:
        """One CSV table of a model at the released type; empty when it does not exist.

        Args:
            model: `a` or `b`.
            name: of the table, such as `reliability`.

        Returns:
            Rows as text by column.
        """
        return self.sources.table(f"reports/plots/{model}-{self.type}/{name}.csv")

    def times(self, model: str) -> Records:
        """Single verdict times of a model at the released type; for the speed page alone.

        Args:
            model: `a` or `b`.

        Returns:
            Rows with the columns `seconds` and `share`; none where nothing was timed.
        """
        return self.sources.table(f"reports/plots/speed-{model}-{self.type}/latency.csv")

    def drift(self, model: str, kind: str) -> ResultFile:
        """The part of ab.json about one file's drift from F16.

        Args:
            model: `a` or `b`.
            kind: quant type; F16 has no entry.
        """
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
        # Not read from models/release, which is made beside the report and not before it.
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
        # Shown, not only read, so that the check notices a release of another type.
        return self.params.show("/release/type", "text")

    # --- pieces that several sections share ---

    def heading(self, name: str) -> Heading:
        """A section's heading.

        Args:
            name: among the words, such as `h_types`.
        """
        # Level 1 is the page's title.
        return Heading(2, self.words.heading(name))

    def figure(self, name: str) -> Figure:
        """A figure with its caption.

        Args:
            name: of the SVG file; its caption is called `f_` and this.
        """
        return Figure(name, self.words(f"f_{name}"))

    def heads(self, *names: str) -> list[str]:
        """Heads of a table's columns.

        Args:
            names: among the words.

        Returns:
            One text per column.
        """
        return [self.words(name) for name in names]

    def from_files(self, *files: ResultFile) -> str:
        """The line under a table that names its files, those that do not exist included.

        Args:
            files: result files or parts of them.

        Returns:
            One line of text.
        """
        for file in files:
            # Asking for a file is what puts it, with its digest or null, into report.json.
            self.sources.content(file.name)
        names = ", ".join(file.name for file in files)
        return plain(self.words.say("source", files=names))

    def rate_row(
        self, name: str, file: ResultFile, keys: list[str], style: str = "percent"
    ) -> list[Line]:
        """A row of one metric at several keys of one file.

        Args:
            name: of the row, among the words.
            file: whose numbers these are.
            keys: of the rates, one per column.
            style: of every number in the row.

        Returns:
            The row's name and one cell per key.
        """
        # A rate that is missing is a cell that says so; the row stays.
        cells = [file.rate(key, style) for key in keys]
        return row(self.words(name), *cells)

    def number_row(self, name: str, file: ResultFile, key: str, style: str) -> list[Line]:
        """A row of one plain number.

        Args:
            name: of the row, among the words.
            file: whose number it is.
            key: of the number.
            style: how it is shown.

        Returns:
            The row's name and one cell.
        """
        return row(self.words(name), file.cell(key, style))

    def percentile(self, file: ResultFile, key: str, style: str) -> Line:
        """A percentile of times; says so where too few runs leave its upper limit open.

        Args:
            file: of the distribution.
            key: of a percentile with `value`, `n` and `ci95`.
            style: how its numbers are shown.

        Returns:
            The line, with a remark where the upper limit is null.
        """
        line = file.rate(key, style)
        measured = file.at(key)
        if measured.has("/value") and not measured.has("/ci95/1"):
            # Beside the value, because a limit that is missing is easily overlooked.
            return (*line, f"; {self.words('unresolved')}")
        return line
