"""Peak memory and time of baking, proving, converting and quantising a model of real size.

The model has Phi-3.5-mini's true size and random weights.

    python bench/bake_large.py WORK_DIR
        [--layers 32] [--tokenizer ../shared/fixtures/phi-3.5-mini] [--keep]

Needs about 28 GB of disk in WORK_DIR and an hour or so on two cores; `--layers 2` tries it out in a
minute. Every step is a child process, whose peak resident memory is what the kernel counted for it
(memory-mapped files included).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench" / "results" / "bake_large.jsonl"
TEXTS = [
    "防衛システムの公開資料の要約を作ってください。" * 4,
    "Which parts of this report are public? " * 6,
    "手順書の確認をお願いします。" * 8,
]
BUDGET_MIB = 24 * 1024.0
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def make_base(folder: Path, layers: int, tokenizer: Path) -> None:
    """Write a random bf16 Phi-3.5-mini, shard by shard, with the real config and tokenizer."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((tokenizer / "config.json").read_text()) | {
        "num_hidden_layers": layers,
        "auto_map": {},
    }
    config.pop("auto_map")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    random = torch.Generator().manual_seed(0)

    def weights(*shape: int, std: float = 0.02) -> Any:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(std=std, generator=random)

    where: dict[str, str] = {}
    half = (layers + 1) // 2
    for part, span in enumerate((range(half), range(half, layers)), start=1):
        name = f"model-{part:05d}-of-00002.safetensors"
        tensors = (
            {"model.embed_tokens.weight": weights(vocab, hidden)}
            if part == 1
            else {
                "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
                "lm_head.weight": weights(vocab, hidden),
            }
        )
        for i in span:
            prefix = f"model.layers.{i}."
            tensors |= {
                f"{prefix}self_attn.qkv_proj.weight": weights(3 * hidden, hidden),
                f"{prefix}self_attn.o_proj.weight": weights(hidden, hidden),
                f"{prefix}mlp.gate_up_proj.weight": weights(2 * inner, hidden),
                f"{prefix}mlp.down_proj.weight": weights(hidden, inner),
                f"{prefix}input_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
                f"{prefix}post_attention_layernorm.weight": torch.ones(
                    hidden, dtype=torch.bfloat16
                ),
            }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )


def make_adapter(base: Path, folder: Path) -> None:
    """Write an adapter as training leaves it.

    LoRA of rank 16 everywhere, gates on every layer, triality heads.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from so8t.template import Template
    from so8t.training import adapter, gate
    from so8t.training.heads import Heads
    from so8t.training.streamed import skeleton

    torch.manual_seed(1)
    model = get_peft_model(
        skeleton(base),
        LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for module in list(model.modules()):
        for part, std in (("lora_A", 0.02), ("lora_B", 0.01)):
            for linear in (
                getattr(module, part, {}).values()
                if isinstance(getattr(module, part, None), torch.nn.ModuleDict)
                else ()
            ):
                linear._parameters["weight"] = torch.nn.Parameter(
                    torch.randn(linear.weight.shape) * std
                )
    gates = gate.install(model, "all")
    with torch.no_grad():
        for one in gates.values():
            one.theta.normal_(std=0.05)
    tokenizer = Template.of(base).tokenizer
    ids = [tokenizer.token_to_id(f"<|placeholder{i}|>") for i in range(1, 6)]
    heads = Heads(model.config.hidden_size, ids, "triality", seed=0)
    config = {
        "heads": {"width": model.config.hidden_size, "token_ids": ids, "mode": "triality"},
        "base_sha256": "",
        "data_sha256": "",
        "pet_lambda": 0.05,
        "cmd_weight": 0.9,
        "safety_weight": 0.1,
        "quantization": "nf4",
        "compute_dtype": "bfloat16",
        "lora": {"r": 16, "alpha": 32},
    }
    adapter.save(folder, model, gates, heads, config)


def bake(base: Path, adapter_folder: Path, out: Path) -> None:
    """Bake with the full proof: parity before the cast, the cast's cost, and the drift of NF4."""
    from so8t.baking.bake import bake as run
    from so8t.base.batches import Example
    from so8t.progress import Progress
    from so8t.template import Template

    template = Template.of(base)
    examples = [Example(tuple(template.ids(text)[:160]), 8, -1, -1) for text in TEXTS]
    report = run(base, adapter_folder, out, examples, Progress("bench"))
    print(json.dumps({key: report[key] for key in ("parity", "shipped", "drift")}))


