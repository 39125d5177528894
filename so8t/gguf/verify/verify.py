"""Is this file the model it says it is? Facts for the metrics file, and the failures that must stop the pipeline.

A conversion (F16 and its like) must equal its Hugging Face source: tokens, tensors, logits, verdict probabilities, and
the reserved rows must stay silent. A quantised file must equal its F16 within each type's bound, tensor by tensor; how
far its logits drift is reported, never a failure.

The founders' five tests of a conversion, each of which can fail (theirs assumed the last two).
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from so8t import gguf_file, gguf_header, identity
from so8t.errors import ArtifactError, GateError, So8tError
from so8t.files import read_jsonl
from so8t.gguf.convert.arch import ContextProfile
from so8t.gguf.convert.keys import BY_NAME
from so8t.gguf.quantize.child import FTYPES
from so8t.gguf.quantize.quantize import bits_per_weight, fallbacks, histogram
from so8t.gguf.verify import contents, parity
from so8t.gguf.verify.contents import NMSE_BOUND, TensorCheck, adds_bos, token_parity
from so8t.gguf_file import KeyValue
from so8t.llama import Engine
from so8t.params import Params

log = logging.getLogger(__name__)

UNQUANTISED = ("F32", "F16", "BF16")
WORST = 5  # tensors listed


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified, against what, on which texts."""

    path: Path
    kind: str
    texts: Path
    f16: Path | None = None
    hf: Path | None = None


def claimed_type(path: Path) -> str:
    """The type that the file's own `general.file_type` names, e.g. F16 or Q4_K_M."""
    number = gguf_file.read_keys(path).get("general.file_type")
    for name, value in FTYPES.items():
        if value == number and name != "COPY":
            return name
    if number == 0:
        return "F32"
    raise ArtifactError(
        f"general.file_type {number} is not known", where=str(path), fix="give --type"
    )


@dataclass(slots=True)
class Findings:
    """Facts to report and problems that fail the file."""

    facts: dict[str, Any]
    problems: list[str]


def verify(subject: Subject, params: Params) -> Findings:
    """Check everything that can be checked with what is given.

    Raises:
        ArtifactError: the file is corrupt, changed since it was sealed, or holds other tensors than its source.
    """
    identity.check_seal(subject.path)
    table = gguf_file.tensor_table(subject.path, hashes=True)
    findings = Findings(
        {
            "schema": "so8t.verify/1",
            "file": subject.path.name,
            "type": subject.kind,
            "bytes": sum(p.stat().st_size for p in gguf_file.shards_of(subject.path)),
            "semantic_digest": identity.semantic_digest(subject.path, table),
            "histogram": histogram(table),
            "bits_per_weight": round(bits_per_weight(table), 4),
            "fallbacks": fallbacks(table, subject.kind),
            "add_bos_token": adds_bos(subject.path),
        },
        key_problems(gguf_file.read_typed(subject.path)),
    )
    if subject.hf is not None and subject.kind in UNQUANTISED:
        _check_conversion(subject, subject.hf, params, findings)
    elif subject.f16 is not None and subject.f16 != subject.path:
        _check_quantised(subject, subject.f16, params, findings)
    else:
        raise ArtifactError(
            "nothing to verify against",
            where=str(subject.path),
            fix="give --hf for a conversion, --f16 for a quantised file",
        )
    findings.facts["problems"] = findings.problems
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
            fix="the metrics file has the numbers; convert again, or bake again when it is about reserved tokens",
        )


def key_problems(keys: dict[str, KeyValue]) -> list[str]:
    """Founding and readout keys that are missing, and `so8t.*` keys of a wrong type or that nobody knows."""
    needed = [
        spec.name for spec in BY_NAME.values() if spec.kind in ("founding", "readout", "seal")
    ]
    problems = [f"key {name} is missing" for name in needed if name not in keys]
    for name, item in keys.items():
        if name.startswith("so8t."):
            spec = BY_NAME.get(name)
            if spec is None:
                problems.append(f"key {name} is not known")
            elif (item.type, item.sub) != (spec.type, spec.sub):
                problems.append(f"key {name} has type {item.type.name}, not {spec.type.name}")
    return problems


def _check_tensors(checks: list[TensorCheck], findings: Findings) -> None:
    worst = sorted(checks, key=lambda c: c.nmse / (NMSE_BOUND[c.type] or 1e-300), reverse=True)[
        :WORST
    ]
    findings.facts["tensors"] = {
        "count": len(checks),
        "worst": [
            asdict(check) | {"bound": NMSE_BOUND[check.type]} for check in worst if check.finite
        ],
    }
    for check in checks:
        if not check.finite:
            findings.problems.append(f"tensor {check.name} holds NaN or infinity")
        elif not check.passes:
            findings.problems.append(
                f"tensor {check.name} ({check.type}) is {check.nmse:.3g} away from its source, bound {NMSE_BOUND[check.type]:.3g}"
            )


