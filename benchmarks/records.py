"""Records of small machines: train for a time, tune, measure; a line that anyone can make again.

    python -m benchmarks.record digits-60s
    python -m benchmarks.record cpu-10m --data-path CIFAR --inception FILE --resnet56 FILE
        --features edm pytorch-fid --references FOLDER
    python -m benchmarks.record cpu-10m --measure-on cuda ..    # WORK/cpu-10m-0/measured.json
    python -m benchmarks.record reproduce LINE [--seed 1] --data-path CIFAR ..
    python -m benchmarks.record render    # docs/records.md

The time becomes a number of images, by the speed of this machine's training steps while nothing
else runs (measured once, before the run). So the run ends after these images whatever else the
machine does, may be stopped and resumed, and its weights are the same bit for bit on the same
processor with the same versions. Each is a line of benchmarks/results/record.jsonl, known by its
weights.

`reproduce` trains a line again and compares the weights: 0 where they are the same, 1 where they
should be and are not. On another processor, or with other versions, they differ. Then it measures
the model as the line's was, with the line's solver, and compares the numbers once three seeds are
trained there, each by a command: 0 where the line's lie within the seeds' spread, 1 where not, 2
where three seeds are not there yet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import torch

import unnoise
from benchmarks import product, record
from benchmarks.timing import Plan, measure, spread, take
from unnoise import Model, RunConfig, tuning
from unnoise.config import to_dict
from unnoise.data.images import grid, save_png
from unnoise.environment import describe
from unnoise.errors import ConfigError, UserError
from unnoise.precision import choose
from unnoise.reading import from_dict
from unnoise.units import seconds

RUNS = {
    "digits-60s": ("digits", "60s"),
    "cpu-10m": ("cifar10-small", "10m"),
    "cpu-1h": ("cifar10-small", "1h"),
    "cpu-6h": ("cifar10-small", "6h"),
}
"""Name -> preset and time."""
LINES = record.ROOT / "benchmarks" / "results" / "record.jsonl"
TUNED, MEASURED = "tuned.safetensors", "measured.json"
PAGE = record.ROOT / "docs" / "records.md"
BUDGETS = (5, 10, 20)
NFE = 10
"""Evaluations of the network for each measured sample, two of which a guided one may take."""
WAY: dict[str, Any] = {"sampler": f"nfe_{NFE}"}
SPEED, SAMPLE_SEC = Plan(rounds=9, tries=3), 2.0
SAME = ("processor", "torch", "threads", "precision", "compile", "source")
"""Where these are equal, so must the weights of a seed be."""
SEEDS, CHANCE = 3, 0.05
"""How many seeds show a spread, and how often it may rule out a line whose numbers are right."""


def speed(config: RunConfig) -> dict[str, float]:
    """Images per second of training steps, by the median of turns, with quartiles."""
    run, state = product.prepared(config)
    step = product.stepper(run, state)
    for _ in range(5):
        step()
    once = take(step).sec
    calls = max(1, round(SAMPLE_SEC / once))
    timings = measure({"step": lambda: take(step, calls=calls)}, SPEED)
    found = spread([config.train.batch_size / sec for sec in timings.sec["step"]])
    return {**found, "disturbed": timings.disturbed}


def configured(name: str, flags: argparse.Namespace) -> tuple[RunConfig, dict[str, Any]]:
    """The run of a name and seed, and the speed that gave its length, measured once for it."""
    preset, duration = RUNS[name]
    base = {"data.path": flags.data_path, "device": "cpu", "seed": flags.seed, **flags.set}
    config = unnoise.preset(preset, base)
    told = json.loads(json.dumps(to_dict(unnoise.override(config, {"data.path": None}))))
    kept = flags.work / f"{name}-{flags.seed}.json"
    found = record.read(kept)
    if found.get("config") != told:
        found = {"images_per_sec": speed(config), "time": duration, "config": told}
        kimg = found["images_per_sec"]["median"] * seconds(duration) / 1000
        steps = round(1000 * kimg / config.train.batch_size)
        found["kimg"] = steps * config.train.batch_size / 1000
        record.write(kept, found)
    return unnoise.override(config, length(found["kimg"])), found


def length(kimg: float) -> dict[str, Any]:
    """The settings of a run of so many thousand images."""
    every = {"train.sample_every_kimg": kimg / 10, "train.checkpoint_every_kimg": kimg / 20}
    return {"train.kimg": kimg, "train.time": None, "train.epochs": None, **every}


def tuned(model: Model, path: Path, trials: int) -> Model:
    """The model with its cheap ways of sampling, kept in a file for these weights and guidance."""

    def known(model: Model, **way: Any) -> tuple[Any, ...]:
        chosen = model.settings(**way)
        return model.weights_hash, chosen.guidance_scale, chosen.guidance_interval

    if not path.exists() or known(unnoise.load(path, "cpu"), **WAY) != known(model):
        settings, rows = tuning.tune(model, BUDGETS, evaluations=trials)
        print(tuning.table(rows), flush=True)
        model.with_tuned(settings).save(path)
    return unnoise.load(path, "cpu")


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """What a line keeps of an evaluation."""
    classes, copying, bound = found["classes"], found["copying"], found["likelihood"].get("bound")
    return {
        "num": found["samples"]["num"],
        "distances": {
            one["extractor"]: {
                key: one["samples"].get(key)
                for key in ("frechet", "interval", "kernel", "precision", "recall")
            }
            for one in found["distances"]
        },
        "read_right": classes and classes["overall"]["share"],
        "right_by_class": classes
        and {name: one["share"] for name, one in classes["per_class"].items()},
        "bits_per_dim": bound and bound["bits_per_dim"],
        "copies": copying and copying["summary"],
    }


def measured_samples(folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """The numbers of a tuned model's samples, kept in a file: a GPU's come back in it."""
    kept = folder / MEASURED
    model = unnoise.load(folder / TUNED, flags.device or "cpu")
    if before := record.read(kept):
        way, keys = model.settings(**WAY), ("weights", "noises", "guidance_scale")
        asked = flags.num, model.weights_hash, list(way.noises), way.guidance_scale
        there = before["samples"]["num"], *(before["model"][key] for key in keys)
        measured = {"auto", *(one["extractor"] for one in before["distances"])}
        if asked == there and measured.issuperset(flags.features):
            return before
    data = unnoise.override(model.config.data, {"path": flags.data_path})
    if flags.resnet56 and data.source == "cifar10":
        os.environ["RESNET56"] = str(flags.resnet56)
        judge = "benchmarks.resnet56:logits"
    else:
        judge = None
    found: dict[str, Any] = {}
    for features in flags.features:  # what is measured again is of the same samples, and added
        known = flags.references / f"{data.source}-{features}.npz"
        found = unnoise.evaluate(
            model, folder, flags.num, WAY, data, features=(features,),
            reference=known if known.exists() else None, inception=flags.inception,
            classifier=judge,
        )  # fmt: skip
    record.write(kept, found)
    return found


def make(name: str, flags: argparse.Namespace) -> None:
    """Train, tune, measure, and add the line; on another device, only measure."""
    if flags.device:
        measured_samples(flags.work / f"{name}-{flags.seed}", flags)
        return
    config, found = configured(name, flags)
    folder = flags.work / f"{name}-{flags.seed}"
    trained = unnoise.train(config, folder)
    model = tuned(trained, folder / TUNED, flags.tune)
    measured = measured_samples(folder, flags)
    weights = trained.record["weights"]
    picture = LINES.parent / f"record-{name}-{weights[:12]}.png"
    save_png(picture, grid(model.sample(100, **WAY), columns=10), {"unnoise": model.weights_hash})
    lines = read()
    known = [line["weights"] for line in lines]
    place = known.index(weights) if weights in known else len(lines)
    about = record.about("benchmarks.record", torch.device("cpu"))
    line = {
        "name": name, "seed": flags.seed, "kimg": found["kimg"],
        "images_per_sec": found["images_per_sec"], "set": flags.set,
        "config": to_dict(unnoise.override(config, {"data.path": None})),
        "weights": weights, "training": model.record["training"],
        "parameters": sum(p.numel() for p in model.network.parameters()), "nfe": NFE,
        "sampling": model.record["tuned"][WAY["sampler"]], "where": describe(model.arithmetic),
        "measured_on": measured["environment"]["device"],
        "commit": about["commit"], "date": about["date"], **numbers(measured),
    }  # fmt: skip
    write([*lines[:place], line, *lines[place + 1 :]])


def read() -> list[dict[str, Any]]:
    """All lines; a new one comes last, as others are known by their numbers."""
    lines = LINES.read_text().splitlines() if LINES.exists() else []
    return [json.loads(line) for line in lines]


def write(lines: list[dict[str, Any]]) -> None:
    """All lines, and the page."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    temporary = LINES.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(LINES)
    render()


