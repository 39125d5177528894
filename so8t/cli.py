"""The `so8t` command: a table of subcommands.

Each is imported only when it is used, so that `--help` takes no seconds to load model libraries.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from so8t import __version__
from so8t.errors import SIGINT_EXIT, USAGE, Interrupted
from so8t.quiet import quieten

SIGPIPE = 13  # Windows' signal module does not have it


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
    "drift": Command(
        "so8t.monitoring.cli",
        "drift",
        "Say by the exit code whether served requests are still like the calibration rows.",
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
        "so8t.operations.handing_over",
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
        "so8t.operations.handing_over",
        "evidence",
        "Collect what an auditor needs about a revision in one folder.",
    ),
    "init": Command(
        "so8t.operations.setup",
        "init",
        "Prepare this clone: the folder of DVC's default remote, and a key to sign releases.",
    ),
    "sign": Command(
        "so8t.operations.handing_over",
        "sign",
        "Sign models/release, so that others can tell it from a changed one.",
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
    sys.exit(run(None if arguments is None else list(arguments)))


def run(arguments: list[str] | None) -> int:
    """Run a command and say what went wrong.

    Returns:
        The exit code.
    """
    try:
        # Not click's own mode, which would end an interruption and a closed pipe with 1.
        code = so8t.main(args=arguments, prog_name="so8t", standalone_mode=False)
        # --help and --version leave with a code, a command returns nothing.
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("so8t: interrupted", err=True)
        return SIGINT_EXIT
    except Interrupted as error:
        click.echo(f"so8t: {error}", err=True)
        # As a shell reports a process that a signal ended.
        return 128 + error.signal_number
    except BrokenPipeError:
        return _pipe_closed()
    except Exception as error:  # noqa: BLE001 (what is left over is a bug, and is told as one)
        return _told(error)


def _told(error: Exception) -> int:
    """Say what went wrong: what to do about it, or that it is a bug; return the exit code."""
    # On use: neither is needed by a command that goes well.
    from so8t import bug

    known = bug.ours(error)
    if known is None:
        line, code = bug.report("so8t", error)
        click.echo(line, err=True)
        return code
    click.echo(f"so8t: {known}", err=True)
    return known.exit_code


def _pipe_closed() -> int:
    """Whoever read our output, such as `head`, has what it wanted: no message.

    Returns:
        The exit code, as a shell reports a process that SIGPIPE ended.
    """
    # Python would complain once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + SIGPIPE


if __name__ == "__main__":
    main()
