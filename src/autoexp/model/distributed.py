"""One trial on several GPUs: a process for each, every step's rows shared out among them, gradients averaged.

`join` is called once, early. It finds the other processes by torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT) or, with AUTOEXP_GPUS above 1 and none of those, starts them. Rank 0 leads: its clock counts,
and it alone prints and writes files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from autoexp.model.devices import best_device
from autoexp.model.environ import whole_number
from autoexp.model.errors import BadInput, Missing, TrainingFailed
from autoexp.model.peers import GRACE_SECONDS, PEER, Peers, live_with_rank_0

WAIT_SECONDS = 300.0  # how long the others may be late, compiling included
LEAVE_SECONDS = 5.0  # how long they may take to end when all is done
BUCKET_BYTES = 2**26  # averaged in one call: large enough for full speed, small beside a model's activations


def join(environ: Mapping[str, str], logs: Path, lost: Callable[[TrainingFailed], None] = lambda error: None) -> World:
    """The processes that this one trains with; those that it must start write to `logs`/peer-<rank>.log.

    `lost` is told why, in another thread and just before this process ends, when one of those has ended and the
    training, waiting for its GPU, does not notice. Raises BadInput for numbers that are none.
    """
    size = whole_number(environ, "WORLD_SIZE", 1, least=1)
    if size > 1 and environ.get("RANK"):
        store = live_with_rank_0(environ) if environ.get(PEER) else None
        rank, local_rank = whole_number(environ, "RANK", 0), whole_number(environ, "LOCAL_RANK", 0)
        return World(rank, size, local_rank, whole_number(environ, "LOCAL_WORLD_SIZE", 1, least=1), store)
    size = whole_number(environ, "AUTOEXP_GPUS", 1, least=1)
    if size == 1:
        return World()
    if not dist.is_available():
        raise BadInput("this torch was built without torch.distributed", "AUTOEXP_GPUS=1 python train.py")
    peers = Peers(size, environ, logs, lost)
    return World(size=size, local_size=size, store=peers.store, peers=peers)


@dataclass
class World:
    """The processes that train one model. Alone, `size` 1, every method gives back what it was given.

    A method that talks to the others must be called by all of them, in the same order. It raises TrainingFailed when
    one of them has ended, or is more than WAIT_SECONDS late.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # the number of its GPU
    local_size: int = 1  # processes on this machine
    store: Any = None  # where they meet; None: torchrun knows
    peers: Peers | None = None  # in rank 0, when it started the others
    connected: bool = False
    sent: tuple[Any, Tensor] | None = None  # the last message of rank 0, perhaps still under way

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    # --- beginning and end --------------------------------------------------------------------------------------

    def place(self, device: str) -> str:
        """The name of this process's own device when the trial is given `device`; `best` is what is there.

        Raises BadInput for one that cannot be shared out, Missing when there are fewer GPUs than processes.
        """
        name = best_device() if device == "best" else device
        if self.size == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise BadInput(f"{self.size} processes cannot train on {name}", "name cuda or cpu, or unset AUTOEXP_GPUS")
        there = torch.cuda.device_count()
        if there < self.local_size:
            said = f"{self.local_size} processes need a GPU each: there {'is' if there == 1 else 'are'} {there}"
            raise Missing(said, f"AUTOEXP_GPUS={max(there, 1)} python train.py")
        return f"cuda:{self.local_rank}"

    def connect(self, device: torch.device) -> None:
        """Meet the others, once; `device` is this process's own. Small messages go between CPUs, tensors where they
        are."""
        if self.size == 1 or self.connected:
            return
        on_gpu = device.type == "cuda" and dist.is_nccl_available()
        with self._together():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=WAIT_SECONDS),
                device_id=device if on_gpu else None,
                store=self.store,
            )
        self.connected = True

    def close(self, failed: bool = False) -> None:
        """Leave: when all are done or, `failed`, at once. No process that was started from here is left."""
        if self.peers is not None:
            self.peers.over.set()
        if self.connected and not failed:
            with suppress(TrainingFailed):  # what there was to do is done
                self.barrier()
                dist.destroy_process_group()
        self.connected = False
        if self.peers is not None:
            self.peers.close(0.0 if failed else LEAVE_SECONDS)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say in words what went wrong when the others cannot be reached."""
        try:
            yield
        except RuntimeError as error:
            said = (str(error).strip().splitlines() or [""])[0]
            lost = TrainingFailed(f"the {self.size} processes of the training lost each other: {said}")
            if self.peers is not None:
                lost = self.peers.ended(GRACE_SECONDS) or lost
            raise lost from error

    # --- what a training says to the others ---------------------------------------------------------------------

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the processes. A parameter has one in all of them or in none."""
        self.mean([parameter.grad for parameter in parameters if parameter.grad is not None])

    @torch.no_grad()
    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in a few large calls. Does not wait for a GPU."""
        if self.size == 1:
            return
        under_way = []
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).div_(self.size)
            with self._together():
                under_way.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in under_way:
            with self._together():
                work.wait()
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)])

    @torch.no_grad()
    def broadcast_parameters(self, model: torch.nn.Module) -> None:
        """Give every process the parameters and buffers of rank 0."""
        if self.size == 1:
            return
        for tensor in (*model.parameters(), *model.buffers()):
            whole_tensor = tensor.contiguous()
            with self._together():  # as bytes: not every backend knows every type
                dist.broadcast(whole_tensor.view(-1).view(torch.uint8), 0)
            if whole_tensor is not tensor:
                tensor.copy_(whole_tensor)

    def broadcast(self, *values: float) -> list[float]:
        """What rank 0 gave, in every process. Rank 0 goes on before the others have it, by one message at most."""
        if self.size == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64)
        with self._together():
            if self.sent is not None:
                self.sent[0].wait()
            work = dist.broadcast(message, 0, async_op=True)
            if self.leads:
                self.sent = work, message
                return list(values)
            work.wait()
        return [float(value) for value in message]

    def sum_float64(self, values: Tensor) -> Tensor:
        """The sum over the processes, of the shape of `values`, as float64 on the CPU."""
        total = values.detach().to("cpu", torch.float64, copy=True)
        if self.size > 1:
            with self._together():
                dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is true."""
        return bool(self.sum_float64(torch.tensor(float(flag))) > 0) if self.size > 1 else flag

    def least(self, value: int) -> int:
        """The smallest value of all processes."""
        if self.size == 1:
            return value
        number = torch.tensor(value)
        with self._together():
            dist.all_reduce(number, op=dist.ReduceOp.MIN)
        return int(number)

    def barrier(self) -> None:
        """Wait until all are here."""
        self.any(False)


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in lists of one type and at most BUCKET_BYTES; a larger one is alone."""
    filling: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = filling.setdefault(tensor.dtype, [])
        if bucket and sum(other.nbytes for other in bucket) + tensor.nbytes > BUCKET_BYTES:
            yield bucket
            bucket = filling[tensor.dtype] = []
        bucket.append(tensor)
    yield from filling.values()
