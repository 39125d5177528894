"""Quantised files: what they hold, what they cost, what they keep, and that damage is not quantised."""

from pathlib import Path

import numpy as np
import pytest

from so8t import gguf_file, identity, params
from so8t.errors import ArtifactError, ToolError
from so8t.files import write_jsonl
from so8t.gguf.convert.key_values import true_keys
from so8t.gguf.convert.write import Recipe, convert
from so8t.gguf.imatrix import compute_imatrix, conversations
from so8t.gguf.quantize.imatrix import read_imatrix
from so8t.gguf.quantize.quantize import TYPES, predict_bytes, quantize, quantize_recorded
from so8t.gguf.verify.contents import NMSE_BOUND, against_gguf
from so8t.llama import Engine
from so8t.progress import Progress
from tests.fakes import tiny_models

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]
WANTED = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.phi3(tmp_path_factory.mktemp("m") / "phi3")


@pytest.fixture(scope="module")
def f16(model: Path) -> Path:
    path = model.parent / "f16.gguf"
    keys = true_keys(model, params.load(ROOT / "params.yaml"), base=model, bake=None)
    convert(model, path, Recipe("F16", "m", "short", keys))
    return path


@pytest.mark.parametrize("kind", WANTED)
def test_every_type_is_what_it_says_and_keeps_the_keys(
    f16: Path, tmp_path: Path, kind: str
) -> None:
    seen: list[tuple[int, int]] = []
    result = quantize(
        f16,
        tmp_path / "q.gguf",
        kind,
        threads=1,
        on_tensor=lambda number, total, _name: seen.append((number, total)),
    )
    assert seen == [(i, 15) for i in range(1, 16)]
    assert result.fallbacks == {}
    assert abs(result.n_bytes / result.predicted_bytes - 1) < 0.01
    identity.check_seal(tmp_path / "q.gguf")
    assert all(check.passes for check in against_gguf(tmp_path / "q.gguf", f16))
    before, after = gguf_file.read_typed(f16), gguf_file.read_typed(tmp_path / "q.gguf")
    free = {"general.file_type", identity.SEAL}
    assert {n: v for n, v in before.items() if n not in free} == {
        n: v for n, v in after.items() if n not in free
    }


def test_q4_k_m_really_holds_q4_k_and_q6_k(f16: Path, tmp_path: Path) -> None:
    result = quantize(f16, tmp_path / "q.gguf", "Q4_K_M", threads=1)
    assert result.histogram == {"F32": 5, "Q4_K": 7, "Q6_K": 3}
    assert (
        result.semantic_digest
        == identity.semantic_digest(tmp_path / "q.gguf")
        != identity.semantic_digest(f16)
    )


def test_rows_that_are_no_multiple_of_256_are_reported_as_fallbacks(tmp_path: Path) -> None:
    """Trap T6: libllama says 0 and writes Q5_0."""
    narrow = tiny_models.phi3(tmp_path / "m", hidden_size=128, intermediate_size=192)
    convert(narrow, tmp_path / "f.gguf", Recipe("F16", "m", "short"))
    result = quantize(tmp_path / "f.gguf", tmp_path / "q.gguf", "Q4_K_M", threads=1)
    assert "Q4_K" not in result.histogram
    assert set(result.fallbacks.values()) <= {"Q5_0", "Q8_0", "F16", "Q5_1", "Q4_0"}
    assert len(result.fallbacks) == 10


def test_a_plain_copy_keeps_the_semantic_digest(f16: Path, tmp_path: Path) -> None:
    """Ollama stores such a copy of every file it is given."""
    assert quantize(
        f16, tmp_path / "c.gguf", "COPY", threads=1
    ).semantic_digest == identity.semantic_digest(f16)


def test_threads_do_not_change_the_bytes(f16: Path, tmp_path: Path) -> None:
    for threads in (1, 2):
        quantize(f16, tmp_path / f"{threads}.gguf", "Q4_K_M", threads=threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()


def test_a_damaged_source_is_refused_before_libllama_sees_it(f16: Path, tmp_path: Path) -> None:
    """Trap T7: libllama quantises zeroed data and says 0."""
    data = bytearray(f16.read_bytes())
    data[-5000:-4000] = bytes(1000)
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(ArtifactError, match="seal"):
        quantize(tmp_path / "bad.gguf", tmp_path / "q.gguf", "Q8_0", threads=1)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.gguf"]


def test_a_failure_of_libllama_carries_its_log_and_leaves_nothing(
    f16: Path, tmp_path: Path
) -> None:
    quantize(f16, tmp_path / "q.gguf", "Q4_0", threads=1)
    with pytest.raises(ToolError, match="requantizing from type q4_0 is disabled"):
        quantize(tmp_path / "q.gguf", tmp_path / "r.gguf", "Q4_K_M", threads=1)
    assert [p.name for p in tmp_path.iterdir()] == ["q.gguf"]


def test_a_dry_run_predicts_every_type(f16: Path) -> None:
    sizes = {kind: predict_bytes(f16, kind) for kind in ("Q8_0", "Q4_K_M")}
    assert sizes["Q4_K_M"] < sizes["Q8_0"] < f16.stat().st_size
    assert set(WANTED) <= set(TYPES)


def kl(f16: Path, other: Path, ids: list[int]) -> float:
    rows = []
    for path in (f16, other):
        with Engine(path, n_ctx=512, threads=1, kv="f32") as engine:
            x = engine.logits(ids, positions="all").astype(np.float64)
            rows.append(
                x
                - x.max(1, keepdims=True)
                - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True))
            )
    return float((np.exp(rows[0]) * (rows[0] - rows[1])).sum(1).mean())


