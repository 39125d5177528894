"""Several processes of one training: each takes its share of every micro-batch, and gradients are summed.

Loss parts are divided by the counts of the whole step before `backward`, so that the sum over ranks is the gradient of
one process with the whole batch, and every rank holds the same weights. torchrun and accelerate both set the
environment that is read here. `shard` spreads the frozen base's layers over the ranks (FSDP); what is trained fits everywhere
and stays whole, so that checkpoints do not know how many processes made them. Not covered: sharded 4- and 8-bit weights.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from so8t.errors import Interrupted, ToolError

Item = TypeVar("Item")
TIMEOUT = timedelta(minutes=30)  # the slowest rank's evaluation or checkpoint


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its siblings."""

    rank: int
    world: int

    @property
    def leads(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def share(self, items: list[Item]) -> list[Item]:
        """This rank's part of a list."""
        return items[self.rank :: self.world]

    def add_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Sum gradients over ranks, in one buffer; a rank without rows adds zeros."""
        if self.world == 1:
            return
        members = list(tensors)
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in members]
        buffer = torch.cat([grad.float().reshape(-1) for grad in grads])
        dist.all_reduce(buffer)
        pieces = torch.split(buffer, [grad.numel() for grad in grads])
        for tensor, grad, piece in zip(members, grads, pieces, strict=True):
            tensor.grad = piece.reshape(grad.shape).to(grad.dtype)

    def totals(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Each value summed over ranks."""
        if self.world == 1:
            return dict(values)
        buffer = torch.tensor(
            list(values.values()),
            dtype=torch.float32 if device.type == "mps" else torch.float64,
            device=device,
        )
        dist.all_reduce(buffer)
        return dict(zip(values, buffer.tolist(), strict=True))

    def largest(self, value: int, device: torch.device) -> int:
        """The largest value of any rank: a stop signal that reached one reaches all."""
        return value if self.world == 1 else self._largest(value, device)

    def _largest(self, value: int, device: torch.device) -> int:
        buffer = torch.tensor([value], device=device)
        dist.all_reduce(buffer, op=dist.ReduceOp.MAX)
        return int(buffer)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier()


def shard(
    layers: Iterable[torch.nn.Module], trained: Iterable[Tensor], device: torch.device
) -> None:
    """Let every rank hold its share of each layer's frozen weights; they are gathered while the layer runs.

    Every rank must then run the same number of passes: those without rows run one that counts for nothing (tuning.step).
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = set(trained)
    for layer in layers:
        own = {tensor for tensor in layer.parameters() if any(tensor is one for one in whole)}
        fully_shard(layer, mesh=mesh, ignored_params=own)


def join() -> Ranks:
    """Join the siblings that torchrun or accelerate started; alone without them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(0, 1)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Close the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_child() -> bool:
    """Whether a launcher started this process."""
    return "WORLD_SIZE" in os.environ


def launch(command: list[str], processes: int) -> None:
    """Run this stage again as several processes on this machine, and pass SIGINT and SIGTERM on.

    Raises:
        Interrupted: a signal came; the children have saved.
        ToolError: a child failed; it has printed its error.
    """
    received: list[int] = []
    arguments = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        "--",
        *command,
    ]
    with subprocess.Popen(arguments) as child:

        def forward(number: int, _frame: Any) -> None:
            received.append(number)
            child.send_signal(number)

        before = {
            number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if received:
        raise Interrupted(
            received[0], "stopped; the run is saved", fix="run the same command again: it resumes"
        )
    if code:
        raise ToolError(
            f"one of {processes} training processes failed (exit code {code})",
            where="torchrun",
            fix="its error is above; run the command again to resume",
        )