def reproduce(number: int, flags: argparse.Namespace) -> int:
    """Train a line again and compare; the exit code."""
    if flags.set:
        raise ConfigError("--set: got changes, expected none; a line has its own settings")
    lines = read()
    if not 1 <= number <= len(lines):
        raise ConfigError(f"line: got {number}, expected 1 to {len(lines)}, as in docs/records.md")
    line = lines[number - 1]
    torch.set_num_threads(line["where"]["threads"])
    seed = line["seed"] if flags.seed is None else flags.seed
    config = from_dict(RunConfig, line["config"])
    config = unnoise.override(config, {"data.path": flags.data_path, "seed": seed})
    there = line["where"] | {"source": record.source(line["commit"])}
    here = describe(choose(config)) | {"source": record.source(record.commit())}
    kind = hashlib.sha256(repr([here[key] for key in SAME]).encode()).hexdigest()
    folder = flags.work / f"again-{line['weights'][:12]}-{kind[:8]}" / str(seed)
    model = unnoise.train(config, folder)
    other = [f"{key} {here[key]} for {there[key]}" for key in SAME if here[key] != there[key]]
    other += [f"seed {seed} for {line['seed']}"] if seed != line["seed"] else []
    same = model.record["weights"] == line["weights"]
    said = f"line {number}: {'' if same else 'not '}the same weights"
    print(f"{said}, and need not be: {'; '.join(other)}" if other else said, flush=True)
    if same or not other:
        return 0 if same else 1
    model.with_tuned({WAY["sampler"]: line["sampling"]}).save(folder / TUNED)
    flags.features = flags.features or [*line["distances"]] or ["none"]
    flags.num = line["num"] if flags.num is None else flags.num
    measured_samples(folder, flags)
    found = measured_seeds(folder.parent)
    about = record.about("benchmarks.record", torch.device("cpu"))
    record.write(flags.out, {**about, "line": judged(line), "seeds": found})
    return within(judged(line), found)


