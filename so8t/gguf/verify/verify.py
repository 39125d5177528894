"""Is this file the model it says it is? Facts for the metrics file, and failures that stop.

A conversion (F16 and its like) must equal its Hugging Face source: tokens, tensors, logits and
verdict probabilities; and the reserved tokens, whose logits carry the verdicts, must never be
written as text. A quantised file must equal its F16 within each type's bound, tensor by tensor; how
far its logits drift is reported and is never a failure.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from so8t import identity
from so8t.errors import ArtifactError, GateError
from so8t.gguf.convert.keys import BY_NAME
from so8t.gguf.quantize.child import FTYPES
from so8t.gguf.quantize.quantize import bits_per_weight, fallbacks, histogram, types_text
from so8t.gguf.verify import logits
from so8t.gguf.verify.contents import NMSE_BOUND, TensorCheck, against_gguf, against_hf
from so8t.gguf.verify.tokens import adds_bos, token_parity
from so8t.gguf_file import Keys, read_keys, read_typed, shards_of, tensor_table
from so8t.gguf_header import parse
from so8t.params import Params
from so8t.rows import read_rows

log = logging.getLogger(__name__)

UNQUANTISED = ("F32", "F16", "BF16")
LLAMA_FTYPE_F32 = 0  # the number of F32, which the quantiser cannot write
NEEDED_KINDS = ("founding", "readout", "seal")  # of keys; the others come later or not at all
WORST = 5  # tensors listed
SHOWN_IDS = 8  # token ids of a text that is tokenised differently
# Stands for a bound of 0, so that tensors can be ordered by error over bound.
TINY_BOUND = 1e-300


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified, against what, on which texts.

    Attributes:
        path: the file.
        kind: the type it should have.
        texts: prepared JSONL with conversations.
        f16: the file that a quantised one was made from.
        hf: the Hugging Face directory that a conversion was made from.
    """

    path: Path
    kind: str
    texts: Path
    f16: Path | None = None
    hf: Path | None = None


@dataclass(slots=True)
class Findings:
    """What verifying found.

    Attributes:
        facts: for the metrics file.
        problems: what fails the file, as sentences; empty for a good one.
    """

    facts: logits.Facts
    problems: list[str]


def claimed_type(path: Path) -> str:
    """The type that the file's own `general.file_type` names, e.g. F16 or Q4_K_M.

    Raises:
        ArtifactError: a number that is not known.
    """
    number = read_keys(path).get("general.file_type")
    if number == LLAMA_FTYPE_F32:
        return "F32"
    for name, value in FTYPES.items():
        # COPY is our name for no type at all.
        if value == number and name != "COPY":
            return name
    raise ArtifactError(
        f"general.file_type {number} is not known", where=str(path), fix="give --type"
    )


def verify(subject: Subject, params: Params) -> Findings:
    """Check everything that can be checked with what is given.

    Args:
        subject: the file and what it is compared with.
        params: the system prompt, limits, and settings of the engine.

    Returns:
        Facts and problems; problems are not raised here, so that the facts can be written first.

    Raises:
        ArtifactError: the file is corrupt, changed since it was sealed, or holds other tensors than
            its source.
    """
    path = subject.path
    # First of all: numbers of a damaged file would only mislead.
    identity.check_seal(path)
    table = tensor_table(path, hashes=True)
    facts: logits.Facts = {
        "schema": "so8t.verify/1",
        "file": path.name,
        "type": subject.kind,
        "bytes": sum(part.stat().st_size for part in shards_of(path)),
        "semantic_digest": identity.semantic_digest(path, table),
        "histogram": histogram(table),
        "bits_per_weight": round(bits_per_weight(table), 4),
        "fallbacks": fallbacks(table, subject.kind),
        "add_bos_token": adds_bos(path),
    }
    findings = Findings(facts, key_problems(read_typed(path)))
    if subject.hf is not None and subject.kind in UNQUANTISED:
        _check_conversion(subject, subject.hf, params, findings)
    # A file compared with itself would pass whatever it holds.
    elif subject.f16 is not None and subject.f16 != path:
        _check_quantised(subject, subject.f16, params, findings)
    else:
        raise ArtifactError(
            "nothing to verify against",
            where=str(path),
            fix="give --hf for a conversion, --f16 for a quantised file",
        )
    facts["problems"] = findings.problems
    return findings


