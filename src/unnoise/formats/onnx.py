"""A model as ONNX: its network as a graph, and its sampling as a table of plain numbers.

Every solver of the ODE is linear in the noise and the predicted x0: whatever it does on a grid, the
network's next input is a weighted sum of the noise and of all predictions so far. A *plan* lists
these weights, which are found by running the solver itself on unit vectors. So whoever reads it
needs no schedule, no parameterization and no solver (docs/export.md has the reader).
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unnoise import build
from unnoise.config import SampleConfig, to_dict
from unnoise.diffusion import samplers
from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.levels import Level
from unnoise.diffusion.parameterizations import determinant
from unnoise.errors import ConfigError, UsageError
from unnoise.files import replacing
from unnoise.model import Model
from unnoise.networks.network import cast_weights
from unnoise.settings import TUNED_NAMES

OPSET = 20
SEEDS, NOISE_BYTES = 64, 1 << 22
"""The noise of the first SEEDS seeds is kept, or of fewer that take NOISE_BYTES."""
STEPS = (5, 10, 20, 50)
"""Plans are made for these steps of the model's own sampler, besides its own and the tuned."""
FILES = ("model.onnx", "model.json", "noise.npy")


def export(model: Model, out: Path, half: bool, settings: Mapping[str, Any]) -> None:
    """Write the folder `out` with FILES; `half` stores the weights as fp16.

    UsageError where the folder holds other files, ConfigError for what cannot be exported.
    """
    claim_folder(out, FILES)
    write_folder(out, files(model, half, settings))


def files(
    model: Model, half: bool, settings: Mapping[str, Any], name: str | None = None
) -> dict[str, bytes]:
    """The content of FILES; `name` is the model's, for people."""
    said = record(model, settings)
    said |= {} if name is None else {"name": name}
    numbers = io.BytesIO()
    np.save(numbers, noise(model))
    text = json.dumps(said).encode()  # what cannot be sampled is told before the long work
    return dict(zip(FILES, (network(model, half), text, numbers.getvalue()), strict=True))


