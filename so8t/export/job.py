"""One conversion or quantisation with everything around it: progress, ledger session, one-line summary."""

from pathlib import Path

from so8t import identity
from so8t.export import quantize as quantizer
from so8t.export.arch import ContextProfile
from so8t.export.convert import FileType, Recipe, Written, convert
from so8t.export.source import read_config
from so8t.files import sha256_file
from so8t.identity import KeyValue
from so8t.progress import Progress
from so8t.records.ledger import Session, TensorRow, conversion


def convert_recorded(source: Path, out: Path, *, keys: dict[str, KeyValue], name: str, context_profile: ContextProfile,
                     progress: Progress, ftype: FileType = "F16") -> str:
    """Convert `source` to `out` within a ledger session; return what to say about it."""
    architecture = str((read_config(source).get("architectures") or ["?"])[0])
    with conversion(name, architecture, source, out) as session:
        recipe = Recipe(ftype, name, context_profile, keys)
        manifest = convert(source, out, recipe, report=lambda written: _record(written, session, progress))
        session.digests = {"output_sha256": sha256_file(out), "semantic_digest": manifest["semantic_digest"]}
        if lineage := keys.get("so8t.bake_sha256") or keys.get("so8t.base_sha256"):
            session.digests["source_sha256"] = str(lineage.value)
        session.ledger.log_metadata(session.id, {key: item.value for key, item in keys.items()})
        session.ledger.log_parameters(session.id, {key: item.value for key, item in keys.items()})
    size = out.stat().st_size
    return f"{architecture} to {ftype}, {len(manifest['tensors'])} tensors, {size / 1e6:.1f} MB, digest {manifest['semantic_digest'][:12]}"


def _record(written: Written, session: Session, progress: Progress) -> None:
    source = written.planned.source
    session.tensor(TensorRow(written.planned.name, source.name if source else "(made)", written.planned.shape, source.dtype if source else "F32",
                             written.type, written.milliseconds, written.n_bytes / 1e6, written.sha256))
    progress.emit("tensor", name=written.planned.name, done=written.done_bytes, total=written.total_bytes, unit="B")


def quantize_recorded(source: Path, out: Path, kind: str, *, threads: int, imatrix: Path | None, progress: Progress) -> str:
    """Quantise `source` to `out` within a ledger session; return what to say about it."""
    with conversion(out.stem, f"quantize:{kind}", source, out) as session:
        result = quantizer.quantize(source, out, kind, threads=threads, imatrix=imatrix,
                                    on_tensor=lambda done, total, name: progress.emit("tensor", name=name, done=done, total=total, unit="tensor"))
        before = {tensor.name: tensor.type for tensor in identity.tensor_table(source)}
        for tensor in result.tensors:
            session.tensor(TensorRow(tensor.name, tensor.name, tensor.shape, before[tensor.name], tensor.type, 0.0, tensor.n_bytes / 1e6,
                                     tensor.sha256 or ""))
        session.digests = {"source_sha256": sha256_file(source), "output_sha256": sha256_file(out), "semantic_digest": result.semantic_digest}
        session.ledger.log_performance_metric(session.id, "bits_per_weight", result.bits_per_weight, "bit")
    shown = ", ".join(f"{count} {name}" for name, count in result.histogram.items())
    fell = f"; FALLBACK, not {kind}: " + ", ".join(f"{n} is {t}" for n, t in list(result.fallbacks.items())[:4]) if result.fallbacks else ""
    return f"{shown}; {result.n_bytes / 1e6:.1f} MB, {result.bits_per_weight:.2f} bits per weight{fell}"
