"""A converted file computes what Hugging Face computes, for every architecture: tokens, logits, greedy text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType

from so8t import gguf_file
from so8t.gguf.convert.write import Recipe, convert
from so8t.gguf.verify.contents import against_hf
from so8t.gguf.verify.tokens import token_parity
from so8t.llama import Engine
from tests.fakes import tiny_models

pytestmark = pytest.mark.parity
MODELS = {
    "phi3": tiny_models.phi3,
    **{name: build for name, (build, _) in tiny_models.REFERENCE_MODELS.items()},
    **tiny_models.VARIANTS,
}
GREEDY = 32


def reference(model: Path, ids: list[int]) -> tuple[Any, np.ndarray]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return loaded, loaded(torch.tensor([ids])).logits[0].numpy()


def greedy(loaded: Any, ids: list[int]) -> list[int]:
    import torch

    with torch.no_grad():
        out = loaded.generate(
            torch.tensor([ids]),
            max_new_tokens=GREEDY,
            min_new_tokens=GREEDY,
            do_sample=False,
            pad_token_id=0,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        )
    return [int(i) for i in out[0, len(ids) :]]


@pytest.mark.parametrize("name", MODELS)
def test_logits_greedy_text_tensors_and_tokens_equal_hugging_face(
    tmp_path: Path, name: str
) -> None:
    model = MODELS[name](tmp_path / name)
    ids = np.random.default_rng(0).integers(20, 500, 200).tolist()
    loaded, expected = reference(model, ids)
    for ftype, limit, top1 in (
        ("F32", 1e-5 * float(np.abs(expected).max()) + 1e-5, 1.0),
        ("F16", 0.02, 0.99),
    ):
        path = tmp_path / f"{ftype}.gguf"
        convert(model, path, Recipe(ftype, name, "short"))  # type: ignore[arg-type]
        with Engine(path, n_ctx=256, threads=1, kv="f32") as engine:
            found = engine.logits(ids, positions="all")
            assert float(np.abs(found - expected).max()) <= limit, ftype
            assert float((found.argmax(1) == expected.argmax(1)).mean()) >= top1, ftype
            if ftype == "F32":
                forbidden = [i for i in range(engine.n_vocab) if engine.is_eog(i)]
                if not set(forbidden) & set(wanted := greedy(loaded, ids[:40])):
                    # `min_new_tokens` keeps transformers from ending early, so neither may end
                    found = engine.generate(
                        ids[:40], max_tokens=GREEDY, stop=set(), forbid=set(forbidden)
                    )
                    assert found == wanted
        assert all(check.passes for check in against_hf(path, model, "short")), ftype
    parity = token_parity(tmp_path / "F16.gguf", model, tiny_models.TEXTS)
    assert (parity.differing, parity.examples) == (0, [])
    assert parity.texts > 400


def test_a_changed_weight_changes_the_logits(tmp_path: Path) -> None:
    """The comparison above can fail: one matrix in place of another is far outside its limit."""
    model = tiny_models.other(tmp_path / "m", "qwen2")
    ids = list(range(20, 120))
    _, expected = reference(model, ids)
    path = tmp_path / "a.gguf"
    convert(model, path, Recipe("F32", "m", "short"))
    tensor = next(t for t in gguf_file.tensor_table(path) if t.name == "blk.0.attn_output.weight")
    data = bytearray(path.read_bytes())
    row = tensor.n_bytes // tensor.shape[0]
    data[tensor.offset : tensor.offset + row] = data[tensor.offset + row : tensor.offset + 2 * row]
    path.write_bytes(data)
    with Engine(path, n_ctx=256, threads=1, kv="f32") as engine:
        assert float(np.abs(engine.logits(ids, positions="all") - expected).max()) > 1e-3


def test_the_name_switches_the_whitespace_rule_and_the_gate_sees_it(tmp_path: Path) -> None:
    """Trap T1: the same vocabulary under a name without phi-3 tokenises chat prompts differently."""
    from so8t.release.rewrite import rewrite_keys

    model = tiny_models.phi35(tmp_path / "m")
    convert(model, tmp_path / "a.gguf", Recipe("F16", "m", "short"))
    wrong = gguf_file.KeyValue("SO8T ja", GGUFValueType.STRING)
    rewrite_keys(tmp_path / "a.gguf", tmp_path / "b.gguf", {"general.name": wrong})
    chat = ["<|user|>\n防衛<|end|>\n<|assistant|>\n"]
    assert token_parity(tmp_path / "a.gguf", model, chat).differing == 0
    assert token_parity(tmp_path / "b.gguf", model, chat).differing > 50


def test_tokenizer_json_alone_gives_the_same_tokens_as_the_sentencepiece_model(
    tmp_path: Path,
) -> None:
    """Trap T4: scores come from merge ranks, not from a constant."""
    model = tiny_models.phi35(tmp_path / "m")
    (model / "tokenizer.model").unlink()
    convert(model, tmp_path / "a.gguf", Recipe("F16", "m", "short"))
    assert token_parity(tmp_path / "a.gguf", model, tiny_models.TEXTS).differing == 0
