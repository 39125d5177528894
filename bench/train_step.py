"""Step time and memory of training at Phi-3.5-mini's layer shapes, beside PEFT's own rotations.

    python bench/train_step.py [--layers 2] [--tokens 128] [--rounds 5]
        [--quantization none|nf4] [--dtype bfloat16]

Every round times every variant once, in turning order, and ratios are medians over rounds, so that
a busy machine hits all alike. On a CPU the time is the process's own (one thread), memory is what
the forward saves; on CUDA it is wall time and the allocator's peak. Random weights, a small
vocabulary (the output matrix is not what is measured).
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from so8t.base.batches import Example, collate
from so8t.base.load import keep_cpu_weights_plain
from so8t.params import Loss
from so8t.training import gate
from so8t.training.gate import Bank
from so8t.training.heads import Heads
from so8t.training.objective import Objective, weigh
from so8t.training.trainee import BETAS

OUT = Path(__file__).parent / "results" / "train_step.jsonl"
VOCAB, WIDTH, INNER, HEADS = 2048, 3072, 8192, 32
REPEATS = 15
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


@dataclass(slots=True)
class Variant:
    """One way to train: a step to time and the numbers it trains."""

    loss: Callable[[], torch.Tensor]
    step: Callable[[], None]


def base_model(layers: int, dtype: torch.dtype, quantization: str) -> Any:
    """Random Phi-3.5-mini layers.

    With nf4 every projection is replaced by its 4-bit image, as at loading.
    """
    from transformers import AutoModelForCausalLM, Phi3Config

    config = Phi3Config(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model = model.to_empty(device=DEVICE)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(DEVICE)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.fill_(1.0) if "norm" in name else tensor.normal_(std=0.02)
    return pack(model, dtype) if quantization == "nf4" else model.requires_grad_(False)


def pack(model: Any, dtype: torch.dtype) -> Any:
    """Quantise the projections to NF4 with double quantisation."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            packed = Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=dtype,
                quant_type="nf4",
                compress_statistics=True,
            )
            packed.weight = Params4bit(
                module.weight.data.cpu(),
                requires_grad=False,
                quant_type="nf4",
                compress_statistics=True,
            )
            parent = model.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], packed.to(DEVICE))
    keep_cpu_weights_plain(model)
    return model.requires_grad_(False)


def adapted(model: Any, kind: str) -> Any:
    """LoRA of rank 16 on every projection, or one of PEFT's rotations on o_proj alone.

    The SO(8) gate is on o_proj alone, too.
    """
    from peft import BOFTConfig, LoraConfig, OFTConfig, get_peft_model

    config = {
        "lora": lambda: LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        "oft": lambda: OFTConfig(oft_block_size=8, target_modules=["o_proj"], bias="none"),
        "boft": lambda: BOFTConfig(
            boft_block_size=8, boft_n_butterfly_factor=1, target_modules=["o_proj"], bias="none"
        ),
    }
    return get_peft_model(model, config[kind]()) if kind in config else model


