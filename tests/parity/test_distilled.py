"""Distilled .pt files: read without code, sorted by name, folded when they are linear, refused by name when they are not."""

import pickle
import shutil
import zipfile

import pytest
import torch

from so8t.base.load import load_full
from so8t.errors import ArtifactError
from so8t.training import distilled
from tests.fakes.tuning import tiny_base

pytestmark = pytest.mark.parity
IDS = [5, 6, 7, 8, 9]
GATE = "group_structure.non_commutative_gate.R_safe.rotation_params"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("base") / "b", "llama")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state_of(base, prefix="base_model."):
    return {
        f"{prefix}{name}": tensor + 0.01 for name, tensor in load_full(base).state_dict().items()
    }


def save(path, state, **more):
    torch.save({"model_state_dict": state, **more}, path)
    return distilled.read(path)


@pytest.mark.parametrize("layout", ["flat", "nested", "bare"])
def test_flat_nested_and_bare_files_read_alike(base, tmp_path, layout):
    state = {
        "safety_head_b.safety_classifier.weight": random(3, 64),
        "group_structure.rotation_params": random(8, 8),
        "task_head_a.x": random(2).half(),
    }
    nested = {
        "safety_head_b": {
            "safety_classifier": {"weight": state["safety_head_b.safety_classifier.weight"]}
        },
        "group_structure": {"rotation_params": state["group_structure.rotation_params"]},
        "task_head_a": {"x": state["task_head_a.x"]},
    }
    layouts = {
        "flat": {"state_dict": state, "hparams": {"vocab_size": 512}, "optimizer_state_dict": {}},
        "nested": {"model_state_dict": nested},
        "bare": state,
    }
    torch.save(layouts[layout], tmp_path / "x.pt")
    found = distilled.read(tmp_path / "x.pt")
    info = found.info()
    assert info["has_so8t_structure"]
    assert sorted(found.tensors) == sorted(state)
    assert found.tensors["task_head_a.x"].dtype == torch.float32
    assert info["has_optimizer_state"] == (layout == "flat")


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model_state_dict": {"w": torch.zeros(2)}, "config": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ArtifactError, match="plain tensors"):
        distilled.read(tmp_path / "trap.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ArtifactError):
        distilled.read(tmp_path / "raw.pt")
    assert not (tmp_path / "ran").exists()


def test_damaged_and_empty_files_are_refused(base, tmp_path):
    save(tmp_path / "x.pt", {"w": torch.zeros(100)})
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("a", "b")
    torch.save({"model_state_dict": {}}, tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("cut", "zip", "none", "list", "absent"):
        with pytest.raises(ArtifactError):
            distilled.read(tmp_path / f"{name}.pt")


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(3, 64, dtype=torch.complex64), "complex"),
        (torch.eye(64).to_sparse(), "sparse"),
        (torch.eye(64).to_sparse_csr(), "sparse"),
        (torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), "quantised"),
    ],
)
def test_a_tensor_that_is_not_plain_is_refused_by_name(tmp_path, tensor, kind):
    torch.save({"model_state_dict": {"safety_head.weight": tensor}}, tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match=f"safety_head.weight is {kind}"):
        distilled.read(tmp_path / "x.pt")


def test_base_and_linear_heads_become_a_stock_model_with_the_verdicts_in_our_order(base, tmp_path):
    safety, authority = random(3, 64), random(2, 64, seed=1)
    found = save(
        tmp_path / "d.pt",
        state_of(base)
        | {
            "safety_head_b.weight": safety,
            "safety_head_b.bias": torch.zeros(3),
            "authority_head.weight": authority,
        },
    )
    facts = distilled.to_model(found, base, tmp_path / "out", IDS)
    assert facts["dropped"] == []
    model = load_full(tmp_path / "out")
    head = model.lm_head.weight
    assert torch.equal(
        head[IDS], torch.cat([safety[[0, 2, 1]], authority])
    )  # origin order: ALLOW, REFUSE, ESCALATE
    want = found.tensors["base_model.model.layers.0.mlp.down_proj.weight"]
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, want)


