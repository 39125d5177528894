"""The engine's promise: a logit never depends on what was asked before."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from so8t.errors import ArtifactError, DataError
from so8t.libllama import library
from so8t.llama import Engine

pytestmark = pytest.mark.parity
PREFIX = 300
TYPES = {"F16": None, "Q8_0": 7, "Q5_K_M": 17, "Q4_K_M": 15}


def quantise(source: Path, target: Path, kind: int) -> Path:
    llama = library()
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = kind, 1
    assert (
        llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
        == 0
    )
    return target


@pytest.fixture(scope="module", params=list(TYPES))
def engine(request: pytest.FixtureRequest, tiny: Path) -> Iterator[Engine]:
    kind = TYPES[request.param]
    path = (
        tiny if kind is None else quantise(tiny, tiny.with_name(f"tiny-{request.param}.gguf"), kind)
    )
    with Engine(path, n_ctx=768, threads=1) as opened:
        yield opened


def prompts(count: int = 12, prefix: int = PREFIX) -> list[list[int]]:
    random = np.random.default_rng(5)
    shared = random.integers(0, 256, prefix).tolist()
    lengths = [1, 2, 3, *random.integers(4, 60, count - 3).tolist()]
    return [shared + random.integers(0, 256, n).tolist() for n in lengths]


def alone(engine: Engine, ids: list[int], cuts: tuple[int, ...]) -> np.ndarray:
    """Logits in a context that holds nothing else."""
    with Engine(
        engine.path, n_ctx=engine.n_ctx, threads=engine.threads, n_batch=engine.n_batch
    ) as fresh:
        return fresh.logits(ids, cuts=cuts)


def test_a_kept_prefix_gives_the_same_bits_as_a_fresh_context(engine: Engine) -> None:
    asked = prompts()
    together = [engine.logits(ids, cuts=(PREFIX,)) for ids in asked]
    for ids, row in zip(asked, together, strict=True):
        assert np.array_equal(row, alone(engine, ids, (PREFIX,)))
    assert len({row.tobytes() for row in together}) == len(asked)  # and they are not all one number


def test_the_order_of_prompts_changes_no_bit(engine: Engine) -> None:
    asked = prompts()
    forward = [engine.logits(ids, cuts=(PREFIX,)) for ids in asked]
    backward = [engine.logits(ids, cuts=(PREFIX,)) for ids in reversed(asked)]
    assert all(np.array_equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))


@pytest.mark.parametrize("cut", [1, 2, 31, 255, 299])
def test_bits_do_not_depend_on_where_the_neighbour_was_cut(engine: Engine, cut: int) -> None:
    ids = prompts()[5]
    wanted = alone(engine, ids, (PREFIX,))
    engine.logits(ids, cuts=(cut,))  # leaves a cache of other pieces behind
    assert np.array_equal(engine.logits(ids, cuts=(PREFIX,)), wanted)


def test_a_longer_prompt_after_a_shorter_one_reuses_only_whole_pieces(engine: Engine) -> None:
    ids = prompts()[-1]
    engine.logits(ids[:-3])
    assert np.array_equal(engine.logits(ids), alone(engine, ids, ()))


def test_a_shared_prefix_is_really_kept(engine: Engine) -> None:
    asked = prompts()
    engine.logits(asked[4], cuts=(PREFIX,))
    decoded: list[int] = []
    original = engine._decode
    engine._decode = lambda piece, begin, first: (
        decoded.append(len(piece)),
        original(piece, begin, first),
    )[1]  # type: ignore[method-assign]
    try:
        engine.logits(asked[5], cuts=(PREFIX,))
    finally:
        engine._decode = original  # type: ignore[method-assign]
    assert decoded == [len(asked[5]) - PREFIX]


def test_all_positions_agree_with_each_prefix_alone(engine: Engine) -> None:
    ids = prompts()[4][:40]
    rows = engine.logits(ids, positions="all")
    single = np.stack([engine.logits(ids[: i + 1]) for i in range(len(ids))])
    bound = 5e-2 * np.abs(rows).max() if "Q" in engine.path.stem else 2e-3 * np.abs(rows).max()
    assert rows.shape == (40, engine.n_vocab)
    assert np.abs(rows - single).max() <= bound
    assert (
        np.abs(rows[1:] - single[:-1]).max() > 10 * bound or "Q" in engine.path.stem
    )  # an off-by-one would be seen


def test_generation_is_greedy_and_exact(engine: Engine) -> None:
    ids = prompts()[3]
    made = engine.generate(ids, max_tokens=6, stop=set(), forbid=set())
    first = alone(engine, ids, ())
    assert made[0] == int(first.argmax())
    banned = engine.generate(ids, max_tokens=1, stop=set(), forbid={made[0]})
    assert banned == [int(np.argsort(first)[-2])]
    assert engine.generate(ids, max_tokens=6, stop={made[1]}, forbid=set())[-1] == made[1]
    assert engine.generate(ids, max_tokens=0, stop=set(), forbid=set()) == []


def test_a_prompt_longer_than_a_batch_is_evaluated_in_chunks(tiny: Path) -> None:
    ids = prompts()[-1]
    with (
        Engine(tiny, n_ctx=768, threads=1, n_batch=32) as small,
        Engine(tiny, n_ctx=768, threads=1) as large,
    ):
        chunked, whole = small.logits(ids), large.logits(ids)
    assert np.abs(chunked - whole).max() <= 2e-3 * np.abs(whole).max()


def test_generation_stops_at_the_end_of_the_context(tiny: Path) -> None:
    with Engine(tiny, n_ctx=256, threads=1) as engine:
        eog = {i for i in range(engine.n_vocab) if engine.is_eog(i)}
        made = engine.generate([5] * 250, max_tokens=50, stop=set(), forbid=eog)
    assert len(made) == 7  # positions 250..255 are fed, the token after them is the last one


def test_wrong_prompts_are_data_errors_and_leave_the_engine_usable(tiny: Path) -> None:
    with Engine(tiny, n_ctx=256, threads=1) as engine:
        before = engine.logits([1, 2, 3])
        for wrong in ([], [1] * 257, [engine.n_vocab], [-1]):
            with pytest.raises(DataError):
                engine.logits(wrong)
        assert np.array_equal(engine.logits([1, 2, 3]), before)


def test_a_file_that_is_no_model_is_an_artifact_error_with_the_library_words(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ArtifactError, match="cannot load"):
        Engine(broken, n_ctx=256, threads=1)
    with pytest.raises(ArtifactError, match="not found"):
        Engine(tmp_path / "absent.gguf", n_ctx=256, threads=1)


def test_text_of_others_never_becomes_a_control_token(tiny: Path) -> None:
    with Engine(tiny, n_ctx=256, threads=1, vocab_only=True) as engine:
        end = engine.token_id("<|end|>")
        assert engine.is_control(end)
        assert engine.is_eog(end)
        assert engine.tokenize("<|end|>") == [end]
        assert not any(map(engine.is_control, engine.tokenize("<|end|>", special=False)))
        text = "# 判定\nALLOW\n猫"
        assert engine.detokenize(engine.tokenize(text)).decode() == text
        with pytest.raises(ArtifactError):
            engine.token_id("<|nobody|>")
        with pytest.raises(ArtifactError, match="vocabulary only"):
            engine.logits([1])
