"""What the report is about: the released file, its rival, and where their result files lie."""

from dataclasses import dataclass

from so8t.report.document import row
from so8t.report.sources import PARAMS, Line, Number, Sources
from so8t.report.texts import Words

AB = "reports/metrics/ab.json"
PREPARE = "reports/metrics/prepare.json"
TRAIN = "reports/metrics/train.json"
TRAIN_TABLE = "reports/plots/train.csv"
BAKE = "models/baked/so8t_bake.json"
SPLITS = ("test_iid", "test_cells", "test_phrases")
HEADLINE = SPLITS[0]
MODELS = ("a", "b")


@dataclass(frozen=True, slots=True)
class Page:
    """Sources, words, and what is released."""

    sources: Sources
    words: Words
    model: str
    type: str
    types: tuple[str, ...]

    @classmethod
    def of(cls, sources: Sources) -> "Page":
        """Read what is released from params.yaml."""
        released, scored = (sources.value(PARAMS, key) for key in ("/release", "/scoring/types"))
        return cls(
            sources, Words(sources.language), released["model"], released["type"], tuple(scored)
        )

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

    def from_files(self, *files: str) -> str:
        """The line under a table that names its files."""
        found = [file for file in files if self.sources.content(file) is not None]
        return "".join(str(part) for part in self.words.say("source", files=", ".join(found)))

    def metric_row(
        self, file: str, name: str, keys: list[str], style: str = "percent"
    ) -> list[Line]:
        """A row of one metric at several keys of one file."""
        return row(self.words(name), *(self.sources.rate(file, key, style) for key in keys))
