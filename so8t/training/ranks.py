"""Several processes train one model: each takes a share of every micro-batch, gradients are summed.

A rank is one of these processes (torch.distributed's term); torchrun and accelerate both set the
environment that is read here. Loss parts are divided by the counts of the whole step before
`backward`, so that the sum over ranks is the gradient of one process with the whole batch, and
every rank holds the same weights after the update.

`shard` spreads the frozen base's layers over the ranks (FSDP). What is trained fits everywhere and
stays whole, so that a checkpoint does not depend on how many processes made it.

Not covered: sharded 4- and 8-bit weights.
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
# How long a rank waits for the others: as long as the slowest evaluation or checkpoint may take.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all that train together: its number, and how many there are."""

    rank: int
    world: int

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: list[Item]) -> list[Item]:
        """This rank's part of a list."""
        return items[self.rank :: self.world]

    def add_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Sum gradients over ranks; a rank without rows adds zeros."""
        if self.world == 1:
            return
        members = list(tensors)
        grads = []
        for tensor in members:
            grad = tensor.grad
            if grad is None:
                # Every rank must bring a buffer of the same length.
                grad = torch.zeros_like(tensor)
            grads.append(grad)
        # One buffer: hundreds of small messages would each wait for the network.
        buffer = torch.cat([grad.float().reshape(-1) for grad in grads])
        dist.all_reduce(buffer)
        pieces = torch.split(buffer, [grad.numel() for grad in grads])
        for tensor, grad, piece in zip(members, grads, pieces, strict=True):
            tensor.grad = piece.reshape(grad.shape).to(grad.dtype)

    def totals(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Each value summed over ranks."""
        if self.world == 1:
            return dict(values)
        # Apple's graphics processors have no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        buffer = torch.tensor(list(values.values()), dtype=dtype, device=device)
        dist.all_reduce(buffer)
        return dict(zip(values, buffer.tolist(), strict=True))

    def largest(self, value: int, device: torch.device) -> int:
        """The largest value of any rank: a stop signal that reached one reaches all."""
        if self.world == 1:
            return value
        buffer = torch.tensor([value], device=device)
        dist.all_reduce(buffer, op=dist.ReduceOp.MAX)
        return int(buffer)

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world > 1:
            dist.barrier()


def shard(
    layers: Iterable[torch.nn.Module],
    trained: Iterable[Tensor],
    device: torch.device,
) -> None:
    """Let every rank hold its share of each layer's frozen weights.

    They are gathered while the layer runs. Every rank must therefore run the same number of passes:
    one without rows runs a pass that counts for nothing (`training.step`).

    Args:
        layers: the decoder's layers.
        trained: tensors that are trained; they stay whole on every rank.
        device: where the layers are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # By identity: `==` compares tensors number by number.
    trained_ids = {id(tensor) for tensor in trained}
    for layer in layers:
        whole = {tensor for tensor in layer.parameters() if id(tensor) in trained_ids}
        fully_shard(layer, mesh=mesh, ignored_params=whole)


def join() -> Ranks:
    """Join the processes that torchrun or accelerate started; without them, train alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(0, 1)
    has_cuda = torch.cuda.is_available()
    backend = "gloo"
    if has_cuda:
        # Otherwise every process would take the first card.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "nccl"
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=TIMEOUT)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Close the group of processes, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_child() -> bool:
    """Whether a launcher started this process."""
    return "WORLD_SIZE" in os.environ


def launch(command: list[str], processes: int) -> None:
    """Run a command as several processes on this machine, and pass SIGINT and SIGTERM on to them.

    Args:
        command: a Python script and its arguments.
        processes: how many.

    Raises:
        Interrupted: a signal came; the children have saved.
        ToolError: a child failed; it has printed its error.
    """
    received: list[int] = []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # `--`: what follows is the stage's own, not torchrun's.
    arguments = [*torchrun, f"--nproc_per_node={processes}", "--", *command]
    with subprocess.Popen(arguments) as child:

        def forward(number: int, _frame: Any) -> None:
            received.append(number)
            child.send_signal(number)

        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, forward)
        try:
            # A signal that was passed on is answered by a checkpoint, which takes its time.
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