def judged(line: dict[str, Any]) -> dict[str, float]:
    """The numbers by which two trainings are compared; distances only of equally many samples."""
    found = {"held-out loss": line["training"]["held_out_loss"],
             "bits/dim": line["bits_per_dim"], "read right": line["read_right"]}  # fmt: skip
    for name, one in line["distances"].items():
        keys = ("frechet", "kernel", "precision", "recall")
        found |= {f"{name} {key}, {line['num']:,} samples": one[key] for key in keys}
    return {name: value for name, value in found.items() if value is not None}


def measured_seeds(folder: Path) -> dict[int, dict[str, float]]:
    """The numbers of each seed in the folder of a line that was trained again."""
    found = {}
    for kept in folder.glob(f"*/{MEASURED}"):
        evaluation = record.read(kept)
        found[int(kept.parent.name)] = judged(evaluation["model"] | numbers(evaluation))
    return dict(sorted(found.items()))


def within(line: dict[str, float], found: dict[int, dict[str, float]]) -> int:
    """Compare a line's numbers with those of the seeds; the exit code."""
    print(f"number: the line's; again, of {', '.join(f'seed {seed}' for seed in found)}")
    compared, verdicts = {name for seed in found.values() for name in seed if name in line}, []
    for name, value in line.items():
        values = [seed[name] for seed in found.values() if name in seed]
        said = f"{name}: {value:.4g}; {' · '.join(f'{v:.4g}' for v in values) or 'not measured'}"
        if len(values) >= SEEDS and len(set(values)) > 1:  # equal ones have no spread to judge by
            low, high = expected(values, CHANCE / len(compared))
            verdicts.append(low <= value <= high)
            said += f": {'within' if verdicts[-1] else 'NOT within'} {low:.4g} to {high:.4g}"
        print(said)
    if not verdicts:
        print(f"a spread needs {SEEDS} seeds: the same command with another --seed trains one more")
        return 2
    return 0 if all(verdicts) else 1


