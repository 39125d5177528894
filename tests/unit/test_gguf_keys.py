"""The table of so8t.* keys: the founders' nineteen, true values, and the documentation made from it."""

from pathlib import Path

import pytest

from so8t import params
from so8t.errors import ArtifactError
from so8t.files import sha256_file, write_json
from so8t.gguf.convert import key_values, keys
from so8t.identity import changes_behaviour
from tests.fakes import tiny_models

ROOT = Path(__file__).parents[2]
FOUNDING = {
    "so8t.group_structure": "STRING",
    "so8t.rotation_dim": "UINT32",
    "so8t.pet_lambda": "FLOAT32",
    "so8t.safety_weight": "FLOAT32",
    "so8t.cmd_weight": "FLOAT32",
    "so8t.triality_enabled": "STRING",
    "so8t.safety_classes": "STRING",
    "so8t.safety_threshold": "FLOAT32",
    "so8t.escalation_threshold": "FLOAT32",
    "so8t.multimodal": "STRING",
    "so8t.ocr_enabled": "STRING",
    "so8t.ocr.language": "STRING",
    "so8t.ocr.config": "STRING",
    "so8t.image.max_width": "UINT32",
    "so8t.image.max_height": "UINT32",
    "so8t.memory.sql_enabled": "STRING",
    "so8t.memory.conversation_history": "STRING",
    "so8t.version": "STRING",
    "so8t.architecture": "STRING",
}
REPORT = {
    "layers": [0, 1],
    "pet_lambda": 0.05,
    "safety_weight": 0.1,
    "cmd_weight": 0.9,
    "heads": {"mode": "triality"},
    "base_sha256": "ab" * 32,
    "data_sha256": "cd" * 32,
    "head_token_ids": [5, 6, 7, 8, 9],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.phi3(tmp_path_factory.mktemp("m") / "phi3")


@pytest.fixture
def settings() -> params.Params:
    return params.load(ROOT / "params.yaml")


def test_the_nineteen_founding_keys_keep_names_and_types() -> None:
    assert {s.name: s.type.name for s in keys.KEYS if s.kind == "founding"} == FOUNDING


def test_a_base_model_claims_no_training(model: Path, settings: params.Params) -> None:
    values = {
        name: item.value
        for name, item in key_values.true_keys(model, settings, base=model, bake=None).items()
    }
    assert (
        values["so8t.group_structure"],
        values["so8t.rotation_dim"],
        values["so8t.pet_lambda"],
    ) == ("none", 0, 0.0)
    assert values["so8t.base_sha256"] == sha256_file(model / "model.safetensors")
    assert values["so8t.verdict.token_ids"] == [5, 6, 7]
    assert values["so8t.authority.token_ids"] == [8, 9]
    assert "so8t.data_sha256" not in values
    assert set(FOUNDING) <= set(values)


def test_a_baked_model_carries_its_report(
    model: Path, settings: params.Params, tmp_path: Path
) -> None:
    write_json(tmp_path / "bake.json", REPORT)
    values = {
        n: i.value
        for n, i in key_values.true_keys(
            model, settings, base=tmp_path / "absent", bake=tmp_path / "bake.json"
        ).items()
    }
    assert (
        values["so8t.group_structure"],
        values["so8t.rotation_dim"],
        values["so8t.triality_enabled"],
    ) == ("SO8", 8, "true")
    assert (values["so8t.pet_lambda"], values["so8t.baked_layers"]) == (0.05, [0, 1])
    assert values["so8t.bake_sha256"] == sha256_file(tmp_path / "bake.json")


def test_heads_in_other_tokens_than_params_names_are_refused(
    model: Path, settings: params.Params, tmp_path: Path
) -> None:
    write_json(tmp_path / "bake.json", REPORT | {"head_token_ids": [9, 8, 7, 6, 5]})
    with pytest.raises(ArtifactError, match="baked into tokens"):
        key_values.true_keys(model, settings, base=tmp_path, bake=tmp_path / "bake.json")


def test_a_missing_role_token_is_named(model: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no token <\|reserved\|>"):
        key_values.token_id(model, "<|reserved|>")


def test_a_key_outside_the_table_is_refused() -> None:
    with pytest.raises(ArtifactError, match="unknown keys"):
        keys.typed({"so8t.invented": 1})


def test_calibration_and_lineage_do_not_change_the_digest_and_readouts_do() -> None:
    for spec in keys.KEYS:
        if spec.kind in ("calibration", "lineage", "seal"):
            assert not changes_behaviour(spec.name), spec.name
        if spec.kind == "readout":
            assert changes_behaviour(spec.name)
    assert not changes_behaviour("so8t.safety_threshold")
    assert changes_behaviour("tokenizer.chat_template")


def test_the_documentation_is_the_table() -> None:
    """`make docs` renews it."""
    assert keys.table_markdown().strip() in (ROOT / "docs" / "gguf-keys.md").read_text(
        encoding="utf-8"
    )