def test_the_importance_matrix_lowers_the_divergence_where_columns_differ_in_use(
    tmp_path: Path,
) -> None:
    """Inputs of very different sizes are what the matrix is for; a model with such norms gains on held-out tokens."""
    import torch
    from safetensors.torch import load_file, save_file

    model = tiny_models.phi3(tmp_path / "m")
    tensors = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name in [n for n in tensors if n.endswith("layernorm.weight")]:
        tensors[name] = torch.exp(torch.randn(tensors[name].shape, generator=generator) * 1.2)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    convert(model, tmp_path / "f.gguf", Recipe("F16", "m", "short"))
    draw = np.random.default_rng(3)
    rows = [draw.integers(20, 500, 128).tolist() for _ in range(16)]
    assert compute_imatrix(model, rows, tmp_path / "i.gguf") == 16 * 128
    assert set(read_imatrix(tmp_path / "i.gguf")) == {
        f"blk.{i}.{n}.weight"
        for i in range(2)
        for n in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
    }
    quantize(tmp_path / "f.gguf", tmp_path / "plain.gguf", "Q4_K_M", threads=1)
    quantize(
        tmp_path / "f.gguf",
        tmp_path / "weighted.gguf",
        "Q4_K_M",
        threads=1,
        imatrix=tmp_path / "i.gguf",
    )
    held_out = draw.integers(20, 500, 400).tolist()
    assert kl(tmp_path / "f.gguf", tmp_path / "weighted.gguf", held_out) <= kl(
        tmp_path / "f.gguf", tmp_path / "plain.gguf", held_out
    )
    assert "quantize.imatrix.sha256" in gguf_file.read_keys(tmp_path / "weighted.gguf")


def test_what_all_conversations_begin_with_is_counted_once(model: Path, tmp_path: Path) -> None:
    frame, first, second = [7, 8, 9, 10], [30, 31, 32], [40, 41]
    assert compute_imatrix(model, [frame + first, frame + second], tmp_path / "both.gguf") == len(
        frame + first + second
    )
    assert compute_imatrix(model, [frame + first], tmp_path / "one.gguf") == 7
    assert compute_imatrix(model, [frame + second], tmp_path / "two.gguf") == 6
    assert compute_imatrix(model, [frame], tmp_path / "frame.gguf") == 4
    both, one, two, only = (
        read_imatrix(tmp_path / f"{name}.gguf") for name in ("both", "one", "two", "frame")
    )
    for name, values in both.items():
        np.testing.assert_allclose(
            values * 9, one[name] * 7 + two[name] * 6 - only[name] * 4, rtol=1e-3, atol=1e-5
        )


def test_rows_that_are_no_multiple_of_256_fall_back_with_an_importance_matrix_too_and_the_stage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    narrow = tiny_models.phi3(tmp_path / "m", hidden_size=128, intermediate_size=192)
    convert(narrow, tmp_path / "f.gguf", Recipe("F16", "m", "short"))
    compute_imatrix(narrow, [list(range(20, 90))], tmp_path / "i.gguf")
    said = quantize_recorded(
        tmp_path / "f.gguf",
        tmp_path / "q.gguf",
        "Q4_K_M",
        threads=1,
        imatrix=tmp_path / "i.gguf",
        progress=Progress("test"),
    )
    assert "FALLBACK, not Q4_K_M: " in said
    assert "blk.0.attn_output.weight is Q5_0" in said
    assert "quantize.imatrix.sha256" in gguf_file.read_keys(tmp_path / "q.gguf")


def test_the_sample_of_conversations_is_of_the_whole_file_and_the_same_again(
    model: Path, tmp_path: Path
) -> None:
    rows = [
        {
            "id": f"r{i}",
            "group": f"g{i}",
            "text": f"依頼{i}です。",
            "response": "# 判定\nALLOW\n# 最終回答\nはい。",
        }
        for i in range(60)
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", rows[::-1])
    first, again = (
        list(conversations(model, tmp_path / name, "係です。", 8))
        for name in ("a.jsonl", "b.jsonl")
    )
    assert first == again
    assert len({tuple(ids) for ids in first}) == 8
    head = list(conversations(model, tmp_path / "a.jsonl", "係です。", 60))
    assert sorted(map(tuple, head)) != sorted(map(tuple, first))
    assert set(map(tuple, first)) < set(map(tuple, head))


def test_the_bounds_are_tight_enough_to_see_another_type(f16: Path, tmp_path: Path) -> None:
    """A Q4_0 tensor would not pass for Q8_0, Q6_K or Q5_0."""
    quantize(f16, tmp_path / "q.gguf", "Q4_0", threads=1)
    worst = max(c.nmse for c in against_gguf(tmp_path / "q.gguf", f16) if c.type == "Q4_0")
    assert worst > max(NMSE_BOUND[t] for t in ("Q8_0", "Q6_K", "Q5_K", "Q5_0"))