def test_a_file_of_heads_alone_goes_onto_the_base_given(base, tmp_path):
    found = save(
        tmp_path / "h.pt",
        {"safety_classifier.weight": random(3, 64)},
        config={"safety_classes": ["DENY", "ALLOW", "ESCALATE"]},
    )
    distilled.to_model(found, base, tmp_path / "out", IDS)
    before, after = load_full(base).lm_head.weight, load_full(tmp_path / "out").lm_head.weight
    assert torch.equal(after[[7, 5, 6]], found.tensors["safety_classifier.weight"])
    others = [i for i in range(512) if i not in IDS[:3]]
    assert torch.equal(before[others], after[others])


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({GATE: random(8, 8)}, "group_structure"),
        ({"vision_tower.patch.weight": random(4, 4)}, "vision_tower"),
        ({"safety_head_b.safety_classifier.0.weight": random(16, 64)}, "safety_head_b"),
        ({"safety_head_b.bias": torch.ones(3)}, "safety_head_b"),
        ({"authority_head.weight": random(2, 32)}, "authority_head"),
    ],
)
def test_what_a_stock_graph_cannot_carry_is_refused_by_name_and_dropped_only_when_told(
    base, tmp_path, extra, named
):
    found = save(tmp_path / "d.pt", state_of(base) | extra)
    with pytest.raises(ArtifactError, match=named) as error:
        distilled.to_model(found, base, tmp_path / "out", IDS)
    assert f"--drop {named}" in error.value.fix
    assert distilled.to_model(found, base, tmp_path / "out", IDS, drop=(named,))[
        "dropped"
    ] == sorted(extra)


def test_missing_and_misshaped_weights_are_named(base, tmp_path):
    state = state_of(base)
    gone = state.pop("base_model.model.norm.weight")
    with pytest.raises(ArtifactError, match=r"model.norm.weight is missing"):
        distilled.to_model(save(tmp_path / "d.pt", state), base, tmp_path / "out", IDS)
    with pytest.raises(ArtifactError, match=r"\[3\], the model has \[64\]"):
        distilled.to_model(
            save(tmp_path / "d.pt", state | {"base_model.model.norm.weight": gone[:3]}),
            base,
            tmp_path / "out",
            IDS,
        )
    assert not (tmp_path / "out").exists()


def test_one_command_makes_a_gguf_with_the_rows_and_a_line_in_the_ledger(
    tmp_path, monkeypatch, capsys
):
    from gguf import GGUFReader

    from so8t import cli
    from so8t.records.ledger import Ledger, default_path
    from tests.fakes.tuning import ROOT

    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    monkeypatch.chdir(ROOT)
    folder = tiny_base(tmp_path / "phi", "phi3")
    safety = random(3, 64)
    save(
        tmp_path / "founders.pt",
        state_of(folder)
        | {"safety_head_b.weight": safety, "vision_tower.patch.weight": random(4, 4)},
    )
    command = [
        "convert-pt",
        str(tmp_path / "founders.pt"),
        str(tmp_path / "new" / "out.gguf"),
        "--ftype",
        "f16",
        "--vocab-dir",
        str(folder),
    ]
    with pytest.raises(SystemExit) as refused:
        cli.main(command)
    assert refused.value.code == ArtifactError.exit_code
    assert "vision_tower" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        cli.main([*command, "--drop", "vision_tower"])
    assert not done.value.code
    assert "safety head folded" in capsys.readouterr().out
    tensors = {
        tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "new" / "out.gguf").tensors
    }
    ids = [distilled_token(folder, f"<|placeholder{i}|>") for i in (1, 2, 3)]
    assert torch.equal(
        torch.from_numpy(tensors["output.weight"].copy())[ids].float(),
        safety[[0, 2, 1]].half().float(),
    )
    assert (tmp_path / "founders_config.json").is_file()
    with Ledger(default_path()) as ledger:
        assert [(row["model_name"], row["conversion_status"]) for row in ledger.sessions()] == [
            ("founders", "completed"),
            ("founders", "failed"),
        ]


@pytest.mark.parametrize(
    ("name", "match"),
    [("tokenizer.json", "tokenizer.json: not valid JSON"), ("config.json", "not valid JSON")],
)
def test_a_cut_off_file_of_the_vocabulary_is_an_error_before_anything_is_written(
    base, tmp_path, monkeypatch, name, match
):
    from so8t.operations.convert_pt import convert_pt
    from tests.fakes.tuning import params

    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    save(tmp_path / "d.pt", state_of(base))
    folder = shutil.copytree(base, tmp_path / "vocab")
    (folder / name).write_text((folder / name).read_text()[:-40])
    out = tmp_path / "new" / "o.gguf"
    with pytest.raises(ArtifactError, match=match):
        convert_pt(tmp_path / "d.pt", out, "f16", folder, (), None, params())
    assert not out.parent.exists()


def distilled_token(folder, name):
    from so8t.template import Template

    return Template.of(folder).tokenizer.token_to_id(name)
