"""Somebody's own model folder and their own 300 rows, three edited lines: plan, repro, ask."""

import json
import random
from pathlib import Path

import pytest

from tests.pipeline.conftest import copy_of_project, runner

pytestmark = pytest.mark.pipeline
ROOT = Path(__file__).parents[2]
PHI = ROOT.parent / "shared/fixtures/phi-3.5-mini"
SMALL = {
    "profiles.rtx3060.train.max_length": 256,
    "profiles.rtx3060.train.epochs": 0.3,
    "data.evasions": 1,
    "evaluation.generate_rows": 1,
    "evaluation.generate_tokens": 8,
    "evaluation.long_rows": 0,
    "evaluation.speed_rows": 2,
    "evaluation.bootstrap": 100,
    "compare.bootstrap": 100,
    "verify.prompts": 4,
    "quant.types": ["Q4_K_M"],
    "scoring.types": ["F16", "Q4_K_M"],
}


def _model_folder(folder: Path) -> None:
    """Two layers of Phi-3.5's architecture with its real tokenizer and rope factors, an `auto_map`, random weights in bf16."""
    import shutil

    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    config = json.loads((PHI / "config.json").read_text())
    rope = {k: (v[:16] if isinstance(v, list) else v) for k, v in config["rope_scaling"].items()}
    torch.manual_seed(1)
    model = Phi3ForCausalLM(
        Phi3Config(
            **{
                k: v
                for k, v in config.items()
                if k not in {"auto_map", "rope_scaling", "architectures", "dtype", "torch_dtype"}
            }
            | {
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
                "num_attention_heads": 8,
                "num_key_value_heads": 8,
                "rope_scaling": rope,
            }
        )
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in (
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ):
        shutil.copyfile(PHI / name, folder / name)
    made = json.loads((folder / "config.json").read_text()) | {"auto_map": config["auto_map"]}
    (folder / "config.json").write_text(json.dumps(made), encoding="utf-8")


def _rows(path: Path) -> None:
    pick = random.Random(0)
    things, acts = (
        ["時刻表", "点検記録", "認証情報", "議事録", "名簿", "設計図"],
        ["要約して", "見せて", "書き換えて", "外へ送って"],
    )
    rows = [
        {
            "text": f"{pick.choice(things)}の{n}番を{pick.choice(acts)}ください。理由は{pick.randrange(10**6)}番の案件です。",
            "label": ("ALLOW", "ESCALATION", "DENY")[n % 3],
        }
        for n in range(300)
    ]
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


@pytest.mark.skipif(
    not PHI.is_dir(), reason="the Phi-3.5 tokenizer fixture is not beside the project"
)
def test_three_edited_lines_give_a_closed_gate_and_an_answer(tmp_path: Path) -> None:
    _model_folder(tmp_path / "phi-two-layers")
    _rows(tmp_path / "mine.jsonl")
    edited = {
        "profile": "rtx3060",
        "profiles.rtx3060.base.path": str(tmp_path / "phi-two-layers"),
        "data.sources": [{"path": str(tmp_path / "mine.jsonl"), "weight": 1.0, "use": "auto"}],
    }
    run = runner(copy_of_project(tmp_path / "job", SMALL | edited))
    plan = run("so8t", "plan").stdout
    assert "missing:" in plan
    assert "unsafe groups" in plan
    run("dvc", "repro")
    card = json.loads((tmp_path / "job/models/release/card.json").read_text())
    assert card["status"] == "not_certified"
    assert card["thresholds"]["escalate"] == 0.0
    answer = json.loads(run("so8t", "ask", "--json", "時刻表を要約してください。").stdout)
    assert answer["decision"] in {"ESCALATE", "DENY"}
