"""A torch module of the user's own as a network, for `unnoise.wrap`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unnoise.errors import ConfigError
from unnoise.networks.config import NetworkConfig, Shape
from unnoise.networks.network import Network


@dataclass(frozen=True)
class WrappedConfig(NetworkConfig):
    """Nothing is known of a module of the user's own."""

    @property
    def kind(self) -> str:
        return "wrapped"


class Wrapped(Network):
    """Any module called as `module(x, time, label)`, as `Network` says; `label` may be None.

    Without classes, one that takes no label is called as `module(x, time)`.
    """

    def __init__(self, module: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.module = module
        self._labels = shape.num_classes > 0 or _takes(module, 3)
        self._widest = 0

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        return self.module(x, time, label) if self._labels else self.module(x, time)

    def widest_bytes(self, height: int, width: int, attention_in_memory: bool) -> int:
        """Bytes of the largest output of a layer, as `measure` has seen it."""
        return self._widest

    def measure(self, shape: Shape, out_channels: int, device: torch.device) -> None:
        """Call the module for one image; ConfigError where that does not give an output F."""
        size = (1, shape.channels, shape.height, shape.width)
        x, zeros = torch.zeros(size, device=device), torch.zeros(1, device=device)
        label = zeros.long() if shape.num_classes else None
        hooks = [module.register_forward_hook(self._see) for module in self.module.modules()]
        arguments = f"x {size}, time (1,)" + ", label" * self._labels
        called = f"wrap: {type(self.module).__name__}({arguments})"
        try:
            with torch.inference_mode():
                out: object = self(x, zeros, label)
        except Exception as error:
            raise ConfigError(f"{called} fails ({type(error).__name__}: {error})") from error
        finally:
            for hook in hooks:
                hook.remove()
        want = (1, out_channels, *size[2:])
        got = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        if got != f"a tensor {want}":
            raise ConfigError(f"{called} gives {got}, expected a tensor {want}")

    def _see(self, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            self._widest = max(self._widest, 4 * output.numel())


def _takes(module: nn.Module, arguments: int) -> bool:
    """Whether a module can be called with so many arguments."""
    try:
        inspect.signature(module.forward).bind(*range(arguments))
    except TypeError:
        return False
    return True