def expected(values: list[float], chance: float) -> tuple[float, float]:
    """Where one more of such values lies, but for this chance: mean +- t s sqrt(1 + 1 / n)."""
    from scipy import stats  # not there on a bare GPU machine, which only measures

    n, spread_of = len(values), statistics.stdev(values)
    away = float(stats.t.ppf(1 - chance / 2, n - 1)) * spread_of * math.sqrt(1 + 1 / n)
    return statistics.fmean(values) - away, statistics.fmean(values) + away


def row(number: int, line: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a line."""
    by = [
        f"{name} {one['frechet']:.2f} ({one['interval'][0]:.2f} to {one['interval'][1]:.2f})"
        for name, one in line["distances"].items()
    ]
    right = "" if line["read_right"] is None else f"{line['read_right']:.1%}"
    rate = line["images_per_sec"]["median"]
    return (
        str(number), f"{line['name']}, seed {line['seed']}", f"{line['kimg']:,.1f}", f"{rate:,.0f}",
        "; ".join(by), f"{line['num']:,} x {line['nfe']}",
        f"{line['sampling']['guidance_scale']:g}", right,
        f"{line['where']['processor']}, threads: {line['where']['threads']}, {line['date']}",
    )  # fmt: skip


def render() -> None:
    """Write the table of the page anew, between its marks."""
    head = ["line", "run", "thousand images", "images/s, quiet", "Fréchet distance (95 %)",
            "samples x evaluations", "guidance", "classes read right", "machine, date"]  # fmt: skip
    table = record.markdown(head, [row(i, line) for i, line in enumerate(read(), 1)])
    before, rest = PAGE.read_text().split("<!-- lines -->\n")[0:2]
    after = rest.split("<!-- end of lines -->\n")[1]
    marked = f"<!-- lines -->\n{table}\n<!-- end of lines -->\n"
    PAGE.write_text(before + marked + after)


def main() -> int:
    parser = record.flags(__doc__)
    add = parser.add_argument
    add("what", choices=(*RUNS, "reproduce", "render"))
    add("line", nargs="?", type=int, help="number of a line of docs/records.md")
    add("--seed", type=int, help="default: 0, or the line's")
    add("--work", type=Path, default=Path("runs/records"))
    add("--data-path")
    add("--inception", type=Path)
    add("--resnet56", type=Path)
    add("--references", type=Path, default=Path("references"),
        help="folder of the training images' statistics, such as cifar10-edm.npz")  # fmt: skip
    add("--features", nargs="+", help="default: auto, or those of the line")
    add("--num", type=int, help="samples; default: 50000, or the line's number")
    add("--measure-on", dest="device", metavar="DEVICE",
        help="only measure the tuned model of --work, there: cuda")  # fmt: skip
    add("--tune", type=int, default=40_000, help="evaluations for each budget of a new line")
    add("--set", type=json.loads, default={}, metavar="JSON", help="changes of the preset")
    flags = parser.parse_args()
    try:
        return run(flags)
    except UserError as error:
        parser.exit(2, f"{error}\n")


def run(flags: argparse.Namespace) -> int:
    """What was asked for; the exit code."""
    if flags.what == "reproduce":
        return reproduce(1 if flags.line is None else flags.line, flags)
    if flags.what == "render":
        render()
    else:
        flags.features, flags.seed = flags.features or ["auto"], flags.seed or 0
        flags.num = 50_000 if flags.num is None else flags.num
        make(flags.what, flags)
    return 0
