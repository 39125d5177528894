"""The ablation's plan and its statistics, on results whose answer is known."""

import subprocess

import numpy as np
import pytest
from scipy import stats

from so8t.errors import ParamsError
from so8t.operations import ablation, ablation_table
from so8t.operations.ablation import Run
from so8t.params import Params, read_yaml
from tests.fakes.tuning import ROOT


def row(value: float, heads: bool = False) -> dict:
    cue = {"macro_f1": value, "accuracy": value, "false_allow_rate": 1 - value, "log_loss": 1.0}
    split = {"cue": cue, "language_loss": 2 - value} | ({"heads": cue} if heads else {})
    return {
        "profile": "demo",
        "commit": "abc",
        "base_sha256": "b1",
        "trained": {"adapter": 10},
        "splits": dict.fromkeys(("valid", "test_iid", "test_cells", "test_phrases"), split),
    }


def test_every_arm_gives_parameters_that_load_and_differ_in_what_it_names() -> None:
    raw = read_yaml(ROOT / "params.yaml")
    seen = set()
    for arm in ablation.ARMS:
        changed = read_yaml(ROOT / "params.yaml")
        for pair in Run(arm, 3, 0.5).settings(Params.model_validate(raw), 1):
            key, value = pair.split("=")
            node = changed
            for part in key.split(".")[:-1]:
                node = node[part]
            assert key.split(".")[-1] in node, key  # no new key: DVC would add it without a word
            node[key.split(".")[-1]] = {"true": True, "false": False}.get(value, value)
        params = Params.model_validate(changed)
        assert params.train_seed == 3
        assert params.active.train.threads == 1
        assert params.seed == raw["seed"]  # data and base stay
        assert params.active.train.epochs == pytest.approx(0.5 * raw["train"]["epochs"])
        seen.add(
            (
                params.gates.enabled,
                params.heads.enabled,
                params.heads.mode,
                params.pet.weight,
                params.active.train.adapter,
            )
        )
    assert len(seen) == len(ablation.ARMS)


def test_seeds_are_outermost_and_unknown_arms_are_refused() -> None:
    assert [run.name for run in ablation.runs(("lora", "gate"), 2, 1.0)] == [
        "ablation-lora-s1",
        "ablation-gate-s1",
        "ablation-lora-s2",
        "ablation-gate-s2",
    ]
    assert Run("lora", 1, 0.25).name == "ablation-lora-s1-x0-25"
    with pytest.raises(ParamsError, match="lroa"):
        ablation.runs(("lroa",), 1, 1.0)


def test_the_tests_are_scipys_and_the_flips_are_exact() -> None:
    differences = [0.01, 0.03, 0.02, -0.01, 0.04]
    assert ablation_table.paired_t(differences) == pytest.approx(
        stats.ttest_1samp(differences, 0).pvalue
    )
    assert ablation_table.sign_flip(differences) == pytest.approx(
        stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
        ).pvalue
    )
    assert ablation_table.sign_flip([0.1] * 5) == 2 / 32
    mean, half = ablation_table.interval(differences)
    assert (mean - half, mean + half) == pytest.approx(
        stats.t.interval(0.95, 4, np.mean(differences), stats.sem(differences))
    )


def test_the_page_says_which_arm_helps_and_pairs_by_seed() -> None:
    noise = [0.0, 0.05, -0.04, 0.02, 0.01]  # shared by both arms: only pairing sees the difference
    rows = {Run("lora", s + 1, 1.0): row(0.8 + n) for s, n in enumerate(noise)}
    rows |= {Run("gate", s + 1, 1.0): row(0.82 + n + 0.001 * s) for s, n in enumerate(noise)}
    rows |= {Run("triality", s + 1, 1.0): row(0.8 - n, heads=True) for s, n in enumerate(noise)}
    page = ablation_table.render(rows)
    assert "+ gate helps (+0.0220)" in page
    assert "language loss on valid: + gate helps (-0.0220)" in page
    assert "triality heads helps" not in page
    assert "| + triality heads | 5 | 10 |" in page
    few = ablation_table.render({run: value for run, value in rows.items() if run.seed == 1})
    assert "nothing can be said" in few
    assert "inf" not in few


def test_raw_rows_do_not_break_the_table_of_benchmarks(tmp_path, monkeypatch) -> None:
    import json

    from click.testing import CliRunner

    from so8t.operations.setup import bench_table

    (tmp_path / "bench/results").mkdir(parents=True)
    (tmp_path / ablation.RESULTS).write_text(
        json.dumps({"arm": "lora", "seed": 1, "scale": 1.0, **row(0.8)}) + "\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(bench_table).exit_code == 0
    assert ablation.known(tmp_path, "demo").keys() == {Run("lora", 1, 1.0)}
    assert ablation.known(tmp_path, "h200") == {}


def test_results_on_another_base_are_not_mixed_in(tmp_path) -> None:
    import json

    (tmp_path / "bench/results").mkdir(parents=True)
    rows = [
        {"arm": "lora", "seed": seed, "scale": 1.0, **row(0.8), "base_sha256": base}
        for seed, base in ((1, "old"), (2, "new"))
    ]
    (tmp_path / ablation.RESULTS).write_text(
        "".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8"
    )
    assert ablation.known(tmp_path, "demo").keys() == {Run("lora", 2, 1.0)}
    (tmp_path / ablation.BASE).mkdir(parents=True)
    (tmp_path / ablation.BASE / "config.json").write_text("{}", encoding="utf-8")
    assert ablation.known(tmp_path, "demo") == {}


@pytest.mark.parametrize("name", [str(ablation.PLACED), str(ablation.PLACED.with_suffix(".lock"))])
def test_git_ignores_neither_the_placed_graph_nor_its_lock(name: str) -> None:
    """DVC refuses a graph or a lock that git ignores."""
    assert (
        subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode == 1
    )
