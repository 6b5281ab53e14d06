"""What unnoise itself wrote, with something in it that it would never write, and right digests."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.attacks.harness import Attack
from unnoise import checkpoint, records

WRONG: tuple[Any, ...] = (
    None,
    "x",
    -1,
    10**400,
    [],
    {},
    3.5,
    True,
    float("nan"),
    "\x1b[31m",
    10**9,
)
DEEP = "[" * 100_000 + "]" * 100_000
FIXTURE = Path(__file__).parent.parent / "fixtures" / "run-0.1"


def attacks(shared: Path) -> Iterator[Attack]:
    """Model files, then the files of a run folder."""
    yield from _model_files()
    yield from _weights()
    yield from _run_folders()


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a record; of a long list only the first."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (*at, key)
            yield from leaves(part, (*at, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*at, 0))


def changed(record: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The record with one value in place of another."""
    record = copy.deepcopy(record)
    part: Any = record
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    return record


def sealed(path: Path, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Write a model file with the right digests of what it holds."""
    record = {**record, "weights": checkpoint.fingerprint(tensors)}
    record["record"] = checkpoint._digest(record)  # pyright: ignore[reportPrivateUsage]
    save_file(tensors, path, {"unnoise": json.dumps(record)})


def _model_files() -> Iterator[Attack]:
    path = records.bundled()["digits"]
    record, tensors = records.read_record(path), load_file(path)
    places = [at for at in leaves(record) if at[-1] not in ("weights", "record")]
    for i, at in enumerate(places):
        for value in (WRONG[i % len(WRONG)], WRONG[(5 * i + 3) % len(WRONG)]):
            write = lambda here, a=at, v=value: sealed(
                here / "m.safetensors", tensors, changed(record, a, v)
            )
            name = f"{'.'.join(map(str, at))} = {str(value)[:9]!r}"
            sample = ("sample", "m.safetensors", "-n", "1", "--steps", "2")
            words = sample if i % 3 else ("info", "m.safetensors")
            yield Attack(f"{words[0]}: {name}", words, "either", write)
    for key, value in (
        ("base_channels", 10**9),
        ("channel_multipliers", [1] * 3000),
        ("blocks_per_level", 10**8),
    ):
        if key in record["config"]["network"]:
            at = ("config", "network", key)
            write = lambda here, a=at, v=value: sealed(
                here / "m.safetensors", tensors, changed(record, a, v)
            )
            yield Attack(
                f"a network with {key} {str(value)[:12]}",
                ("sample", "m.safetensors", "-n", "1"),
                "refused",
                write,
            )
    for at in ((), ("config",), ("shape",), ("training",), ("tuned",)):
        for key in ("\x1b[31mred", "unknown", "a" * 5000):
            extra = partial(_with_extra, tensors, record, at, key)
            yield Attack(
                f"info: {'.'.join(at)} with {key[:8]!r}", ("info", "m.safetensors"), "either", extra
            )


def _with_extra(
    tensors: Any, record: dict[str, Any], at: tuple[str, ...], key: str, here: Path
) -> None:
    record = copy.deepcopy(record)
    part = record
    for name in at:
        part = part.setdefault(name, {})
    if isinstance(part, dict):
        part[key] = "\x1b[31mred"
    sealed(here / "m.safetensors", tensors, record)


def _weights() -> Iterator[Attack]:
    path = records.bundled()["digits"]
    record, tensors = records.read_record(path), load_file(path)
    name = min(tensors)
    changes = {
        "NaN in them": {name: tensors[name] * float("nan")},
        "infinity in them": {name: tensors[name] + float("inf")},
        "another shape": {name: torch.zeros(3, 3)},
        "another type": {name: tensors[name].to(torch.int8)},
        "an escape in a name": {"\x1b[31mred": torch.zeros(2)},
        "one more": {"more": torch.zeros(2)},
    }
    for what, change in changes.items():
        write = lambda here, c=change: sealed(here / "m.safetensors", {**tensors, **c}, record)
        for words in (
            ("sample", "m.safetensors", "-n", "1"),
            ("evaluate", "m.safetensors", "--num", "2", "--features", "tiny"),
        ):
            yield Attack(f"{words[0]}: weights with {what}", words, "refused", write)
    less = {key: value for key, value in tensors.items() if key != name}
    yield Attack("weights without one", ("sample", "m.safetensors", "-n", "1"), "refused",
                 lambda here: sealed(here / "m.safetensors", less, record))  # fmt: skip
    whole = path.read_bytes()
    for count in (0, 7, 8, 9, 100, 5000, len(whole) // 2, len(whole) - 1):
        for command in (
            ("info", "m.safetensors"),
            ("sample", "m.safetensors", "-n", "1"),
            ("export", "m.safetensors"),
        ):
            cut = lambda here, n=count: (here / "m.safetensors").write_bytes(whole[:n])
            yield Attack(f"{command[0]}: the first {count} bytes", command, "refused", cut)
    size = (2**63 - 1).to_bytes(8, "little")
    heads = {"size 2^63": size + whole[8:],
             "no JSON": (9).to_bytes(8, "little") + b"{{{{{{{{{" + bytes(99),
             "deep JSON": len(DEEP).to_bytes(8, "little") + DEEP.encode(),
             "HTML": b"<html>" * 99}  # fmt: skip
    for what, content in heads.items():
        for command in (("info", "m.safetensors"), ("sample", "m.safetensors", "-n", "1")):
            write = lambda here, c=content: (here / "m.safetensors").write_bytes(c)
            yield Attack(f"{command[0]}: a header with {what}", command, "refused", write)


TEXTS = {"nothing": "", "half": '{"a": ', "a list": "[]", "a number": "3", "null": "null",
         "deep": DEEP,
         "400 digits": '{"format": ' + "9" * 5000 + "}", "bytes": "\udcff\udcfe",
         "NUL": "\0" * 99}  # fmt: skip


def _run_folders() -> Iterator[Attack]:
    """config.json, state.json, manifest.json, metrics.jsonl, environment.json, evaluation.json."""
    steps = sorted(p.name for p in (FIXTURE / "checkpoints").iterdir())
    files = ["config.json", "metrics.jsonl", "environment.json", "evaluation.json",
             f"checkpoints/{steps[-1]}/state.json",
             f"checkpoints/{steps[-1]}/manifest.json"]  # fmt: skip
    commands = {"train": ("train", "run", "--kimg", "0.336"), "report": ("report", "run"),
                "info": ("info", "run"), "compare": ("compare", "run", str(FIXTURE))}  # fmt: skip
    for file in files:
        for what, text in TEXTS.items():
            for name, words in commands.items():
                if name == "train" and file in ("environment.json", "evaluation.json"):
                    continue
                if name == "compare" and file != "evaluation.json":
                    continue

                def write(here: Path, file: str = file, text: str = text) -> None:
                    shutil.copytree(FIXTURE, here / "run")
                    (here / "run" / file).write_bytes(text.encode("utf-8", "surrogateescape"))

                yield Attack(f"{name}: {file} is {what}", words, "either", write)
    config = json.loads((FIXTURE / "config.json").read_text())
    state = json.loads((FIXTURE / "checkpoints" / steps[-1] / "state.json").read_text())
    for file, record in (("config.json", config), (f"checkpoints/{steps[-1]}/state.json", state)):
        for i, at in enumerate(leaves(record)):
            if i % 3 == 0:
                write = partial(_write_run, file, changed(record, at, WRONG[i % len(WRONG)]))
                what, value = ".".join(map(str, at)), str(WRONG[i % len(WRONG)])[:9]
                name = f"train: {file.rpartition('/')[2]} {what} = {value!r}"
                yield Attack(name, ("train", "run", "--kimg", "0.336"), "either", write)


def _write_run(file: str, record: Any, here: Path) -> None:
    """The fixture with one record changed, and the manifest made right."""
    import hashlib

    shutil.copytree(FIXTURE, here / "run")
    path = here / "run" / file
    path.write_text(json.dumps(record))
    manifest = path.parent / "manifest.json"
    if manifest.exists():
        told = json.loads(manifest.read_text())
        content = path.read_bytes()
        told["files"][path.name] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        manifest.write_text(json.dumps(told))