def verify(baked: Path, file: Path, texts: Path) -> None:
    """What stage `verify` does with an F16 file.

    Every tensor, token ids, and logits against the Hugging Face directory in float32.
    """
    from so8t.files import write_jsonl
    from so8t.gguf.verify.verify import Subject
    from so8t.gguf.verify.verify import verify as run
    from so8t.params import load

    write_jsonl(
        texts,
        (
            {
                "id": str(i),
                "text": text,
                "response": "# 判定\nESCALATE\n# 最終回答\n担当者に確認します。",
            }
            for i, text in enumerate(TEXTS)
        ),
    )
    facts = run(Subject(file, "F16", texts, hf=baked), load(ROOT / "params.yaml")).facts
    print(
        json.dumps(
            {
                "tensors": facts["tensors"]["count"],
                "tokens": facts["tokens"],
                "logits": facts["logits"],
            }
        )
    )


def watched(what: str, command: list[str]) -> tuple[float, float, str]:
    """Run a child: (seconds, peak MiB, its output)."""
    began = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{what} failed with {child.returncode}")
    return time.monotonic() - began, usage.ru_maxrss / 1024.0, text


def record(what: str, unit: str, ours: float, peer: float, peer_name: str) -> None:
    """Append one figure."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    line = {
        "bench": "bake_large",
        "what": what,
        "unit": unit,
        "ours": round(ours, 1),
        "peer": peer,
        "peer_name": peer_name,
        "ratio": round(ours / peer, 4),
        "higher_is_better": False,
        "runs": 1,
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def main() -> None:
    """Make the model, then watch every step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument(
        "--tokenizer", type=Path, default=ROOT.parent / "shared" / "fixtures" / "phi-3.5-mini"
    )
    parser.add_argument("--keep", action="store_true")
    parser.add_argument(
        "--only", choices=["base", "adapter", "bake", "verify"], help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    work = args.work.resolve()
    steps = {
        "base": lambda: make_base(work / "base", args.layers, args.tokenizer.resolve()),
        "adapter": lambda: make_adapter(work / "base", work / "adapter"),
        "bake": lambda: bake(work / "base", work / "adapter", work / "baked"),
        "verify": lambda: verify(work / "baked", work / "b-F16.gguf", work / "texts.jsonl"),
    }
    if args.only:
        steps[args.only]()
        return
    for name in ("base", "adapter", "baked"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    me = [
        sys.executable,
        __file__,
        str(work),
        "--layers",
        str(args.layers),
        "--tokenizer",
        str(args.tokenizer.resolve()),
    ]
    gguf = [sys.executable, "-m", "so8t.cli", "gguf"]
    commands = {
        "base": [*me, "--only", "base"],
        "adapter": [*me, "--only", "adapter"],
        "bake": [*me, "--only", "bake"],
        "convert": [*gguf, "convert", str(work / "baked"), str(work / "b-F16.gguf")],
        "verify F16": [*me, "--only", "verify"],
        "quantize Q4_K_M": [
            *gguf,
            "quantize",
            str(work / "b-F16.gguf"),
            str(work / "b-Q4_K_M.gguf"),
            "--type",
            "Q4_K_M",
            "--threads",
            "2",
        ],
    }
    for what, command in commands.items():
        seconds, peak, text = watched(what, command)
        print(f"{what}: {seconds:.0f} s, peak {peak:.0f} MiB\n{text}", flush=True)
        if what not in {"base", "adapter"}:
            record(
                f"{what}, {args.layers} layers of Phi-3.5-mini: peak resident memory",
                "MiB",
                peak,
                BUDGET_MIB,
                "24 GB of RAM",
            )
            record(
                f"{what}, {args.layers} layers of Phi-3.5-mini: time",
                "s",
                seconds,
                3600.0,
                "one hour",
            )
    if not args.keep:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
