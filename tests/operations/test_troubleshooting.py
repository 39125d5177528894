"""The ten situations of docs/troubleshooting.md, provoked: each has the printed message and exit code, and leaves nothing half-done."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from so8t.errors import So8tError
from so8t.params import load
from tests.fakes.clone import sealed_tiny
from tools.troubleshooting import SITUATIONS

ROOT = Path(__file__).parents[2]
PARAMS = load(ROOT / "params.yaml")
PHI = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
}
Provoke = Callable[[Path], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def checkpoint_not_found(folder: Path) -> None:
    from so8t.training.checkpoint import starting_point

    (folder / "step-00000100").mkdir()
    starting_point(folder, "step-500")


def invalid_gguf_magic(folder: Path) -> None:
    from so8t.gguf_header import parse

    (folder / "page.gguf").write_bytes(b"<!DOCTYPE html>" * 20)
    parse(folder / "page.gguf")


def missing_components(folder: Path) -> None:
    from so8t.operations.checklist import adapter

    (folder / "models/adapter").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "so8t_config.json", "so8t_heads.safetensors"):
        (folder / "models/adapter" / name).write_bytes(b"")
    adapter(folder, PARAMS)


def cuda_out_of_memory(_folder: Path) -> None:
    from so8t.training import memory

    profile = load(ROOT / "params.yaml", profile="rtx3060").train.model_copy(
        update={"batch_size": 8, "accumulation": 2}
    )
    memory.require(PHI, profile, "rtx3060", 5 * memory.GIB)


def loss_does_not_fall(folder: Path) -> None:
    from so8t.operations.checklist import log_of_training

    (folder / "data").mkdir()
    (folder / "data/train_log.csv").write_text(
        "step,lm\n" + "".join(f"{n},6.9\n" for n in range(40)), encoding="utf-8"
    )
    log_of_training(folder, PARAMS)


def conversion_fails(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from so8t.operations.checklist import baked

    (folder / "models/baked").mkdir(parents=True)
    (folder / "models/baked/so8t_bake.json").write_text("{}", encoding="utf-8")
    save_file(
        {"model.layers.0.self_attn.o_proj.lora_A.weight": np.zeros((2, 2), np.float32)},
        folder / "models/baked/model.safetensors",
    )
    baked(folder, PARAMS)


def quantisation_fails(folder: Path) -> None:
    from so8t.gguf.quantize.quantize import quantize

    source = sealed_tiny(folder / "f16.gguf")
    data = bytearray(source.read_bytes())
    data[-5000] ^= 1
    source.write_bytes(data)
    try:
        quantize(source, folder / "out.gguf", "Q4_K_M", threads=1)
    finally:
        assert sorted(p.name for p in folder.iterdir()) == ["f16.gguf"]


def calibration_cannot_certify(_folder: Path) -> None:
    from so8t.calibration.assess import UNCERTIFIED, assess
    from so8t.calibration.fit import make_card
    from tests.fakes.scores import INDEX, limits, make, meta

    rows = make(60, 1, separation=3.0)
    card, _ = make_card(rows, meta(), limits(), INDEX, readout="prefill", seed=1)
    outcome = assess(card)
    assert (card.status, card.thresholds.escalate, outcome.code) == (
        "not_certified",
        0.0,
        UNCERTIFIED,
    )
    problem = So8tError(outcome.sentence, fix="-")
    problem.exit_code = outcome.code  # type: ignore[misc]
    raise problem


def model_does_not_load(folder: Path) -> None:
    from so8t.llama import Engine

    whole = sealed_tiny(folder / "model.gguf")
    whole.write_bytes(whole.read_bytes()[:-40_000])
    Engine(whole, n_ctx=64, threads=1)


def disk_full(folder: Path) -> None:
    from so8t.files import write_text

    write_text(folder / "kept.json", "before")
    try:
        write_text(folder / "kept.json", "x" * (1 << 20))
    finally:
        assert (folder / "kept.json").read_text(encoding="utf-8") == "before"
        assert [p.name for p in folder.iterdir()] == ["kept.json"]


PROVOKED: dict[str, Provoke] = {
    f.__name__: f
    for f in (
        checkpoint_not_found,
        invalid_gguf_magic,
        missing_components,
        cuda_out_of_memory,
        loss_does_not_fall,
        conversion_fails,
        quantisation_fails,
        calibration_cannot_certify,
        model_does_not_load,
        disk_full,
    )
}


def test_every_row_of_the_table_is_provoked() -> None:
    assert {row.key for row in SITUATIONS} == set(PROVOKED)
    assert len(SITUATIONS) == 10


@pytest.mark.parametrize("key", [row.key for row in SITUATIONS])
def test_the_situation_has_its_message_and_code(
    key: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    row = next(row for row in SITUATIONS if row.key == key)
    folder = request.getfixturevalue("small_disk") if key == "disk_full" else tmp_path
    with pytest.raises(So8tError) as caught:
        PROVOKED[key](folder)
    assert row.says in str(caught.value)
    assert caught.value.exit_code == row.code
    assert caught.value.fix
    if key == "cuda_out_of_memory":
        assert caught.value.fix.startswith("dvc exp run -S profiles.rtx3060.train.")


def test_commands_that_the_page_names_exist() -> None:
    import re

    from so8t.cli import COMMANDS

    text = "".join(step for row in SITUATIONS for step in (*row.do, row.happens))
    for command in re.findall(r"so8t ([a-z-]+)", text):
        assert command in COMMANDS, command


def test_the_page_is_not_stale() -> None:
    from tools.troubleshooting import page

    assert (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").endswith(page())
