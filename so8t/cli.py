"""The `so8t` command: a table of subcommands.

Each is imported only when it is used, so that `--help` takes no seconds to load model libraries.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from so8t import __version__
from so8t.errors import Interrupted, So8tError
from so8t.quiet import quieten


@dataclass(frozen=True, slots=True)
class Command:
    """Where a subcommand is defined, and its line in the list of commands."""

    module: str
    attribute: str
    help: str


# A table and not decorators, which would need every module to be imported.
COMMANDS = {
    "ask": Command(
        "so8t.serving.cli",
        "ask",
        "Put a request to the released model: decision and, if allowed, the answer.",
    ),
    "plan": Command(
        "so8t.plan.cli",
        "plan",
        "What each stage will need and what is missing, before anything slow.",
    ),
    "checkpoints": Command(
        "so8t.training.cli",
        "checkpoints",
        "List a run's checkpoints and export one as an adapter.",
    ),
    "gate": Command(
        "so8t.calibration.cli",
        "gate",
        "Certified or not, as an exit code.",
    ),
    "recalibrate": Command(
        "so8t.calibration.cli",
        "recalibrate",
        "A new card from new scored rows, without training.",
    ),
    "score": Command(
        "so8t.scoring.cli",
        "score",
        "Score a GGUF file, a Hugging Face directory, or what an Ollama or llama-server serves.",
    ),
    "compare": Command(
        "so8t.comparison.cli",
        "compare",
        "Blind side-by-side sheet of A's and B's answers for people, and its tally.",
    ),
    "register": Command(
        "so8t.ollama.cli",
        "register",
        "Register models with an Ollama server.",
    ),
    "gguf": Command(
        "so8t.gguf.cli",
        "gguf",
        "Verify, inspect, compare and batch-convert GGUF files.",
    ),
    "convert-pt": Command(
        "so8t.operations.convert_pt",
        "command",
        "A distilled .pt checkpoint to a GGUF file in one command.",
    ),
    "ledger": Command(
        "so8t.records.cli",
        "ledger",
        "What was converted, when, from what.",
    ),
    "data": Command(
        "so8t.data.cli",
        "data",
        "Compare versions of the data, import dumps and documents.",
    ),
    "doctor": Command(
        "so8t.operations.cli",
        "doctor",
        "Check this machine, this clone and what a stage needs; each line with a fix.",
    ),
    "rollback": Command(
        "so8t.operations.cli",
        "rollback",
        "Code, parameters, model, card and Modelfile of one revision, together.",
    ),
    "models": Command(
        "so8t.operations.cli",
        "models",
        "Registered versions of the models.",
    ),
    "fsck": Command(
        "so8t.operations.cli",
        "fsck",
        "Re-hash outputs, cache and remote from their bytes.",
    ),
    "gc": Command(
        "so8t.operations.cli",
        "gc",
        "What the cache holds for no version; shown first, removed with --yes.",
    ),
    "bundle": Command(
        "so8t.operations.cli",
        "bundle",
        "One folder for a stick: release, checksums, verifier, wheels.",
    ),
    "sweep": Command(
        "so8t.operations.cli",
        "sweep",
        "Several values of one parameter through DVC's queue, with table and plot.",
    ),
    "ablation": Command(
        "so8t.operations.cli",
        "ablation",
        "Each part of training alone and together, with intervals and paired tests.",
    ),
    "repro": Command(
        "so8t.operations.cli",
        "repro",
        "dvc repro with independent stages beside each other, within the cores.",
    ),
    "evidence": Command(
        "so8t.operations.cli",
        "evidence",
        "The audit folder of a revision.",
    ),
    "init": Command(
        "so8t.operations.setup",
        "init",
        "Prepare this clone: DVC's local remote, telemetry off.",
    ),
    "report-path": Command(
        "so8t.operations.setup",
        "report_path",
        "Where the report of the last run is.",
    ),
    "bench-table": Command(
        "so8t.operations.setup",
        "bench_table",
        "bench/results as a Markdown table.",
    ),
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
        entry = COMMANDS[cmd_name]
        module = importlib.import_module(entry.module)
        command: click.Command = getattr(module, entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        # From the table: click would import every command to ask for its help.
        lines = [(name, COMMANDS[name].help) for name in sorted(COMMANDS)]
        with formatter.section("Commands"):
            formatter.write_dl(lines)


@click.group(cls=LazyGroup)
@click.version_option(__version__)
def so8t() -> None:
    """From a JSONL and a small open model to a calibrated, quantised, verdict-giving GGUF."""
    # Before any subcommand is imported, and with it libraries that read these settings.
    quieten()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors end with their documented exit code and one clear message."""
    # None makes click read the command line.
    args = None if arguments is None else list(arguments)
    try:
        so8t.main(args=args, prog_name="so8t")
    except Interrupted as error:
        click.echo(f"so8t: {error}", err=True)
        # As a shell reports a process that a signal ended.
        sys.exit(128 + error.signal_number)
    except So8tError as error:
        # Anything else is a bug, and keeps its traceback.
        click.echo(f"so8t: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
