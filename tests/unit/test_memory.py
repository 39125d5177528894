"""Memory is counted from the config, agrees with what was measured, and every advice really fits."""

import pytest

from so8t.errors import ResourceError
from so8t.training.memory import GIB, Shape, estimate, overrides, require, trained_numbers
from tests.fakes.tuning import params

PHI35 = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "tie_word_embeddings": False,
}
PHI4 = PHI35 | {
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "vocab_size": 200064,
    "tie_word_embeddings": True,
}


def train(**changes):
    settings = {
        "train.quantization": "nf4",
        "train.compute_dtype": "bfloat16",
        "train.lora_r": 16,
        "train.batch_size": 1,
        "train.max_length": 2048,
        "train.gradient_checkpointing": True,
    }
    return params(**settings | {f"train.{k}": v for k, v in changes.items()}).active.train


def test_counts_are_those_of_phi_3_5_mini():
    shape = Shape.of(PHI35, 0)
    assert shape.linear_numbers == 3_623_878_656
    assert shape.embedding_numbers == 2 * 98_500_608
    counts = trained_numbers(shape, train())
    assert counts["lora"] == 25_165_824
    assert counts["gates"] == 32 * 10_752


@pytest.mark.parametrize(("batch", "gib"), [(1, 4.4), (2, 5.1), (4, 6.6)])
def test_the_estimate_agrees_with_the_research_table(batch, gib):
    assert estimate(PHI35, train(batch_size=batch)).gib == pytest.approx(gib, rel=0.12)


def test_qlora_of_phi_3_5_mini_fits_six_gibibytes_as_the_budget_says():
    assert overrides(PHI35, train(), 6 * GIB) == []


def test_a_large_vocabulary_costs_embeddings_and_logits():
    small, large = estimate(PHI35, train()).parts, estimate(PHI4, train()).parts
    assert large["logits"] > 6 * small["logits"]
    assert large["embeddings"] == 2 * 200064 * 3072


@pytest.mark.parametrize("gib", [40, 16, 12, 8, 6, 5, 4])
def test_every_advice_fits_and_keeps_the_effective_batch(gib):
    wanted = train(
        quantization="none",
        batch_size=8,
        accumulation=2,
        gradient_checkpointing=False,
        lora_r=64,
        lora_alpha=128,
    )
    advice = overrides(PHI35, wanted, gib * GIB)
    assert advice
    changes = dict(part.removeprefix("train.").split("=") for part in advice)
    kinds = {
        "quantization": str,
        "compute_dtype": str,
        "gradient_checkpointing": lambda text: text == "true",
        "lora_alpha": float,
    }
    typed = {key: kinds.get(key, int)(value) for key, value in changes.items()}
    changed = wanted.model_copy(update=typed)
    assert estimate(PHI35, changed).total <= gib * GIB
    assert changed.batch_size * changed.accumulation == 16


def test_the_error_names_the_command_and_hopeless_cases_say_so():
    with pytest.raises(ResourceError, match="GiB of graphics memory") as found:
        require(PHI35, train(batch_size=8), "rtx3060", 6 * GIB)
    assert "-S profiles.rtx3060.train.batch_size=" in found.value.fix
    with pytest.raises(ResourceError) as found:
        require(PHI35, train(), "rtx3060", 1 * GIB)
    assert "smaller base model" in found.value.fix


def test_full_fine_tuning_counts_every_number_four_times_over():
    full = estimate(PHI35, train(quantization="full", lora_r=0))
    assert full.parts["trained"] > 16 * 3.8e9
    assert full.parts["weights"] == 0