def require(findings: Findings, where: Path) -> None:
    """Stop the pipeline when anything failed.

    Raises:
        GateError: with every problem.
    """
    if findings.problems:
        raise GateError(
            "; ".join(findings.problems),
            where=str(where),
            fix="the metrics file has the numbers; convert again, "
            "or bake again when it is about reserved tokens",
        )


def key_problems(keys: Keys) -> list[str]:
    """Missing keys that a reader needs, and `so8t.*` keys that are unknown or of a wrong type.

    Args:
        keys: all keys of the file; those of llama.cpp are passed over.

    Returns:
        One sentence per problem.
    """
    problems = []
    for spec in BY_NAME.values():
        if spec.kind in NEEDED_KINDS and spec.name not in keys:
            problems.append(f"key {spec.name} is missing")
    # An unknown key is a typing mistake or of a later version; neither may go unseen.
    for name, item in keys.items():
        if not name.startswith("so8t."):
            continue
        known = BY_NAME.get(name)
        if known is None:
            problems.append(f"key {name} is not known")
        elif (item.type, item.sub) != (known.type, known.sub):
            problems.append(f"key {name} has type {item.type.name}, not {known.type.name}")
    return problems


def _check_tensors(checks: list[TensorCheck], findings: Findings) -> None:
    """Report the worst tensors; every one beyond its bound is a problem."""
    worst_first = sorted(checks, key=_error_over_bound, reverse=True)
    worst = []
    for check in worst_first[:WORST]:
        # JSON has no infinity, which is the error of one that is not finite.
        if check.finite:
            worst.append(asdict(check) | {"bound": NMSE_BOUND[check.type]})
    findings.facts["tensors"] = {"count": len(checks), "worst": worst}
    for check in checks:
        if not check.finite:
            findings.problems.append(f"tensor {check.name} holds NaN or infinity")
        elif not check.passes:
            bound = NMSE_BOUND[check.type]
            findings.problems.append(
                f"tensor {check.name} ({check.type}) is {check.nmse:.3g} away from its source, "
                f"bound {bound:.3g}"
            )


def _error_over_bound(check: TensorCheck) -> float:
    """How bad an error is for the tensor's type."""
    return check.nmse / (NMSE_BOUND[check.type] or TINY_BOUND)


def _check_conversion(subject: Subject, hf: Path, params: Params, findings: Findings) -> None:
    """Tokens, tensors and logits of an unquantised file against Hugging Face."""
    _check_tokens(subject, hf, findings)
    checks = against_hf(subject.path, hf, params.active.base.context_profile)
    _check_tensors(checks, findings)
    probes = _read_probes(subject, params)
    ids = logits.readout_ids(subject.path)
    with logits.engine_table(subject.path, probes, params.scoring) as found:
        n_vocab = found.shape[1]
        hf_rows = logits.hf_rows(hf, params.scoring.threads)
        with logits.stored(probes, n_vocab, hf_rows) as reference:
            facts = logits.compare(probes, reference, found, ids)
        facts["perplexity"] = logits.perplexity(probes, found)
        mass = _reserved_mass(probes, found, ids)
    findings.facts["logits"] = facts
    findings.facts["reserved"] = mass
    _judge_agreement(facts, params, findings)
    # An untouched base model has its own use for these tokens and is not held to anything.
    is_baked = "so8t.bake_sha256" in parse(subject.path).fields
    if mass is not None and is_baked:
        _judge_reserved(mass, params, findings)


