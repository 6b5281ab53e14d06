"""Which memory format, precision and attention kernel is fastest here: why `precision: auto` is so.

    python -m benchmarks.kernels [--device cuda] [--repeats 7] [--out benchmarks/results/cpu.json]

The candidates of one comparison take turns on the same work, and the table gives medians. Training
steps are forward, backward and AdamW; forwards are without gradients.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks import product, record
from benchmarks.speed.ceilings import DTYPES, FORMATS
from benchmarks.timing import Work, medians
from unnoise.networks.layers import attend

NETWORKS = {  # preset: (image size, channels, batch on a CPU, batch on a GPU)
    "digits": (8, 1, 64, 64),
    "cifar10-small": (32, 3, 32, 256),
    "cifar10": (32, 3, 8, 128),
}
ATTENTION = {  # (batch, heads, tokens, channels per head)
    "cifar10 16x16": (8, 1, 256, 256),
    "iddpm 16x16": (8, 4, 256, 64),
    "cifar10-small 8x8": (32, 2, 64, 32),
    "digits 4x4": (64, 2, 16, 32),
}


def steps(preset: str, device: torch.device, train: bool, dtypes: list[str]) -> dict[str, Work]:
    """One candidate per precision and memory format."""
    size, channels, cpu_batch, gpu_batch = NETWORKS[preset]
    batch = gpu_batch if device.type == "cuda" else cpu_batch
    x = torch.randn(batch, channels, size, size, device=device)
    t = torch.rand(batch, device=device) * 999
    candidates: dict[str, Work] = {}
    for dtype in dtypes:
        for layout, memory_format in FORMATS.items():
            net = product.network(preset, channels, size).to(device, memory_format=memory_format)
            for parameter in net.parameters():  # gradients of a layer at zero would be cheaper
                nn.init.normal_(parameter, std=0.02)
            optimizer = torch.optim.AdamW(net.parameters(), fused=True)
            autocast = torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "fp32")

            def step(net=net, optimizer=optimizer, autocast=autocast) -> None:
                with autocast:
                    loss = (net(x, t).float() ** 2).mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            def forward(net=net, autocast=autocast) -> None:
                with torch.inference_mode(), autocast:
                    net(x, t)

            candidates[f"{dtype} {layout}"] = step if train else forward
    return candidates


def attentions(device: torch.device, shape: tuple[int, ...], dtype: str) -> dict[str, Work]:
    """SDPA, the plain formula and what unnoise takes, forward and backward."""
    q, k, v = (
        torch.randn(shape, device=device, dtype=DTYPES[dtype], requires_grad=True) for _ in range(3)
    )
    kernels = {
        "sdpa": lambda: nn.functional.scaled_dot_product_attention(q, k, v),
        "plain": lambda: torch.softmax(q @ k.transpose(-1, -2) * shape[-1] ** -0.5, dim=-1) @ v,
        "ours": lambda: attend(q, k, v),
    }
    return {
        name: lambda kernel=kernel: kernel().float().sum().backward()
        for name, kernel in kernels.items()
    }


def run(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of every candidate, by comparison."""
    dtypes, found = ["fp32", "bf16"], {}
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        dtypes.append("fp16")
    for preset in NETWORKS:
        for what, train in (("train step", True), ("forward", False)):
            works = steps(preset, device, train, dtypes)
            found[f"{what}, {preset}"] = medians(works, repeats, device)
    for name, shape in ATTENTION.items():
        for dtype in dtypes:
            works = attentions(device, shape, dtype)
            found[f"attention {dtype}, {name}"] = medians(works, repeats * 3, device)
    return {what: {name: 1000 * sec for name, sec in one.items()} for what, one in found.items()}


def table(results: dict[str, dict[str, float]]) -> str:
    """Milliseconds, the fastest in bold."""
    rows = []
    for what, values in results.items():
        fastest = min(values, key=lambda name: values[name])
        texts = {name: f"{name} {record.short(ms)}" for name, ms in values.items()}
        texts[fastest] = f"**{texts[fastest]}**"
        rows.append((what, " · ".join(texts.values())))
    return record.markdown(["work", "median ms"], rows)


def main() -> None:
    parser = record.flags(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    flags = parser.parse_args()
    device = torch.device(flags.device)
    results = run(device, flags.repeats)
    print(table(results))
    about = record.about("benchmarks.kernels", device)
    record.write(flags.out, {**about, "repeats": flags.repeats, "median_ms": results})


if __name__ == "__main__":
    main()
