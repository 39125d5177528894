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
        "Put a request to the released model: its decision and, if allowed, its answer.",
    ),
    "plan": Command(
        "so8t.plan.cli",
        "plan",
        "Estimate what each stage needs, and say what is missing, before anything slow runs.",
    ),
    "checkpoints": Command(
        "so8t.training.cli",
        "checkpoints",
        "List a run's checkpoints and export one as an adapter.",
    ),
    "gate": Command(
        "so8t.calibration.cli",
        "gate",
        "Say by the exit code whether a file may serve ALLOW.",
    ),
    "recalibrate": Command(
        "so8t.calibration.cli",
        "recalibrate",
        "Make a new card from newly scored rows, without training.",
    ),
    "score": Command(
        "so8t.scoring.cli",
        "score",
        "Score a GGUF file, a Hugging Face directory, or what an Ollama or llama-server serves.",
    ),
    "compare": Command(
        "so8t.comparison.cli",
        "compare",
        "Let people compare answers of A and B blindly, and count their choices.",
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
        "Convert a distilled .pt checkpoint to a GGUF file.",
    ),
    "ledger": Command(
        "so8t.records.cli",
        "ledger",
        "List what was converted, when, and from what.",
    ),
    "data": Command(
        "so8t.data.cli",
        "data",
        "Compare versions of the data, import dumps and documents.",
    ),
    "doctor": Command(
        "so8t.operations.cli",
        "doctor",
        "Check this machine and this clone; every problem comes with a fix.",
    ),
    "rollback": Command(
        "so8t.operations.cli",
        "rollback",
        "Go back to the code, parameters, model, card and Modelfile of one revision.",
    ),
    "models": Command(
        "so8t.operations.cli",
        "models",
        "List the registered versions of the models.",
    ),
    "fsck": Command(
        "so8t.operations.cli",
        "fsck",
        "Check every byte of the outputs, the cache and the remote.",
    ),
    "gc": Command(
        "so8t.operations.cli",
        "gc",
        "Show what no version needs any more; with --yes, remove it.",
    ),
    "bundle": Command(
        "so8t.operations.cli",
        "bundle",
        "Put a release with checksums, verifier and wheels into one folder.",
    ),
    "sweep": Command(
        "so8t.operations.cli",
        "sweep",
        "Run several values of one parameter; table and plot.",
    ),
    "ablation": Command(
        "so8t.operations.cli",
        "ablation",
        "Train with each part alone and with all of them, and compare.",
    ),
    "repro": Command(
        "so8t.operations.cli",
        "repro",
        "Do what `dvc repro` does, but run independent stages at the same time.",
    ),
    "evidence": Command(
        "so8t.operations.cli",
        "evidence",
        "Collect what an auditor needs about a revision in one folder.",
    ),
    "init": Command(
        "so8t.operations.setup",
        "init",
        "Prepare this clone: make the folder of DVC's default remote.",
    ),
    "report-path": Command(
        "so8t.operations.setup",
        "report_path",
        "Print the conclusion of the last run, and where its report is.",
    ),
    "bench-table": Command(
        "so8t.operations.setup",
        "bench_table",
        "Print the newest benchmark results as a Markdown table.",
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
    """Turn a small open model and your own rows into a calibrated GGUF that gives verdicts."""
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
