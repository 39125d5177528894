"""Tiny models, parameters, rows and adapters for the training tests: hidden 64, two layers, real code everywhere."""

import random
from pathlib import Path
from typing import Any

from so8t.files import write_jsonl
from so8t.params import Params, read_yaml
from so8t.rows import Row
from so8t.verdict import VERDICTS, Authority, Verdict
from tests.fakes import tiny_models

ROOT = Path(__file__).parents[2]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
KINDS = ("phi35", "phi4", "llama", "qwen2", "tied")


def tiny_base(folder: Path, kind: str = "phi3", **changes: Any) -> Path:
    """A random model of an architecture: phi3, phi35 (longrope), phi4 (grouped-query, partial rotary, tied), llama, mistral, qwen2, qwen3, tied."""
    sizes = SMALL | changes
    if kind == "phi35":
        return tiny_models.phi3(
            folder,
            **sizes,
            max_position_embeddings=8192,
            original_max_position_embeddings=256,
            rope_parameters=tiny_models.longrope(16),
        )
    if kind == "phi4":
        rope = tiny_models.longrope(24) | {"partial_rotary_factor": 0.75}
        return tiny_models.phi3(
            folder,
            **(sizes | {"num_attention_heads": 2, "num_key_value_heads": 1}),
            tie_word_embeddings=True,
            pre="gpt-4o",
            max_position_embeddings=8192,
            original_max_position_embeddings=256,
            rope_parameters=rope,
            partial_rotary_factor=0.75,
        )
    if kind == "tied":
        return tiny_models.other(
            folder, "qwen2", **(sizes | {"num_key_value_heads": 2, "tie_word_embeddings": True})
        )
    if kind == "phi3":
        return tiny_models.phi3(folder, **sizes)
    extra = {"head_dim": 32} if kind == "qwen3" else {}
    return tiny_models.other(
        folder, kind, **({"num_key_value_heads": 2} | sizes | {"num_key_value_heads": 2} | extra)
    )


def params(**changes: Any) -> Params:
    """params.yaml of the demo, shrunk, with dotted changes such as `**{"train.lr": 0.1}`."""
    raw = read_yaml(ROOT / "params.yaml")
    raw["profile"] = "demo"
    small = {
        "train.quantization": "none",
        "train.threads": 1,
        "train.batch_size": 4,
        "train.epochs": 2.0,
        "train.max_length": 256,
        "train.lora_r": 4,
        "train.lora_alpha": 8,
        "train.valid_steps": 4,
        "train.save_steps": 100,
    }
    for name, value in (small | changes).items():
        first, *rest = name.split(".")
        node = raw
        for part in (first, *rest)[:-1]:
            node = node[part]
        node[(first, *rest)[-1]] = value
    return Params.model_validate(raw)


def rows(count: int, seed: int = 0) -> list[Row]:
    """Prepared rows of uneven length with every verdict."""
    choose = random.Random(seed)
    made = []
    for i in range(count):
        verdict = VERDICTS[i % 3]
        text = f"依頼{i} " + "資料 " * choose.randint(1, 12)
        response = f"# 判定\n{verdict}\n# 最終回答\n{'可能 ' * choose.randint(1, 6)}です。"
        made.append(
            Row(
                id=f"r{seed}-{i}",
                text=text,
                verdict=verdict,
                authority=Authority.HANDLE if verdict == Verdict.ALLOW else Authority.HUMAN,
                domain="general",
                thinking=None,
                final="",
                response=response,
                group=f"g{i}",
                pair=None,
                factors={},
                source="test",
                license=None,
            )
        )
    return made


def prepared(folder: Path, train: int = 24, valid: int = 6) -> Path:
    """A prepared directory with a train and a valid split."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 0), ("valid", valid, 1)):
        write_jsonl(folder / f"{name}.jsonl", (row.to_json() for row in rows(count, seed)))
    return folder


def stir(trainee: Any, seed: int = 3, theta: float = 0.4) -> None:
    """Give every trained tensor values far from its start, as after a long training."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in trainee.tensors.items():
            scale = theta if "theta" in name else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
