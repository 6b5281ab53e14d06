"""The network as sampling calls it: weights rounded once, deep features kept between steps, calls recorded as CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unnoise.networks.layers import Upsample


def cast_weights(network: nn.Module, dtype: torch.dtype, channels_last: bool = False) -> nn.Module:
    """A copy whose convolutions and matrices hold their weights in `dtype`, as autocast would round them at every call.

    Under autocast to `dtype` its outputs are the network's own, bit for bit (in another memory format to rounding).
    """
    network = copy.deepcopy(network)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for module in network.modules():
        if isinstance(module, Upsample):
            module.prepare(dtype)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
    return network


class DeepCache(nn.Module):
    """A network whose levels below full size are computed at every `interval`-th call and otherwise taken from the last.

    They change slowly from step to step (Ma et al. 2024, DeepCache). A call at a later time than the one before it, or of another
    batch size, begins another walk and computes them.
    """

    def __init__(self, network: nn.Module, interval: int) -> None:
        super().__init__()
        self.network, self.interval = network, interval
        self.features: Tensor | None = None
        self.now, self.age = 0.0, 0

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        now = float(time.max())
        kept, self.age = self.features, self.age + 1
        if kept is not None and (
            self.age >= self.interval or now > self.now or len(kept) != len(x)
        ):
            kept = None
        self.now = now

        def deep(compute: Callable[[], Tensor]) -> Tensor:
            if kept is not None:
                return kept
            self.features, self.age = compute(), 0
            return self.features

        return self.network(x, time, label, deep)


class Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor, Tensor | None]
    output: Tensor


class Graphed(nn.Module):
    """A network on a GPU whose calls are recorded once per shape and replayed: no time between its kernels.

    The recorded call is made in the autocast mode of the first one.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.recordings: dict[tuple[object, ...], Recording] = {}

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        key = (x.shape, x.dtype, label is None, torch.is_autocast_enabled("cuda"))
        if key not in self.recordings:
            self.recordings[key] = self._record(x, time, label)
        graph, inputs, output = self.recordings[key]
        for place, value in zip(inputs, (x, time, label), strict=True):
            if place is not None and value is not None:
                place.copy_(value)
        graph.replay()
        return output.clone()

    def _record(self, x: Tensor, time: Tensor, label: Tensor | None) -> Recording:
        inputs = (x.clone(), time.clone(), None if label is None else label.clone())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            stream
        ):  # so that libraries choose their algorithms before the recording
            for _ in range(3):
                self.network(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.network(*inputs)
        return Recording(graph, inputs, output)
