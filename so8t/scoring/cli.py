"""`so8t score`: the score stage for any file, directory or server, outside the graph."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

# Imported inside the functions below, so that `--help` loads no model library.
if TYPE_CHECKING:
    from so8t.params import Params
    from so8t.progress import Progress
    from so8t.scoring.score import Job, Outcome
    from so8t.server import Server


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--prepared",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("data/prepared"),
    show_default=True,
)
@click.option(
    "--ollama",
    nargs=2,
    metavar="URL NAME",
    default=None,
    help="read the cue from model NAME of this Ollama server, which runs MODEL",
)
@click.option(
    "--llama-server",
    metavar="URL",
    default=None,
    help="read the cue from this llama-server, which runs MODEL",
)
@click.option(
    "--max-samples",
    type=click.IntRange(1),
    default=None,
    help="rows of each split; the output is stamped `sampled`",
)
def score(
    model: Path,
    out: Path,
    prepared: Path,
    ollama: tuple[str, str] | None,
    llama_server: str | None,
    max_samples: int | None,
) -> None:
    """Read the verdicts of MODEL for every labelled row and write them to OUT, as the `score` stage
    does.

    MODEL is a GGUF file, or a Hugging Face directory (both readouts, float32, slow). With a server
    MODEL is the GGUF file that it runs: prompts and digest come from the file, the numbers from the
    server (cue readout only; a label that the server does not show is null and escalates). Only
    addresses of this machine. Run it again to go on after an interruption.
    """
    from so8t import params
    from so8t.progress import Progress
    from so8t.scoring.score import Job

    # Before anything is read, as for every mistake in the command line.
    if ollama and llama_server:
        raise click.UsageError("give one of --ollama and --llama-server")
    values = params.load()
    # The parameters of the stage, so that the numbers are those that the graph would make.
    job = Job(
        file=model,
        prepared=prepared,
        out=out,
        system=values.data.system,
        n_ctx=values.scoring.n_ctx,
        threads=values.scoring.threads,
        max_samples=max_samples,
        readers=values.scoring.readers,
    )
    done = _score(job, values, Progress("score@command"), ollama, llama_server)
    sampled = ", sampled" if max_samples else ""
    click.echo(
        f"score: {done.rows} prompts{sampled}, {done.fresh} now, "
        f"{done.per_second:.1f} prompts/s; "
        f"rows with a label that was not seen: {done.unseen}; {out}"
    )


def _score(
    job: "Job",
    values: "Params",
    progress: "Progress",
    ollama: tuple[str, str] | None,
    llama_server: str | None,
) -> "Outcome":
    """Score with what the options ask for: a directory, a server, or the file in process."""
    from so8t.scoring.score import score as score_file
    from so8t.server import Server

    if job.file.is_dir():
        if ollama or llama_server:
            raise click.UsageError("a server runs a GGUF file, not a directory")
        return _score_directory(job, values, progress)
    if ollama:
        url, name = ollama
        with Server(
            _local(url),
            name="Ollama",
            port=11434,
            fix="start it (`ollama serve`)",
            setting="--ollama",
        ) as server:
            return _score_served(job, server, progress, name)
    if llama_server:
        with Server(
            _local(llama_server),
            name="llama-server",
            port=8080,
            fix="start it",
            setting="--llama-server",
        ) as server:
            return _score_served(job, server, progress, None)
    return score_file(job, progress)


def _score_directory(job: "Job", values: "Params", progress: "Progress") -> "Outcome":
    from so8t.files import sha256_tree
    from so8t.scoring import hf
    from so8t.scoring.score import Source, score_with

    tokens = values.active.base.tokens.model_dump()
    # One reader only: torch shares the work among its threads, and the model fills the memory.
    reader = hf.HfReader(job.file, job.system, tokens, job.threads)
    # The prefix keeps it apart from the semantic digest of a GGUF file.
    source = Source(f"hf:{sha256_tree(job.file)}", hf.settings(job.threads))
    return score_with([reader], source, job, progress)


def _score_served(
    job: "Job", server: "Server", progress: "Progress", name: str | None
) -> "Outcome":
    """Score over a server: Ollama's model of this name, or llama-server where there is none."""
    from so8t.identity import semantic_digest
    from so8t.llama import Engine
    from so8t.scoring.backends import Backend, LlamaServer, OllamaRaw
    from so8t.scoring.score import Source, score_with
    from so8t.scoring.server_reader import ServedReader, require_same

    # The server evaluates; only its vocabulary is needed here, whatever the model's size.
    with Engine(job.file, n_ctx=job.n_ctx, threads=job.threads, vocab_only=True) as vocabulary:
        backend: Backend = LlamaServer(server.call)
        if name:
            backend = OllamaRaw(server.call, name, vocabulary, job.n_ctx)
        digest = semantic_digest(job.file)
        checked = require_same(backend.copy(), digest, server.host)
        source = Source(digest, {**backend.settings(), "file_checked": checked})
        # One reader: a `Server` has one connection.
        reader = ServedReader(vocabulary, job.system, backend)
        return score_with([reader], source, job, progress)


def _local(url: str) -> str:
    """The address, if it is one of this machine: requests must not leave it."""
    whole = url if "//" in url else f"http://{url}"
    name = urlsplit(whole).hostname or ""
    if not _is_local(name):
        raise click.UsageError(
            f"{url} is not an address of this machine; "
            "for another one, forward its port to this machine"
        )
    return url


def _is_local(name: str) -> bool:
    # By name or number only: looking another name up would ask a server of the network.
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
