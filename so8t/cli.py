"""The `so8t` command: a table of subcommands, each imported only when it is used, so that `--help` stays quick."""

import importlib
import sys
from collections.abc import Sequence

import click

from so8t import __version__
from so8t.errors import Interrupted, So8tError
from so8t.quiet import quieten

# name: (module, attribute, one line of help)
COMMANDS = {
    "ask": (
        "so8t.serving.cli",
        "ask",
        "Put a request to the released model: decision and, if allowed, the answer.",
    ),
    "plan": (
        "so8t.plan.cli",
        "plan",
        "What each stage will need and what is missing, before anything slow.",
    ),
    "checkpoints": (
        "so8t.training.cli",
        "checkpoints",
        "List a run's checkpoints and export one as an adapter.",
    ),
    "gate": ("so8t.calibration.cli", "gate", "Certified or not, as an exit code."),
    "recalibrate": (
        "so8t.calibration.cli",
        "recalibrate",
        "A new card from new scored rows, without training.",
    ),
    "score": (
        "so8t.scoring.cli",
        "score",
        "Score a GGUF file, a Hugging Face directory, or what an Ollama or llama-server serves.",
    ),
    "compare": (
        "so8t.comparison.cli",
        "compare",
        "Blind side-by-side sheet of A's and B's answers for people, and its tally.",
    ),
    "register": ("so8t.ollama.cli", "register", "Register models with an Ollama server."),
    "gguf": ("so8t.gguf.cli", "gguf", "Verify, inspect, compare and batch-convert GGUF files."),
    "convert-pt": (
        "so8t.operations.convert_pt",
        "command",
        "A distilled .pt checkpoint to a GGUF file in one command.",
    ),
    "ledger": ("so8t.records.cli", "ledger", "What was converted, when, from what."),
    "data": ("so8t.data.cli", "data", "Compare versions of the data, import dumps and documents."),
    "doctor": (
        "so8t.operations.cli",
        "doctor",
        "Check this machine, this clone and what a stage needs; each line with a fix.",
    ),
    "rollback": (
        "so8t.operations.cli",
        "rollback",
        "Code, parameters, model, card and Modelfile of one revision, together.",
    ),
    "models": ("so8t.operations.cli", "models", "Registered versions of the models."),
    "fsck": ("so8t.operations.cli", "fsck", "Re-hash outputs, cache and remote from their bytes."),
    "gc": (
        "so8t.operations.cli",
        "gc",
        "What the cache holds for no version; shown first, removed with --yes.",
    ),
    "bundle": (
        "so8t.operations.cli",
        "bundle",
        "One folder for a stick: release, checksums, verifier, wheels.",
    ),
    "sweep": (
        "so8t.operations.cli",
        "sweep",
        "Several values of one parameter through DVC's queue, with table and plot.",
    ),
    "ablation": (
        "so8t.operations.cli",
        "ablation",
        "Each part of training alone and together, with intervals and paired tests.",
    ),
    "repro": (
        "so8t.operations.cli",
        "repro",
        "dvc repro with independent stages beside each other, within the cores.",
    ),
    "evidence": ("so8t.operations.cli", "evidence", "The audit folder of a revision."),
    "init": (
        "so8t.operations.setup",
        "init",
        "Prepare this clone: DVC's local remote, telemetry off.",
    ),
    "report-path": ("so8t.operations.setup", "report_path", "Where the report of the last run is."),
    "bench-table": ("so8t.operations.setup", "bench_table", "bench/results as a Markdown table."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table itself: no import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in sorted(COMMANDS)])


@click.group(cls=LazyGroup)
@click.version_option(__version__)
def so8t() -> None:
    """From a JSONL and a small open model to a calibrated, quantised, verdict-giving GGUF."""
    quieten()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors end with their documented exit code and one clear message."""
    try:
        so8t.main(args=list(arguments) if arguments is not None else None, prog_name="so8t")
    except Interrupted as error:
        click.echo(f"so8t: {error}", err=True)
        sys.exit(128 + error.signal_number)
    except So8tError as error:
        click.echo(f"so8t: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