def write_folder(out: Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder of files, whole or not at all."""
    with replacing(out) as folder:
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)


def claim_folder(folder: Path, names: Collection[str]) -> None:
    """UsageError where `folder` is a file, or holds files besides those of these names."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if folder.exists() and (not folder.is_dir() or there - set(names)):
        kind = f"a folder with {min(there - set(names))}" if folder.is_dir() else "a file"
        raise UsageError(f"--out: {folder} is {kind}; expected a new folder")


class _Plain(nn.Module):
    """The network without its learned variance, which no solver of the ODE needs."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.network(x, t, label)[:, : self.channels]


def check_installed() -> None:
    """ConfigError where the extra [onnx] is not installed."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        fix = "install it with: pip install 'unnoise[onnx]'"
        raise ConfigError(f"export: needs the package {missing[0]}; {fix}")


def network(model: Model, half: bool) -> bytes:
    """The network as ONNX: x (n, c, h, w), t (n,) and label (n,) -> output (n, c, h, w)."""
    check_installed()
    shape = model.shape
    net = _Plain(cast_weights(model.network, torch.float32), shape.channels).eval()
    example = torch.zeros(2, shape.channels, shape.height, shape.width), torch.zeros(2)
    example += (torch.zeros(2, dtype=torch.int64),) if shape.num_classes else ()
    names = ["x", "t", "label"][: len(example)]
    batch = torch.export.Dim("n", min=1)
    log = logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                net, example, None, dynamo=True, opset_version=OPSET, verbose=False,
                input_names=names, output_names=["output"],
                dynamic_shapes={name: {0: batch} for name in names},
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        why = str(error).strip().splitlines()[0]
        raise ConfigError(f"export: this network cannot be written as ONNX ({why})") from error
    finally:
        log.setLevel(level)
    graph: Any = program.model_proto  # pyright: ignore[reportOptionalMemberAccess]
    if any(not value.type.tensor_type.shape.dim[0].dim_param for value in graph.graph.input):
        fix = "expected x.shape[0], which can be traced, not len(x)"
        raise ConfigError(f"export: the network fixes the number of images; {fix}")
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces
    if half:
        _halve(graph)
    return graph.SerializeToString()


def _halve(model: Any) -> None:
    """Store the weights of a graph as fp16, each with a cast; ConfigError beyond its range."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.raw_data) < 256:
            continue
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(values).all():
            expected = "expected smaller weights, or full precision"
            raise ConfigError(f"half: {tensor.name} is beyond fp16's 65504; {expected}")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def record(model: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What model.json says: shape, classes, process, settings and plans."""
    return {
        "made_by": "unnoise",
        "weights": model.weights_hash,
        "shape": to_dict(model.shape),
        "classes": model.names[: model.shape.num_classes],
        "diffusion": to_dict(model.config.diffusion),
        "sample": to_dict(model.settings(**settings)),
        "plans": plans(model, settings),
    }


def plans(model: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plans by name: first that of the settings, then those tuned and those of other STEPS."""
    own = model.settings(**settings)
    found = {f"{own.sampler}, {len(model.grid(own)) - 1} steps": plan(model, own)}
    for name in [name for name in TUNED_NAMES if name in model.tuned]:
        rest = {key: value for key, value in settings.items() if key == "guidance_scale"}
        tuned = model.settings(**rest, sampler=name)
        found[f"{name}: {tuned.sampler}, {tuned.steps} steps"] = plan(model, tuned)
    for steps in STEPS:
        with suppress(ConfigError):  # more steps than the schedule has
            other = plan(model, model.settings(**{**settings, "steps": steps, "noises": ()}))
            found.setdefault(f"{own.sampler}, {steps} steps", other)
    return found


def plan(model: Model, chosen: SampleConfig) -> dict[str, Any]:
    """The calls of the network that sampling takes, and the weights of the picture.

    ConfigError for a sampler that draws noise on the way, or is not linear.
    """
    grid = model.grid(chosen)
    options = build.sampler_options(chosen, model.diffusion, grid)
    if samplers.stochastic(chosen.sampler, grid, options):
        raise ConfigError(
            f"sample.sampler: {chosen.sampler!r} draws noise on the way, which an export cannot; "
            "expected a solver of the ODE: --sampler unipc_2, ddim, .."
        )
    if chosen.dynamic_threshold:
        got = f"got {chosen.dynamic_threshold:g}, which an export cannot"
        raise ConfigError(f"sample.dynamic_threshold: {got}; expected 0")
    terms = 1 + samplers.evaluations(chosen.sampler, len(grid) - 1)
    proof = torch.randn(terms, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = torch.cat([torch.eye(terms, dtype=torch.float64), proof[:, None]], dim=1)
    axes = axes[:, None, None, None]  # the noise and then each predicted x0, as images (1, 1, 1, m)
    calls: list[dict[str, Any]] = []

    def weights(x: Tensor) -> list[float]:
        *found, sum_of_proof = x.flatten().tolist()
        if not math.isclose(
            sum_of_proof, float(proof @ torch.tensor(found, dtype=torch.float64)), abs_tol=1e-6
        ):
            got = f"{chosen.sampler!r} is not linear in its predictions, which an export needs"
            raise ConfigError(f"sample.sampler: {got}; expected ddim, unipc_2, ..")
        return [float(f"{weight:.9g}") for weight in found[: len(calls) + 1]]

    def denoiser(x_t: Tensor, level: Level) -> Prediction:
        call, x0 = _call(model, chosen, level), axes[len(calls) + 1]
        calls.append({**call, "weights": weights(x_t)})
        return Prediction(x0, (x_t - level.alpha * x0) / level.sigma)

    *_, last = samplers.walk(
        chosen.sampler, denoiser, grid, lambda: axes[0], options, grid[0].sigma * axes[0]
    )
    clip = 1.0 if chosen.clip_x0 else None
    return {"clip": clip, "calls": calls, "weights": weights(last.x)}


def _call(model: Model, chosen: SampleConfig, level: Level) -> dict[str, float]:
    """How the network is called at a level, and what its output means there."""
    diffusion, (low, high) = model.diffusion, chosen.guidance_interval
    c = diffusion.coefficients(level)
    det = determinant(c, level)
    noise = level.sigma / level.alpha if level.alpha > 0 else 1e9
    return {
        "alpha": float(level.alpha),
        "sigma": float(level.sigma),
        "t": float(diffusion.time_scale * diffusion.schedule.network_time(level)),
        "input_scale": float(c.input_scale),
        "x0_of_x": float(c.b / det),
        "x0_of_output": float(-level.sigma / det),
        "guidance": chosen.guidance_scale if low <= noise <= high else 1.0,
    }


def noise(model: Model) -> np.ndarray:
    """The command line's noise of the seeds 0, 1, ..: float32 (n, c, h, w)."""
    shape = model.shape
    bytes_each = 4 * shape.channels * shape.height * shape.width
    seeds = range(max(1, min(SEEDS, NOISE_BYTES // bytes_each)))
    return model.noise(seeds).normal().cpu().numpy()
