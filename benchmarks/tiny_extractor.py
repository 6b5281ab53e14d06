"""Train the small classifier of digits whose features `unnoise evaluate` uses for tiny grey images.

    python -m benchmarks.tiny_extractor    (half a minute; src/unnoise/evaluation/tiny.safetensors)

On the 1,500 training digits alone, each shifted by up to a pixel and changed a little in contrast,
so that the features do not hang on single pixels. Prints the accuracy on the 297 held-out digits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import unnoise
from benchmarks import record
from unnoise.evaluation import tiny

EPOCHS, BATCH = 120, 100


def augmented(x: Tensor, random: torch.Generator) -> Tensor:
    """Shifted by -1, 0 or 1 pixels (0 twice as often), times 0.8 to 1.2."""
    shifts = torch.tensor([-1, 0, 0, 1])[torch.randint(4, (len(x), 2), generator=random)].tolist()
    padded = zip(F.pad(x, (1, 1, 1, 1)), shifts, strict=True)
    moved = torch.stack([image[:, 1 + dy : 9 + dy, 1 + dx : 9 + dx] for image, (dy, dx) in padded])
    return (moved * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1, generator=random))).clamp(0, 1)


def main() -> None:
    parser = record.flags(__doc__)
    parser.set_defaults(out=tiny.WEIGHTS)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    data = unnoise.load_data(unnoise.preset("digits"))
    n, labels = data.num_train, torch.from_numpy(data.labels)
    x = tiny.prepare(torch.from_numpy(data.images.copy()).float())
    network = tiny.TinyNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    steps = EPOCHS * n // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(n, (BATCH,), generator=random)
        logits = network(augmented(x[rows], random))
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        right = (network.eval()(x).argmax(1) == labels).double()
    print(f"read right: training {right[:n].mean():.2%}, held out {right[n:].mean():.2%}")
    save_file(network.state_dict(), out, {"made by": "benchmarks/tiny_extractor.py, seed 0"})
    out.chmod(0o644)
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
