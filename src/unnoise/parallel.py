"""More than one process: who they are, and what they tell each other. Started by torchrun, on
torch.distributed.

Every process computes the same run: the batch, its noise and its times are defined by image number
for the whole batch, and rank r of n takes images r, r + n, r + 2n, .. of it. So 1, 2 and 4 ranks
see the same images and noise, and a run may go on with another number of ranks.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel as DDP

from unnoise import ranks
from unnoise.networks.network import Network

V = TypeVar("V")

TIMEOUT = timedelta(minutes=30)
"""A rank that is silent for so long counts as dead: the others end, and torchrun starts anew."""


@dataclass(frozen=True)
class World:
    """This process among its like; one alone unless started by torchrun."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def rows(self) -> slice:
        """This rank's part of a batch."""
        return slice(self.rank, None, self.size)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, the same on each."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def broadcast(self, value: Any) -> Any:
        """What rank 0 has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def main_process_first(self, make: Callable[[], V]) -> V:
        """What `make` gives, on rank 0 before the others: it may fill a cache for them."""
        if not self.main:
            self.barrier()
        value = make()
        if self.main:
            self.barrier()
        return value

    def barrier(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


def world() -> World:
    """This process, by the variables that torchrun sets."""
    return World(*ranks.read())


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """The group of all ranks, for as long as they train together; nothing for one process alone."""
    here = world()
    if here.size == 1 or dist.is_initialized():
        yield here
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore(_attempt(store, rank, size), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield here
    finally:
        dist.destroy_process_group()


def _attempt(store: Store, rank: int, size: int) -> str:
    """A name for this start of all ranks, made by rank 0 and agreed with each.

    torchrun keeps its store when it starts the ranks again, and so the addresses of the dead; and
    its count of restarts may differ between machines. Every rank greets with a word of its own, so
    that no answer to an earlier start is taken for one to this.
    """
    mine, ends = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if rank:
        store.set(f"hello/{rank}", mine)
    waiting = set(range(1, size)) if rank == 0 else {rank}
    while waiting:
        for other in sorted(waiting):
            keys = [f"{word}/{other}" for word in ("hello", "welcome", "ready")]
            said = (store.get(key).decode() if store.check([key]) else "" for key in keys)
            hello, welcome, ready = said
            if rank and welcome.startswith(mine):
                store.set(f"ready/{rank}", welcome)
                return welcome.removeprefix(mine)
            if not rank and hello:
                store.set(f"welcome/{other}", hello + mine)
                waiting -= {other} if ready == hello + mine else set()
        if time.monotonic() > ends:
            raise RuntimeError(f"rank {rank}: no answer from ranks {sorted(waiting)} in {TIMEOUT}")
        time.sleep(0.02)
    return mine


def rank_device(name: str) -> str:
    """cuda means this rank's own GPU of its machine."""
    here = world()
    if here.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{here.local_rank}"
    return name


def shard(network: Network) -> None:
    """Cut the parameters over the ranks (FSDP2), in place, before the optimizer is made."""
    for block in network.blocks():
        fully_shard(block)
    fully_shard(network)


def wrap_ddp(network: nn.Module, here: World, device: torch.device) -> nn.Module:
    """DDP averages gradients over the ranks; FSDP's and a lone network stay as they are."""
    if here.size == 1 or isinstance(network, FSDPModule):
        return network
    ids = [device.index] if device.type == "cuda" else None
    return DDP(network, device_ids=ids)


@contextmanager
def sync_gradients(network: nn.Module, now: bool) -> Iterator[None]:
    """Gradients are averaged over the ranks in this backward pass, or only added up on each."""
    network = getattr(network, "_orig_mod", network)  # torch.compile's wrapper
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(now)
    with nullcontext() if now or not isinstance(network, DDP) else network.no_sync():
        yield


def full_tensor(value: Tensor) -> Tensor:
    """A sharded tensor put together (all ranks must ask), another as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor cut as another one is."""
    if isinstance(other, DTensor):
        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
    return value


def local_tensor(value: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, another as it is."""
    return value.to_local() if isinstance(value, DTensor) else value