def _check_tokens(subject: Subject, hf: Path, findings: Findings) -> None:
    """Token parity on the fixed corpus and on the project's own texts."""
    # All rows: tokenising costs little, and rare texts are the point.
    texts = [row.text for row in read_rows(subject.texts)]
    parity = token_parity(subject.path, hf, texts)
    findings.facts["tokens"] = {
        "texts": parity.texts,
        "differing": parity.differing,
        "wide_space_after_special": parity.wide_space_after_special,
    }
    if parity.differing:
        first = parity.examples[0]
        findings.problems.append(
            f"{parity.differing} of {parity.texts} texts tokenise differently, "
            f"first ids {first.expected[:SHOWN_IDS]} against {first.found[:SHOWN_IDS]}"
        )


def _read_probes(subject: Subject, params: Params) -> list[logits.Probe]:
    """The conversations on which logits are compared."""
    return logits.read_probes(
        subject.path,
        subject.texts,
        system=params.data.system,
        count=params.verify.prompts,
        n_ctx=params.scoring.n_ctx,
    )


def _reserved_mass(
    probes: list[logits.Probe], table: logits.Floats, ids: logits.Ids
) -> logits.Facts | None:
    """What is known of the reserved tokens; None for a file that names none."""
    reserved = [*ids["verdict"], *ids["authority"]]
    if not reserved:
        return None
    return logits.reserved_mass(probes, table, reserved)


def _judge_agreement(facts: logits.Facts, params: Params, findings: Findings) -> None:
    """A conversion computes what Hugging Face computes, or it is a problem."""
    limits = params.verify
    # Not 1: with equal logits the choice between two tokens hangs on the last bit.
    if facts["top1"] < limits.top1_min:
        findings.problems.append(
            f"top-1 agreement with Hugging Face is {facts['top1']:.4f}, below {limits.top1_min}"
        )
    # Absent for a file that has no verdict tokens.
    error = facts.get("verdict_probability_max_error", 0.0)
    if error > limits.verdict_probability_max_error:
        findings.problems.append(
            f"a verdict probability is {error:.4f} away from Hugging Face, "
            f"more than {limits.verdict_probability_max_error}"
        )


def _judge_reserved(mass: logits.Facts, params: Params, findings: Findings) -> None:
    """Reserved tokens must never be what greedy decoding writes."""
    limit = params.verify.reserved_mass_max
    # Reported and not refused, because a short training leaves some: sampling can suppress them.
    if mass["mean"] >= limit:
        log.warning(
            "reserved tokens have a sampling mass of %.5f, not below %s; train longer",
            mass["mean"],
            limit,
        )
    if mass["greedy"]:
        findings.problems.append(
            f"greedy decoding picks a reserved token at {mass['greedy']} of {mass['positions']} "
            "positions"
        )


def _check_quantised(subject: Subject, f16: Path, params: Params, findings: Findings) -> None:
    """Tensors and logits of a quantised file against the F16 file it was made from."""
    _check_tensors(against_gguf(subject.path, f16), findings)
    probes = _read_probes(subject, params)
    ids = logits.readout_ids(subject.path)
    with (
        logits.engine_table(f16, probes, params.scoring) as reference,
        logits.engine_table(subject.path, probes, params.scoring) as found,
    ):
        facts = logits.compare(probes, reference, found, ids)
        facts["perplexity"] = logits.perplexity(probes, found)
        facts["perplexity_f16"] = logits.perplexity(probes, reference)
        findings.facts["drift"] = facts
        findings.facts["reserved"] = _reserved_mass(probes, found, ids)


def summary(findings: Findings) -> str:
    """One line for people."""
    facts = findings.facts
    types = types_text(facts["histogram"])
    against = facts.get("logits") or facts.get("drift") or {}
    source = "Hugging Face" if "logits" in facts else "F16"
    flips = against.get("verdict_flips", 0)
    parts = [
        f"top-1 {against['top1']:.4f}",
        f"max |diff| {against['max_abs_error']:.2g}",
        f"KL {against['kl_mean']:.2g}",
        f"verdict flips {flips}/{against['prompts']}",
    ]
    return f"{types}; against {source}: {', '.join(parts)}; {len(findings.problems)} problems"
