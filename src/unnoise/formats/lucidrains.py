"""lucidrains' denoising-diffusion-pytorch, version 2: the checkpoints of its Trainer.

A checkpoint is {step, model, opt, ema, scaler, version}. "model" and, twice, "ema" hold a
GaussianDiffusion: its U-Net, named as in `networks/lucidrains.py`, and the tables of its process,
which tell the schedule and the objective.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unnoise.checkpoint import Tensors
from unnoise.config import DiffusionConfig, SampleConfig
from unnoise.diffusion.losses import MIN_SNR_GAMMA
from unnoise.diffusion.schedules import Discrete, cosine, linear, sigmoid
from unnoise.errors import CheckpointError, ConfigError
from unnoise.files import replacing
from unnoise.formats.imported import Imported, Process, is_tensors, mentions, read_pickle, take
from unnoise.model import Model
from unnoise.networks.config import LucidrainsConfig, Shape
from unnoise.reading import from_dict

VERSION = "2.3.1"
DISCRETE = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}
AVERAGED, TRAINED, UNET = "ema_model.", "online_model.", "model."
OTHERS = {
    "time_mlp.0.weights": "Fourier features of time",
    "classes_emb.weight": "the classes of classifier_free_guidance.py",
    "downs.0.2.fn.norm.g": "the attention of an older version",
}
"""A tensor -> what it belongs to, and unnoise does not have."""
OBJECTIVES: dict[str, Callable[[Any], Any]] = {
    "eps": lambda snr: snr,
    "x0": lambda snr: 1.0,
    "v": lambda snr: snr + 1,
}
"""Parameterization -> what min(SNR, gamma) is divided by in its loss weight."""


def recognises(path: Path) -> bool:
    """Whether a path is a checkpoint of the Trainer."""
    return mentions(path, "ema_model.betas")


def read(path: Path, _flags: str | None = None) -> Imported:
    """Read the averaged weights, the schedule and the objective of a checkpoint."""
    checkpoint = read_pickle(path)
    averaged = checkpoint.get("ema") if isinstance(checkpoint, dict) else None
    if not is_tensors(averaged):
        raise CheckpointError(f"{path}: expected a checkpoint with averaged weights, ema")
    tensors = _within(AVERAGED, averaged)
    weights = _within(UNET, tensors)
    try:
        network, shape, learned = _network(weights)
        process, notes = _process(tensors, learned)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Imported(network, shape, process, weights, lambda _, own: own, notes=notes)


def _within(prefix: str, tensors: Tensors) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _size(tensors: Tensors, name: str, dims: int) -> tuple[int, ...]:
    value = tensors.get(name)
    if value is None or value.ndim != dims or not value.numel():
        got = "is missing" if value is None else f"is {tuple(value.shape)}"
        raise CheckpointError(f"{name} {got}, unlike in version {VERSION}")
    return tuple(value.shape)


def _network(weights: Tensors) -> tuple[LucidrainsConfig, Shape, bool]:
    """The settings of a U-Net with these weights, and whether it predicts the variance."""
    for name, part in OTHERS.items():
        if name in weights:
            raise CheckpointError(f"has {name}: {part} cannot be expressed")
    _, base = _size(weights, "time_mlp.1.weight", 2)
    stem, inputs, *_ = _size(weights, "init_conv.weight", 4)
    outputs, *_ = _size(weights, "final_conv.weight", 4)
    _, heads, _, of_head = _size(weights, "mid_attn.mem_kv", 4)
    if inputs == 2 * outputs:
        raise CheckpointError("self_condition: got True, expected False")
    if outputs not in (inputs, 2 * inputs):
        got = f"got {outputs} for images of {inputs} channels"
        raise CheckpointError(f"out_dim: {got}; expected as many, or twice for learned_variance")
    levels = len({name.split(".")[1] for name in weights if name.startswith("downs.")})
    inner = [_size(weights, f"downs.{n}.3.1.weight", 4)[0] for n in range(levels - 1)]
    widths = [*inner, _size(weights, f"downs.{levels - 1}.3.weight", 4)[0]]
    network = from_dict(LucidrainsConfig, {
        "base_channels": base,
        "channel_multipliers": [width // base for width in widths],
        "stem_channels": None if stem == base else stem,
        "full_attention": [n for n in range(levels) if f"downs.{n}.2.to_out.weight" in weights],
        "attention_heads": heads,
        "attention_head_channels": of_head,
    }, "network.")  # fmt: skip
    return network, Shape(inputs, 0, 0), outputs != inputs


def _process(tables: Tensors, learned: bool) -> tuple[Process, tuple[str, ...]]:
    """The schedule and the objective of the tables, and what the user should know of them."""
    (steps,) = _size(tables, "betas", 1)
    names = ("sqrt_recipm1_alphas_cumprod", "loss_weight")
    noise, weight = (take(tables, name, (steps,)).double().numpy() for name in names)
    usual = (n for n, make in DISCRETE.items() if _equal(noise, np.exp(make(steps).log_noise)))
    if (schedule := next(usual, None)) is None:
        expected = f"those of {', '.join(DISCRETE)} with no schedule_fn_kwargs"
        raise CheckpointError(f"betas: got those of another schedule, expected {expected}")
    objective, weighting, notes = ("eps", "none", ()) if learned else _objective(weight, noise**-2)
    diffusion = DiffusionConfig(
        schedule=schedule,
        timesteps=steps,
        parameterization=objective,
        weighting=weighting,
        variance="learned" if learned else "small",
    )
    return Process(diffusion, SampleConfig(steps=min(50, steps))), notes


def _equal(values: np.ndarray, others: np.ndarray) -> bool:
    """Equality to rounding: the original computes parts of its sigmoid schedule in float32."""
    return np.allclose(values, others, rtol=1e-4, atol=0)


def _objective(weight: np.ndarray, snr: np.ndarray) -> tuple[str, str, tuple[str, ...]]:
    """Parameterization and weighting by the loss weight at each step, and a note."""
    for name, divisor in OBJECTIVES.items():
        clipped = weight * divisor(snr)
        gamma = float(clipped.max())
        if gamma <= 0 or not _equal(clipped, np.minimum(snr, gamma)):
            continue
        if _equal(clipped, snr):  # of eps all are 1
            return name, "none" if name == "eps" else "snr", ()
        said = f"min_snr_gamma was {gamma:g}; training it further uses {MIN_SNR_GAMMA:g}"
        return name, "min_snr", () if abs(gamma - MIN_SNR_GAMMA) < 1e-3 else (said,)
    expected = "that of pred_noise, pred_x0 or pred_v"
    raise CheckpointError(f"loss_weight: got that of no objective, expected {expected}")


def write(model: Model, path: Path) -> None:
    """Write a checkpoint that Trainer.load reads; ConfigError for what its classes cannot be."""
    config, schedule = model.config.diffusion, model.diffusion.schedule
    objectives = ["eps"] if config.variance == "learned" else [*OBJECTIVES]
    if model.config.network.kind != "lucidrains" or model.shape.num_classes:
        got = f"{model.config.network.kind} of {model.shape.num_classes} classes"
        raise ConfigError(f"network.kind: got {got}, expected lucidrains of none")
    if config.parameterization not in objectives or not isinstance(schedule, Discrete):
        got = f"got {config.parameterization} on schedule {config.schedule}"
        expected = f"{', '.join(objectives)} on {', '.join(DISCRETE)}"
        raise ConfigError(f"diffusion.parameterization: {got}; expected {expected}")
    if config.time_scale != 1 or config.variance == "large":
        got = f"got {config.time_scale:g}, and variance {config.variance}"
        raise ConfigError(f"diffusion.time_scale: {got}; expected 1, and small or learned")
    weights = {UNET + name: value.cpu() for name, value in model.network.state_dict().items()}
    gamma = MIN_SNR_GAMMA if config.weighting == "min_snr" else None
    tables = _tables(schedule.alpha_bar, OBJECTIVES[config.parameterization], gamma)
    state = {**weights, **tables}
    adam = torch.optim.Adam(model.network.parameters(), lr=1e-4, betas=(0.9, 0.99))  # its own
    ema = {prefix + name: v for prefix in (AVERAGED, TRAINED) for name, v in state.items()}
    ema |= {"initted": torch.tensor(True), "step": torch.tensor(0)}
    checkpoint = {"step": 0, "model": state, "opt": adam.state_dict(), "ema": ema}
    with replacing(path) as temporary:
        torch.save({**checkpoint, "scaler": None, "version": VERSION}, temporary)


def _tables(alpha_bar: np.ndarray, divisor: Callable[[Any], Any], gamma: float | None) -> Tensors:
    """The tables of a GaussianDiffusion, float32 (T,), by name."""
    before, after = alpha_bar[:-1], alpha_bar[1:]
    betas, snr = 1 - after / before, after / (1 - after)
    variance = betas * (1 - before) / (1 - after)
    tables = {
        "betas": betas,
        "alphas_cumprod": after,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": after**0.5,
        "sqrt_one_minus_alphas_cumprod": (1 - after) ** 0.5,
        "log_one_minus_alphas_cumprod": np.log(1 - after),
        "sqrt_recip_alphas_cumprod": after**-0.5,
        "sqrt_recipm1_alphas_cumprod": snr**-0.5,
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * before**0.5 / (1 - after),
        "posterior_mean_coef2": (1 - before) * (1 - betas) ** 0.5 / (1 - after),
        "loss_weight": np.minimum(snr, gamma or np.inf) / divisor(snr),
    }
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in tables.items()}
