"""Copies of training images: where the level of `unnoise.evaluation.memorization` stands, and what it finds in models.

    python -m benchmarks.copying real|changed|digits|overfit [--data-path CIFAR] [--mnist-path MNIST] [--resnet56 WEIGHTS]

- real: held-out images against the training images of their set (MNIST where its path is given), and CIFAR-10's training
  images against the others; with --resnet56 also how many test images that classifier reads right.
- changed: 100 training images of CIFAR-10, changed: how many of them are still copies.
- digits: 1,000 samples of the bundled model, as it comes and unguided, and their classes by an SVM.
- overfit: 300 samples of models trained on 40 digits alone, for --kimg thousand images each, in the folder --out.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import unnoise
from benchmarks.digits_quality import Judge
from benchmarks.resnet56 import ResNet56
from unnoise.data.dataset import ImageData, load
from unnoise.data.images import save_png, to_pil
from unnoise.evaluation.classes import class_accuracy, class_distances
from unnoise.evaluation.memorization import Copying, Level, Neighbours, copying

HELD_OUT = {"digits": 297, "mnist": 2000, "cifar10": 1017}  # looked at, the first ones
UNGUIDED = {"steps": 25, "guidance_scale": 1.0}


def some(array: np.ndarray | None, start: int, count: int) -> Tensor:
    return torch.from_numpy(np.asarray(array)[start : start + count].copy())


def real(arguments: argparse.Namespace) -> None:
    print(
        "| real images | against | nearest | 1 % | median | ratio | near copies | copies |\n"
        + "|---" * 8
        + "|"
    )
    paths = {"digits": None, "mnist": arguments.mnist_path, "cifar10": arguments.data_path}
    for name in [name for name, path in paths.items() if path or name != "mnist"]:
        data = load(unnoise.DataConfig(source=name, path=paths[name]))
        n, images = (
            data.num_train,
            some(data.images, data.num_train, min(HELD_OUT[name], arguments.images)),
        )
        real_row(
            f"{name}, {len(images):,} held out | {n:,} train", copying(images, data.images[:n])
        )
        if name == "cifar10":
            count = min(42_000, arguments.images)
            real_row(
                f"{name}, train 1 to {count:,} | the other {n - 1:,}", without_itself(data, count)
            )
            if arguments.resnet56:
                network = ResNet56(arguments.resnet56)
                predicted = network.classes(network.features(images))
                print(
                    f"\nread by ResNet-56: {read(predicted, some(data.labels, n, len(images)), data)}"
                )


def without_itself(data: ImageData, count: int) -> Copying:
    """The first training images against the others: an image is no neighbour of itself, nor its mirror image."""
    found = copying(
        some(data.images, 0, count), data.images[: data.num_train], level=Level(neighbours=51)
    )
    near, others = found.pixels, found.pixels.indices != torch.arange(count)[:, None]
    parts = [
        part[others].reshape(count, 50) for part in (near.distances, near.indices, near.flipped)
    ]
    return replace(found, level=Level(), pixels=Neighbours(*parts))


def real_row(name: str, found: Copying) -> None:
    d, copies = found.pixels.distances[:, 0], len(found.copies)
    figures = f"{d.min():.1f} | {d.quantile(0.01):.1f} | {d.median():.1f} | {found.pixels.ratios.min():.2f}"
    print(
        f"| {name} | {figures} | {near_copies(found)} | {copies} ({copies / len(d):.2%}) |",
        flush=True,
    )


def near_copies(found: Copying) -> str:
    return f"{found.to_dict()['near_copies']['pixels'][0]:.1%}"


def read(predicted: Tensor, labels: Tensor, data: ImageData) -> str:
    found = class_accuracy(predicted, labels, data.class_names)
    each = [
        f"{c} {s.right} of {s.count}"
        for c, s in zip(data.class_names, found.per_class, strict=True)
    ]
    low, high = found.overall.interval
    return f"{found.overall.right:,} of {found.overall.count:,} ({low:.1%} to {high:.1%}) right: {', '.join(each)}"


def changed(arguments: argparse.Namespace) -> None:
    data = load(unnoise.DataConfig(source="cifar10", path=arguments.data_path))
    random = torch.Generator().manual_seed(1)
    rows = torch.randperm(data.num_train, generator=random)[: min(100, arguments.images)]
    print("| changed by | rms | copies | near copies | right image |\n|---|---|---|---|---|")
    for name, x in changes(torch.from_numpy(np.array(data.images[rows.numpy()])), random):
        found = copying(x.round().clamp(0, 255).to(torch.uint8), data.images[: data.num_train])
        rms, right = (
            found.pixels.distances[:, 0].mean(),
            (found.pixels.indices[:, 0] == rows).double().mean(),
        )
        copies = f"{len(found.copies) / len(rows):.0%} | {near_copies(found)}"
        print(f"| {name} | {rms:.1f} | {copies} | {right:.0%} |", flush=True)


def changes(images: Tensor, random: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    x = images.float()
    yield "nothing", x
    yield "mirror", x.flip(-1)
    yield "±1 grey level", x + torch.randint(-1, 2, x.shape, generator=random)
    for level in (2, 4, 6, 8, 10, 12, 16):
        yield f"noise of {level} grey levels", x + level * torch.randn(x.shape, generator=random)
    for quality in (95, 75, 50):
        yield f"JPEG quality {quality}", torch.stack([jpeg(image, quality) for image in images])
    yield "contrast times 0.9", (x - 127.5) * 0.9 + 127.5
    yield "10 grey levels brighter", x + 10
    yield "blurred by 3 x 3", F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    yield "moved by 1 pixel", torch.cat([x[..., :1], x[..., :-1]], -1)


def jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    to_pil(image).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()


def digits(arguments: argparse.Namespace) -> None:
    judge, model, data = Judge(), unnoise.load("digits"), load(unnoise.DataConfig(source="digits"))
    n, count = data.num_train, min(1000, arguments.images)
    train, held_out = some(data.images, 0, n), some(data.images, n, 297)
    sides = {"held out": held_out, "default": model.sample(count, batch_size=250)}
    sides["DDIM 25, unguided"] = model.sample(count, batch_size=250, **UNGUIDED)
    compared(sides, train, held_out)
    for name, images in sides.items():
        labels = some(data.labels, n, 297) if name == "held out" else torch.arange(count) % 10
        pixels, real_pixels = (x.flatten(1).double() / 255 for x in (images, train))
        predicted = torch.from_numpy(judge.classifier.predict(pixels.numpy()))
        found = class_distances(
            (pixels, labels), (real_pixels, some(data.labels, 0, n)), data.class_names
        )
        distances = (
            f"{c.class_name} {'-' if c.distance is None else f'{c.distance:.2f}'}" for c in found
        )
        print(
            f"\n{name}, read by the SVM: {read(predicted, labels, data)}; Fréchet distances: {', '.join(distances)}"
        )


def compared(sides: dict[str, Tensor], train: Tensor, held_out: Tensor) -> None:
    print(
        "| | copies | near copies | median | closer | C_T | below held-out's 1 % · 5 % |\n"
        + "|---" * 7
        + "|"
    )
    for name, images in sides.items():
        found = copying(images, train, held_out)
        c, copies = (
            found.to_dict()["pixels"],
            f"{len(found.copies)} of {len(images):,} | {near_copies(found)}",
        )
        below = f"{c['below_percentile_1']:.1%} · {c['below_percentile_5']:.1%}"
        print(
            f"| {name} | {copies} | {c['median']:.1f} | {c['closer']:.1%} | {c['c_t']:+.1f} | {below} |"
        )


def overfit(arguments: argparse.Namespace) -> None:
    data, pictures = load(unnoise.DataConfig(source="digits")), arguments.out / "forty"
    train, held_out = some(data.images, 0, 40), some(data.images, data.num_train, 297)
    for number, image in enumerate(train):
        save_png(pictures / f"{number:02d}.png", image, {})
    how = {
        "data.source": str(pictures),
        "data.channels": 1,
        "data.image_size": 8,
        "data.held_out": 0.0,
    }
    how |= {"train.epochs": None, "train.time": None, "train.ema_halflife_kimg": 1.0}
    sides = {"held out": held_out}
    for kimg in arguments.kimg:
        model = unnoise.train("digits", arguments.out / f"forty-{kimg}", how | {"train.kimg": kimg})
        sides[f"{kimg} kimg"] = model.sample(min(300, arguments.images), batch_size=100, **UNGUIDED)
    compared(sides, train, held_out)


def main() -> None:
    parts = {part.__name__: part for part in (real, changed, digits, overfit)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=parts)
    for name in ("--data-path", "--mnist-path", "--resnet56"):
        parser.add_argument(name)
    parser.add_argument("--images", type=int, default=50_000, help="look at fewer in a row")
    parser.add_argument("--kimg", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--out", type=Path, default=Path("runs/copying"))
    arguments = parser.parse_args()
    parts[arguments.part](arguments)


if __name__ == "__main__":
    main()