def _check_conversion(subject: Subject, hf: Path, params: Params, findings: Findings) -> None:
    texts = [row["text"] for _, row in read_jsonl(subject.texts)]
    tokens = token_parity(subject.path, hf, texts)
    findings.facts["tokens"] = {
        "texts": tokens.texts,
        "differing": tokens.differing,
        "wide_space_after_special": tokens.wide_space_after_special,
    }
    if tokens.differing:
        first = tokens.examples[0]
        findings.problems.append(
            f"{tokens.differing} of {tokens.texts} texts tokenise differently, first ids {first[1][:8]} against {first[2][:8]}"
        )
    _check_tensors(
        contents.against_hf(subject.path, hf, params.active.base.context_profile), findings
    )
    probes = parity.read_probes(
        subject.path,
        subject.texts,
        system=params.data.system,
        count=params.verify.prompts,
        n_ctx=params.scoring.n_ctx,
    )
    ids = parity.readout_ids(subject.path)
    with Engine(
        subject.path, n_ctx=params.scoring.n_ctx, threads=params.scoring.threads, kv="f32"
    ) as engine:
        vocab, rows = engine.n_vocab, parity.engine_rows(engine)
        with parity.stored(probes, vocab, rows) as found:
            engine.close()
            with parity.stored(
                probes, vocab, parity.hf_rows(hf, params.scoring.threads)
            ) as reference:
                facts = parity.compare(probes, reference, found, ids)
            facts |= {"perplexity": parity.perplexity(probes, found)}
            reserved = [*ids["verdict"], *ids["authority"]]
            mass = parity.reserved_mass(probes, found, reserved) if reserved else None
    findings.facts |= {"logits": facts, "reserved": mass}
    baked = "so8t.bake_sha256" in gguf_header.parse(subject.path).fields
    _judge(
        facts, mass if baked else None, params, findings
    )  # an untouched base answers for its own rows


def _judge(
    facts: dict[str, Any], mass: dict[str, Any] | None, params: Params, findings: Findings
) -> None:
    limits = params.verify
    if facts["top1"] < limits.top1_min:
        findings.problems.append(
            f"top-1 agreement with Hugging Face is {facts['top1']:.4f}, below {limits.top1_min}"
        )
    error = facts.get("verdict_probability_max_error", 0.0)
    if error > limits.verdict_probability_max_error:
        findings.problems.append(
            f"a verdict probability is {error:.4f} away from Hugging Face, more than {limits.verdict_probability_max_error}"
        )
    if (
        mass is not None and mass["mean"] >= limits.reserved_mass_max
    ):  # a short training is reported, not refused: sampling can still suppress them
        log.warning(
            "reserved tokens have a sampling mass of %.5f, not below %s; train longer",
            mass["mean"],
            limits.reserved_mass_max,
        )
    if mass is not None and mass["greedy"]:
        findings.problems.append(
            f"greedy decoding picks a reserved token at {mass['greedy']} of {mass['positions']} positions"
        )


def _check_quantised(subject: Subject, f16: Path, params: Params, findings: Findings) -> None:
    _check_tensors(contents.against_gguf(subject.path, f16), findings)
    probes = parity.read_probes(
        subject.path,
        subject.texts,
        system=params.data.system,
        count=params.verify.prompts,
        n_ctx=params.scoring.n_ctx,
    )
    ids = parity.readout_ids(subject.path)
    settings: dict[str, Any] = {
        "n_ctx": params.scoring.n_ctx,
        "threads": params.scoring.threads,
        "kv": "f32",
    }
    with (
        Engine(f16, **settings) as engine,
        parity.stored(probes, engine.n_vocab, parity.engine_rows(engine)) as reference,
    ):
        engine.close()
        with (
            Engine(subject.path, **settings) as other,
            parity.stored(probes, other.n_vocab, parity.engine_rows(other)) as found,
        ):
            facts = parity.compare(probes, reference, found, ids)
            findings.facts["drift"] = facts | {
                "perplexity": parity.perplexity(probes, found),
                "perplexity_f16": parity.perplexity(probes, reference),
            }
            reserved = [*ids["verdict"], *ids["authority"]]
            findings.facts["reserved"] = (
                parity.reserved_mass(probes, found, reserved) if reserved else None
            )


def summary(findings: Findings) -> str:
    """One line for people."""
    facts = findings.facts
    shown = ", ".join(f"{count} {name}" for name, count in facts["histogram"].items())
    against = facts.get("logits") or facts.get("drift") or {}
    name = "against Hugging Face" if "logits" in facts else "against F16"
    return (
        f"{shown}; {name}: top-1 {against['top1']:.4f}, max |diff| {against['max_abs_error']:.2g}, KL {against['kl_mean']:.2g}, "
        f"verdict flips {against.get('verdict_flips', 0)}/{against['prompts']}; {len(findings.problems)} problems"
    )


def five_tests(path: Path, source: Path, profile: ContextProfile) -> dict[str, Any]:
    """Run the five tests on a file and the Hugging Face directory it came from; nothing is raised for a bad file.

    Returns:
        The founders' result: five truth values, how many passed and failed, and the errors.
    """
    errors: list[str] = []
    results = {
        "output_file_exists": _holds(lambda: _exists(path), errors),
        "output_file_valid": _holds(lambda: _valid(path), errors),
        "conversion_successful": _holds(lambda: identity.check_seal(path), errors),
        "metadata_correct": _holds(lambda: _metadata(path), errors),
        "so8t_structure_preserved": _holds(lambda: _structure(path, source, profile), errors),
    }
    passed = sum(results.values())
    return results | {
        "tests_passed": passed,
        "tests_failed": len(results) - passed,
        "errors": errors,
    }


def _holds(check: Any, errors: list[str]) -> bool:
    try:
        check()
    except So8tError as error:
        errors.append(str(error))
        return False
    return True


def _exists(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        raise So8tError("the output file does not exist or is empty", where=str(path))


def _valid(path: Path) -> None:
    if not gguf_header.parse(path).tensors:
        raise So8tError("the file holds no tensors", where=str(path))


def _metadata(path: Path) -> None:
    if problems := key_problems(gguf_file.read_typed(path)):
        raise So8tError("; ".join(problems), where=str(path))


def _structure(path: Path, source: Path, profile: ContextProfile) -> None:
    failed = [check for check in contents.against_hf(path, source, profile) if not check.passes]
    if failed:
        raise So8tError(
            f"{len(failed)} tensors differ from the source, first {failed[0].name} (error {failed[0].nmse:.3g})",
            where=str(path),
        )