def variant(name: str, args: argparse.Namespace) -> Variant:
    """Build one."""
    model = adapted(
        base_model(args.layers, getattr(torch, args.dtype), args.quantization),
        name.partition("+")[0],
    )
    gates = gate.install(model, "all") if "+gate" in name else {}
    heads = (
        Heads(WIDTH, [5, 6, 7, 8, 9], "triality", seed=0).to(DEVICE) if "+heads" in name else None
    )
    model.enable_input_require_grads()
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective = Objective(model, heads, use_pet="+pet" in name).train()
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=BETAS, fused=CUDA) if trained else None
    ids = torch.randint(
        10, VOCAB, (args.tokens,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    batch = collate(
        [
            [
                Example(
                    tuple(ids), args.tokens // 3, 0, 0, (args.tokens // 3 + 5, args.tokens // 3 + 8)
                )
            ]
        ],
        0,
    ).to(DEVICE)
    counts = {
        "lm": float(args.tokens),
        "safety": 1.0,
        "authority": 1.0,
        "label": 3.0,
        "pet": float(args.tokens * args.layers),
    }
    weights, bank = Loss(cmd_weight=0.9, safety_weight=0.1, label_weight=0.1), Bank(gates, heads)

    def loss() -> torch.Tensor:
        return weigh(objective(batch), counts, weights, 0.05 if "+pet" in name else 0.0)

    def step() -> None:
        with bank.step():
            loss().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return Variant(loss, step)


def seconds(step: Callable[[], None]) -> float:
    """One step: processor time of this process on a CPU, wall time on CUDA."""
    clock = time.perf_counter if CUDA else time.process_time
    if CUDA:
        torch.cuda.synchronize()
    began = clock()
    step()
    if CUDA:
        torch.cuda.synchronize()
    return clock() - began


def memory(one: Variant) -> float:
    """MiB: the allocator's peak on CUDA.

    On a CPU the storages that the forward pass saves for the backward.
    """
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        one.step()
        return torch.cuda.max_memory_allocated() / 2**20
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        one.loss()
    return sum(saved.values()) / 2**20


def rotations(args: argparse.Namespace, exact: bool) -> tuple[float, float, float]:
    """(ours, PEFT's, median ratio of pairs) of one rotation of o_proj's input with its gradient.

    The exponential or Cayley map is included.
    """
    from peft.tuners.oft.layer import OFTRotationModule

    dtype = getattr(torch, args.dtype)
    x = (
        torch.randn(1, args.tokens, WIDTH, generator=torch.Generator().manual_seed(2))
        .to(DEVICE, dtype)
        .requires_grad_()
    )
    grad = torch.randn_like(x)
    mine = gate.Gate(WIDTH).to(DEVICE)
    torch.nn.init.normal_(mine.theta, std=0.05)
    bank = Bank({0: mine})
    theirs = OFTRotationModule(WIDTH // 8, 28, 8, WIDTH, use_cayley_neumann=not exact).to(DEVICE)
    torch.nn.init.normal_(theirs.weight, std=0.05)

    def ours() -> None:
        with bank.step():
            mine(x).backward(grad)

    def peer() -> None:
        theirs(x.float()).to(dtype).backward(grad)

    ours(), peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(REPEATS)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def line(
    what: str, unit: str, ours: float, peer: float, peer_name: str, ratio: float, runs: int
) -> dict[str, Any]:
    """One figure, as bench/results wants it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = (
        torch.cuda.get_device_name(0)
        if CUDA
        else f"{platform.machine()}, 1 thread, {torch.backends.cpu.get_cpu_capability()}"
    )
    return {
        "bench": "train_step",
        "what": what,
        "unit": unit,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "peer_name": peer_name,
        "ratio": round(ratio, 4),
        "higher_is_better": False,
        "runs": runs,
        "commit": commit,
        "machine": machine,
        "date": datetime.now(UTC).date().isoformat(),
    }


def measure(
    args: argparse.Namespace, names: list[str]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Times by round and memory of every variant; all are warm before the first round."""
    variants = {name: variant(name, args) for name in names}
    saved = {}
    for name, one in variants.items():
        one.step()
        saved[name] = memory(one)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(args.rounds):
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            times[name].append(seconds(variants[name].step))
    return times, saved


def main() -> None:
    """Measure and append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048 if CUDA else 128)
    parser.add_argument("--rounds", type=int, default=20 if CUDA else 5)
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--skip", nargs="*", default=[], help="variants to leave out, such as boft")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [
        n
        for n in ("none", "lora", "lora+gate", "lora+gate+heads+pet", "oft", "boft")
        if n not in args.skip
    ]
    times, saved = measure(args, names)
    shape = f"{args.layers} layers, {args.tokens} tokens, {args.quantization}, {args.dtype}"

    def ratio(ours: str, peer: str) -> float:
        return statistics.median(a / b for a, b in zip(times[ours], times[peer], strict=True))

    middle = {name: statistics.median(times[name]) for name in names}
    lines = [
        line(
            f"step, {name} over lora ({shape})",
            "s",
            middle[name],
            middle["lora"],
            "peft LoRA r16",
            ratio(name, "lora"),
            args.rounds,
        )
        for name in names
        if "+" in name
    ]
    lines += [
        line(
            f"memory, {name} over lora ({shape})",
            "MiB",
            saved[name],
            saved["lora"],
            "peft LoRA r16",
            saved[name] / saved["lora"],
            1,
        )
        for name in names
        if "+" in name
    ]
    extra = [g - base for g, base in zip(times["lora+gate"], times["lora"], strict=True)]
    for peer, label in (
        ("oft", "peft OFT block 8 on o_proj"),
        ("boft", "peft BOFT block 8 on o_proj"),
    ):
        if peer in names:
            theirs = [o - base for o, base in zip(times[peer], times["none"], strict=True)]
            share = statistics.median(a / b for a, b in zip(extra, theirs, strict=True))
            lines.append(
                line(
                    f"added by a rotation ({shape})",
                    "s",
                    statistics.median(extra),
                    statistics.median(theirs),
                    label,
                    share,
                    args.rounds,
                )
            )
    for exact in (False, True):
        ours, theirs, share = rotations(args, exact)
        label = (
            "peft OFT block 8, exact Cayley" if exact else "peft OFT block 8, its default series"
        )
        lines.append(
            line(
                f"a rotation alone, forward and backward "
                f"({args.tokens} tokens x {WIDTH}, {args.dtype})",
                "s",
                ours,
                theirs,
                label,
                share,
                REPEATS,
            )
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(one) + "\n" for one in lines)
    for one in lines:
        print(
            f"{one['what']}: {one['ours']:.4g} against {one['peer']:.4g} {one['unit']} "
            f"({one['peer_name']}), ratio {one['ratio']:.3f}"
        )


if __name__ == "__main__":
    main()
