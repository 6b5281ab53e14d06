"""Models of other packages that are damaged, or that want more than to be read.

All are imported. None may run anything (a file or folder `canary` proves it), write anything, or
take more memory than what it holds; but for a few sound ones, each ends in one line.
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import unnoise.formats  # noqa: F401  (before the forks)
from tests.attacks.harness import Attack, Ending, Expected
from tests.formats import test_lucidrains
from tests.formats.snapshots import (
    FIXTURE,
    Call,
    Name,
    parameter,
    persistent,
    pickled,
    snapshot,
    storage,
    tensor,
    weights,
)
from unnoise import cli

MOST_BYTES = 400 << 20
"""More than any of these files needs, and less than what the hostile ones ask for."""
CONV = "model.enc.8x8_conv.weight"
UNET = json.loads((Path(__file__).parent.parent / "fixtures/diffusers-unet.json").read_text())
HINTS = (
    "ema_model.betas",
    "input_blocks.0.0.weight",
    "time_embed.0.weight",
    "head.weight",
    "step",
    "ema",
    "net_model",
)
"""Keys by which formats know their files."""
RUN = "open('canary', 'w').close()"
GADGETS: dict[str, Any] = {
    "os.system": Call("os.system", ("touch canary",)),
    "posix.system": Call("posix.system", ("touch canary",)),
    "os.mkdir": Call("os.mkdir", ("canary",)),
    "eval": Call("builtins.eval", (RUN,)),
    "exec": Call("builtins.exec", (RUN,)),
    "subprocess.Popen": Call("subprocess.Popen", (["touch", "canary"],)),
    "pathlib": Call("pathlib.Path.touch", (Call("pathlib.PosixPath", ("canary",)),)),
    "getattr": Call("builtins.getattr", (Name("os.path"), "os")),
    "a dotted name": Name("collections.OrderedDict.fromkeys"),
    "attrgetter": Call("operator.attrgetter", ("__class__.__mro__",)),
    "partial": Call("functools.partial", (Name("os.system"), "touch canary")),
    "import_module": Call("importlib.import_module", ("antigravity",)),
    "runpy": Call("runpy.run_path", ("code.py",)),
    "torch.load": Call("torch.load", ("inner.pt",)),
    "torch.hub": Call("torch.hub.load", (".", "code")),
    "numpy.load": Call("numpy.load", ("inner.npy", None, True)),
    "rebuild_from_type": Call(
        "torch._tensor._rebuild_from_type_v2", (Name("os.system"), Name("builtins.str"), ("x",), {})
    ),
    "a storage that is a pickle": Call(
        "torch.storage._load_from_bytes", (pickled(Call("os.system", ("touch canary",))),)
    ),
    "a module with a state": Call(
        "torch.nn.modules.linear.Linear", (), {"__setstate__": Name("os.system")}, new=True
    ),
    "a new function": Call("types.FunctionType", (b"", {}), new=True),
    "an escape in its name": Name("os.\x1b[31mred"),
    "a long name": Name("os." + "x" * 10**6),
}


def attacks(shared: Path) -> Iterator[Attack]:
    """Pickles of all kinds, archives, safetensors, JSON, and things that are no files."""
    yield from _gadgets()
    yield from _pickles()
    yield from _snapshots()
    yield from _archives()
    yield from _trainers()
    yield from _safetensors()
    yield from _json()
    yield from _places()


def _importing(path: str, *more: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = cli.main(["import", path, "--out", "m.safetensors", *more])
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if used > MOST_BYTES:
        raise MemoryError(f"it took {used >> 20} MB")
    raise SystemExit(code)


def _unharmed(ending: Ending) -> str | None:
    here = ending.folder
    if (here / "canary").exists() or (here.parent / "canary").exists():
        return "it ran"
    made = (here / "m.safetensors").exists()
    return "a file after an error" if made and ending.code else None


def _file(
    name: str, path: str, content: bytes | Callable[[Path], object], expected: Expected = "refused",
    *more: str,
) -> Attack:  # fmt: skip
    """Import one file (or, below unet/, a folder of diffusers with it)."""

    def prepare(here: Path) -> None:
        (here / "code.py").write_text(RUN)
        target = here / path
        if path.startswith("unet/"):
            _folder(here / "unet")
        content(target) if callable(content) else target.write_bytes(content)

    act = partial(_importing, path.partition("/")[0], *more)
    return Attack(f"{path}: {name}", act, expected, prepare, _unharmed)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(UNET["config"]))
    (path / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')


BIN, SAFE = "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors"
PKL = "network-snapshot-000001.pkl"


def unet() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.1 for name, shape in UNET["shapes"].items()}


def saved(value: Any) -> bytes:
    """As torch.save writes it, in an archive."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def zipped(pickle: bytes, method: int = zipfile.ZIP_STORED, **parts: bytes) -> bytes:
    """An archive of torch.save with this pickle; `parts` are other members of it."""
    file = io.BytesIO()
    members = {"data.pkl": pickle, "byteorder": b"little", "version": b"3\n", "data/0": bytes(16)}
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in (members | parts).items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def four() -> bytes:
    """The pickle of a tensor of four numbers, as torch.save writes it."""
    with zipfile.ZipFile(io.BytesIO(saved({"conv_in.weight": torch.zeros(4)}))) as archive:
        return next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))


@cache
def bomb(name: str) -> bytes:
    """An archive whose member of this name has 500 MB of zeros, which its pickle asks for."""
    file, count = io.BytesIO(), b"J" + (125 * 10**6).to_bytes(4, "little")
    pickle = four().replace(b"K\x04tq", count + b"tq").replace(b"K\x04\x85", count + b"\x85")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/version", b"3\n")
        if name != "data.pkl":
            archive.writestr("archive/data.pkl", pickle)
        with archive.open(f"archive/{name}", "w") as member:
            for _ in range(500):
                member.write(bytes(10**6))
    return file.getvalue()


def legacy(pickle: bytes) -> bytes:
    """As torch.save wrote before its version 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [pickled(v) for v in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join([*head, pickle, pickled([])])


def hinted(value: Any) -> dict[str, Any]:
    """A dictionary that has a value under the keys of all formats."""
    return dict.fromkeys(HINTS, value)


def _gadgets() -> Iterator[Attack]:
    for number, (name, gadget) in enumerate(GADGETS.items()):
        content = pickled(hinted(gadget))
        yield _file(name, PKL, pickled({"ema": gadget}))
        yield _file(f"{name}, nested", PKL, snapshot({**weights(), CONV: gadget}))
        yield _file(name, BIN, zipped(content))
        others = (
            (PKL, pickled({"ema": 1, "loss_fn": [gadget]})), (BIN, legacy(content)),
            ("ema_0.9999_030000.pt", zipped(content)), ("model-10.pt", legacy(content)),
            ("model.pth", zipped(content)), ("ckpt.pt", content),
        )  # fmt: skip
        for path, other in (others[number % 6], others[(number + 3) % 6]):
            yield _file(f"{name}, another way", path, other)


def _deep(depth: int) -> bytes:
    return b"\x80\x04" + b"(" * depth + b"t" * depth + b"."


def _laughs(opening: bytes = b"]\x94") -> bytes:
    """A list that holds a list twice, and so on: 2^40 in the end."""
    levels = b"".join(b"]\x94(h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(40))
    return b"\x80\x04" + opening + levels + b"."


OPCODES: dict[str, bytes] = {
    "INST": b"(S'touch canary'\nios\nsystem\n.",
    "OBJ": b"\x80\x04(cos\nsystem\nX\x0c\x00\x00\x00touch canaryo.",
    "GLOBAL and REDUCE": b"cos\nsystem\n(S'touch canary'\ntR.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
    "EXT1": b"\x80\x04\x82\x01.",
    "a persistent id": b"\x80\x04X\x0c\x00\x00\x00touch canaryQ.",
    "PERSID": b"Pcanary\n.",
    "a memo of 2^28": b"\x80\x04Nr\x00\x00\x00\x10.",
    "bytes of 2^62": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".",
    "bytes of 8 GB": b"\x80\x04\x8e" + (2**33).to_bytes(8, "little") + b".",
    "a bytearray of 8 GB": b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".",
    "text of 2^62": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b".",
    "a frame of 2^62": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
    "an integer of 2^31 bytes": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "10^6 digits": b"I" + b"9" * 10**6 + b"\n.",
    "10^5 tuples deep": _deep(10**5),
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "2^40 lists": _laughs(),
    "bad UTF-8": b"\x80\x04\x8c\x04\xff\xfe\xfd\xfc.",
    "protocol 99": b"\x80\x63N.",
    "no stop": b"\x80\x04N",
    "an empty stack": b"\x80\x04.",
    "marks alone": b"\x80\x04" + b"(" * 1000 + b".",
    "a state of a function": b"\x80\x04ccollections\nOrderedDict\n}X\x08\x00\x00\x00__call__Nsb.",
    "a state of a class": b"\x80\x04ccollections\nOrderedDict\n(N}X\x07\x00\x00\x00__new__Nstb.",
    "a list as a key": b"\x80\x04}]Ns.",
    "zeros": bytes(10**6),
    "text": b"import os; os.mkdir('canary')\n",
    "HTML": b"<!doctype html><html></html>",
}


def _pickles() -> Iterator[Attack]:
    for name, content in OPCODES.items():
        yield _file(name, PKL, content)
        yield _file(name, BIN, zipped(content))
        yield _file(f"{name}, legacy", BIN, legacy(content))
    for name, content in (("", b""), ("a plain pickle", pickled(hinted(1)))):
        for path in (PKL, BIN, SAFE, "a.pt", "a.pth", "a.safetensors", "a.bin", "a.ckpt"):
            yield _file(name or "empty", path, content)


def _snapshots() -> Iterator[Attack]:
    """Pickles in EDM's layout: allowed names alone, with what they are not meant for."""
    yield _file("source that would run", PKL, snapshot(), "done")
    whole, tiny = snapshot(), torch.zeros(4)
    for percent in (1, 5, 20, 50, 80, 95, 99):
        yield _file(f"cut at {percent} %", PKL, whole[: len(whole) * percent // 100])
    views: dict[str, tuple[Any, ...]] = {
        "10^12 numbers": (0, (10**12,), (1,)),
        "10^12 copies of one": (0, (10**6, 10**6), (0, 0)),
        "a negative offset": (-1, (4,), (1,)),
        "an offset of 2^62": (2**62, (4,), (1,)),
        "an offset of 2^70": (2**70, (4,), (1,)),
        "a negative stride": (3, (4,), (-1,)),
        "negative sizes": (0, (-2, -2), (1, 1)),
        "sizes whose product is 2^64": (0, (2**32, 2**32), (1, 1)),
        "texts for sizes": (0, ("8", "1"), (1, 1)),
        "halves for sizes": (0, (0.5, 8.0), (1.0, 1.0)),
        "65 dimensions": (0, (1,) * 65, (1,) * 65),
        "10^5 dimensions": (0, (1,) * 10**5, (1,) * 10**5),
        "more sizes than strides": (0, (2, 2), (1,)),
        "no numbers": (0, (0, 10**12), (1, 1)),
    }
    for name, view in views.items():
        of_tiny = parameter(tensor(tiny, storage(tiny), *view))
        yield _file(f"a tensor with {name}", PKL, snapshot({**weights(), CONV: of_tiny}))
    big = storage(torch.zeros(250_000))
    shared = {f"model.a{n}.weight": parameter(tensor(tiny, big, 0, (250_000,), (1,)))
              for n in range(500)}  # fmt: skip
    yield _file("500 tensors of one storage", PKL, snapshot({**weights(), **shared}))
    for name, content in {
        "nothing": b"", "half": storage(tiny).args[0][:200], "a zip": saved(tiny),
        "a bomb": bomb("data/0"), "itself": whole, "a number": pickled(3),
        "2^40 numbers": legacy(
            b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
            b"X\x03\x00\x00\x00cpu\x8a\x06\x00\x00\x00\x00\x00\x01NtQ."
        ),
    }.items():  # fmt: skip
        of = Call("torch.storage._load_from_bytes", (content,))
        yield _file(f"a storage that is {name}", PKL, snapshot({**weights(), CONV: parameter(
            tensor(torch.zeros(8, 1, 3, 3), of))}))  # fmt: skip
    yield from _arguments()


def _arguments() -> Iterator[Attack]:
    laughs: list[Any] = []
    for _ in range(40):
        laughs = [laughs, laughs]
    for key, value in (
        ("model_channels", 10**9), ("model_channels", 10**400), ("model_channels", 99_996),
        ("model_channels", -8), ("model_channels", "x"), ("model_channels", 8.5),
        ("channel_mult", [1000] * 16), ("channel_mult", []), ("channel_mult", laughs),
        ("channel_mult", [1] * 10**5), ("channel_mult", b"12"), ("num_blocks", 1000),
        ("num_blocks", 10**9), ("img_resolution", 4096), ("img_resolution", 10**9),
        ("img_channels", 99_999), ("label_dim", 10**5), ("attn_resolutions", [10**6] * 99),
        ("attn_resolutions", {1: 2}), ("dropout", float("nan")), ("dropout", 1),
        ("sigma_data", 0), ("sigma_data", float("inf")), ("sigma_min", float("nan")),
        ("sigma_min", 1e9), ("sigma_max", -1), ("model_type", "\x1b[31mred"),
        ("model_type", "x" * 10**6), ("model_type", ["SongUNet"]), ("\x1b[31mred", 1),
        ("resample_filter", [0, 0]), ("resample_filter", [1] * 50),
        ("label_dropout", Call("numpy.core.multiarray.scalar", (Call("numpy.dtype", ("O",)), b""))),
    ):  # fmt: skip
        content = snapshot(**{key: value})
        shown = "2^40 lists" if value is laughs else str(value)[:20]
        yield _file(f"{key[:20]} = {shown!r}", PKL, content)
    for kind in ("VPPrecond", "VEPrecond", "iDDPMPrecond", "\x1b[31mred", "os.system"):
        hostile = {"beta_d": 0} if kind == "VPPrecond" else {"sigma_max": 1e-9}
        yield _file(f"class {kind}", PKL, snapshot(None, kind, **hostile))
    for name, change in {
        "NaN": torch.full((8, 1, 3, 3), float("nan")), "another shape": torch.zeros(3, 3),
        "whole numbers": torch.zeros(8, 1, 3, 3, dtype=torch.int8),
        "complex numbers": torch.zeros(8, 1, 3, 3, dtype=torch.complex64), "text": "x",
    }.items():  # fmt: skip
        yield _file(f"weights of {name}", PKL, snapshot({**weights(), CONV: change}))
    state: dict[str, Any] = {"_init_args": (), "_init_kwargs": FIXTURE["arguments"],
                             "_parameters": {}, "_buffers": {}, "_modules": {}}  # fmt: skip
    inner = persistent("Any", state)
    for _ in range(20):
        inner = persistent("Any", {**state, "_modules": {"a": inner, "b": inner}})
    deep = persistent("Any", state)
    for _ in range(20):
        deep = persistent("Any", {**state, "_modules": {"a": deep}})
    of_itself = dict(state)
    of_itself["_modules"] = {"a": Call("torch.nn.modules.container.ModuleDict", (), of_itself)}
    for name, module in {
        "2^20 modules": inner, "modules 20 deep": deep, "a list": [], "no modules": persistent(
            "EDMPrecond", {"_init_args": (), "_init_kwargs": {}}), "arguments by position":
        persistent("EDMPrecond", {**state, "_init_args": (8,)}),
        "modules of numbers": persistent("EDMPrecond", {**state, "_modules": {1: 2}}),
    }.items():  # fmt: skip
        yield _file(name, PKL, pickled({"ema": module}))


def _archives() -> Iterator[Attack]:
    sound = saved(unet())
    yield _file("sound", BIN, sound, "done")
    for percent in (0, 1, 20, 50, 90, 99):
        yield _file(f"cut at {percent} %", BIN, sound[: len(sound) * percent // 100])
    pickle = four()
    huge = pickle.replace(b"K\x04\x85", b"J\x00\x00\x00\x40\x85")
    copies = huge.replace(b"K\x01\x85", b"K\x00\x85")
    elsewhere = pickle.replace(b"X\x01\x00\x00\x000", b"X\x0d\x00\x00\x00../../code.py")
    device = pickle.replace(b"X\x03\x00\x00\x00cpu", b"X\x04\x00\x00\x00meta")
    claims = pickle.replace(b"K\x04tq", b"J\x00\x00\x00\x7ftq")
    contents = {
        "a bomb": bomb("data/0"),
        "a bomb in its pickle": bomb("data.pkl"),
        "a tensor beyond its storage": zipped(huge),
        "copies of one number": zipped(copies),
        "a storage beyond its member": zipped(claims),
        "a storage of ../../code.py": zipped(elsewhere),
        "a storage on another device": zipped(device),
        "no pickle": zipped(b""),
        "only a pickle": zipped(pickle, **{"data/0": b""}),
        "a member ../../canary": zipped(pickle, **{"../../canary": b"x"}),
        "a member /canary": zipped(pickle, **{"/../../../canary": b"x"}),
        "a number": saved(3),
        "a tensor": saved(torch.zeros(3)),
        "a list": saved([torch.zeros(3)] * 3),
        "numbers for names": saved({1: torch.zeros(3)}),
        "text": saved({"conv_in.weight": "x"}),
        "an escape in a name": saved({**unet(), "\x1b[31mred": torch.zeros(3)}),
        "a sparse tensor": saved({**unet(), "conv_in.weight": torch.zeros(8, 27).to_sparse()}),
        "a meta tensor": saved({**unet(), "conv_in.weight": torch.zeros(8, device="meta")}),
        "NaN": saved({**unet(), "conv_in.bias": torch.full((8,), float("nan"))}),
        "another shape": saved({**unet(), "conv_in.bias": torch.zeros(9)}),
        "whole numbers": saved({**unet(), "conv_in.bias": torch.zeros(8, dtype=torch.int64)}),
        "a tar": _tar(),
    }  # fmt: skip
    for name, content in contents.items():
        yield _file(name, BIN, content)
        yield _file(name, "ema_0.9999_030000.pt", content)
        yield _file(name, "model.pth", content)


def _trainers() -> Iterator[Attack]:
    """Checkpoints of lucidrains' Trainer, in part."""
    path, steps = "model-10.pt", 100

    def checkpoint(path: Path, changes: dict[str, Any], **others: Any) -> None:
        test_lucidrains.written(path, None, **others)
        whole = torch.load(path)
        if "ema" not in others:
            whole["ema"] |= {f"ema_model.{name}": value for name, value in changes.items()}
        torch.save(whole, path)

    flags = ("--image-size", "8")
    yield _file("sound", path, partial(checkpoint, changes={}), "done", *flags)
    conv, many = "model.init_conv.weight", torch.zeros(1)
    for name, changes in {
        "NaN": {conv: torch.full((6, 3, 7, 7), float("nan"))},
        "copies of one number": {conv: many.expand(6, 3, 10**5, 10**5)},
        "a wide copy": {"model.time_mlp.1.weight": many.expand(32, 9996)},
        "a sparse tensor": {conv: torch.zeros(6, 3, 7, 7).to_sparse()},
        "a meta tensor": {conv: torch.zeros(6, 3, 7, 7, device="meta")},
        "another shape": {conv: torch.zeros(6, 3, 7, 5)}, "no dimensions": {conv: many[0]},
        "no numbers": {conv: torch.zeros(0, 3, 7, 7)}, "text": {conv: "x"},
        "more channels": {conv: torch.zeros(6, 99_999, 1, 1)},
        "no betas": {"betas": torch.zeros(0)}, "more betas": {"betas": torch.zeros(10**6)},
        "betas of NaN": {"sqrt_recipm1_alphas_cumprod": torch.full((steps,), float("nan"))},
        "betas of 0": {"sqrt_recipm1_alphas_cumprod": torch.zeros(steps)},
        "complex betas": {"sqrt_recipm1_alphas_cumprod": torch.zeros(steps, dtype=torch.cfloat)},
        "infinite weights": {"loss_weight": torch.full((steps,), float("inf"))},
        "huge weights": {"loss_weight": torch.full((steps,), 1e38)},
        "weights of 0": {"loss_weight": torch.zeros(steps)},
        "complex weights": {"loss_weight": torch.zeros(steps, dtype=torch.cfloat)},
        "an escape": {"model.\x1b[31mred": many}, "one more": {"model.more": many},
    }.items():  # fmt: skip
        yield _file(name, path, partial(checkpoint, changes=changes), "refused", *flags)
    for name, ema in {"a list": [many], "a number": 3, "nothing": {}}.items():
        yield _file(f"ema is {name}", path, partial(checkpoint, changes={}, ema=ema), "refused")
    yield _file("no size", path, partial(checkpoint, changes={}), "refused")
    for size in ("0", "-8", "9", "4097", "x", "1e9"):
        words = ("--image-size", size)
        yield _file(f"size {size}", path, partial(checkpoint, changes={}), "refused", *words)


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("../../canary", "storages", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return file.getvalue()


def _header(value: Any, data: bytes = bytes(16)) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + data


def _safetensors() -> Iterator[Attack]:
    sound = save(unet())
    yield _file("sound", SAFE, sound, "done")
    for percent in (1, 20, 50, 99):
        yield _file(f"cut at {percent} %", SAFE, sound[: len(sound) * percent // 100])
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    contents = {
        "a header of 2^63": (2**63).to_bytes(8, "little") + sound[8:],
        "a header of 99 MB": (99 * 10**6).to_bytes(8, "little") + sound[8:],
        "99 MB of spaces": _header(b'{"a":' + b" " * 99_000_000 + b"{}}"),
        "a deep header": _header(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
        "no JSON": _header(b"{{{{{{{{"),
        "a size of 2^62": _header({"a": {**entry, "shape": [2**62]}}),
        "sizes whose product is 2^64": _header({"a": {**entry, "shape": [2**32, 2**32, 4]}}),
        "offsets beyond it": _header({"a": {**entry, "shape": [40], "data_offsets": [0, 160]}}),
        "offsets in reverse": _header({"a": {**entry, "data_offsets": [16, 0]}}),
        "one place for two": _header({"a": entry, "b": entry}),
        "10^5 empty tensors": _header({f"{n}": {**entry, "shape": [0], "data_offsets": [0, 0]}
                                       for n in range(10**5)}, b""),
        "a size of 0 and 10^12": _header(
            {"a": {**entry, "shape": [0, 10**12], "data_offsets": [0, 0]}}, b""
        ),
        "a dtype of its own": _header({"a": {**entry, "dtype": "F8_E9"}}),
        "an escape in a name": save({**unet(), "\x1b[31mred": torch.zeros(3)}),
        "another shape": save({**unet(), "conv_in.bias": torch.zeros(9)}),
        "infinity": save({**unet(), "conv_in.bias": torch.full((8,), float("inf"))}),
        "booleans": save({**unet(), "conv_in.bias": torch.zeros(8, dtype=torch.bool)}),
        "a pickle": pickled(GADGETS["os.system"]),
    }  # fmt: skip
    for name, content in contents.items():
        yield _file(name, SAFE, content)
    yield _file("a header of 2^63", "a.safetensors", contents["a header of 2^63"])


TEXTS = {
    "nothing": b"", "half": b'{"_class_name": ', "a list": b'["_class_name"]',
    "deep": b'{"_class_name": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "10^6 digits": b'{"_class_name": "UNet2DModel", "sample_size": ' + b"9" * 10**6 + b"}",
    "NaN": b'{"_class_name": "UNet2DModel", "sample_size": NaN}',
    "infinity": b'{"_class_name": "UNet2DModel", "sample_size": 8, "dropout": Infinity}',
    "huge": b'{"_class_name": "UNet2DModel", "sample_size": 1000000000}',
    "wide": b'{"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [99999]}',
    "10^6 levels": b'{"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": ['
    + b"8," * 10**6 + b"8]}",
    "an escape": b'{"_class_name": "\\u001b[31mred"}', "bytes": b'\xff\xfe{"_class_name": 1}',
    "UTF-16": '{"_class_name": "x"}'.encode("utf-16"), "NUL": b'"_class_name"' + bytes(99),
    "a path": b'{"_class_name": "../../canary"}',
}  # fmt: skip


def _json() -> Iterator[Attack]:
    for name, text in TEXTS.items():
        for file in ("config.json", "scheduler_config.json", "model_index.json"):

            def write(path: Path, text: bytes = text) -> None:
                path.write_bytes(text)
                (path.parent / SAFE[5:]).write_bytes(save(unet()))

            expected: Expected = "either" if file == "model_index.json" else "refused"
            yield _file(name, f"unet/{file}", write, expected)
    sparse = lambda path: os.truncate(path, 6 << 30) if path.touch() is None else None
    for file in ("config.json", "model_index.json"):
        yield _file("6 GB of zeros", f"unet/{file}", lambda p: (p.unlink(True), sparse(p)))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
    "a link to its folder": lambda path: path.symlink_to("."),
    "20 GB of zeros": lambda path: (path.touch(), os.truncate(path, 20 << 30)),
}


def _places() -> Iterator[Attack]:
    """What is no file, in place of a file."""
    paths = (PKL, BIN, SAFE, "unet/config.json", "unet/scheduler_config.json",
             "unet/model_index.json", "a.pt", "model.pth", "a.safetensors", "a",
             "training-state-000001.pt")  # fmt: skip
    for name, make in PLACES.items():
        for path in paths:

            def instead(target: Path, make: Callable[[Path], object] = make) -> None:
                target.unlink(missing_ok=True)
                make(target)
                if target.name.endswith(".json"):
                    (target.parent / SAFE[5:]).write_bytes(save(unet()))

            # a scheduler or an index that is not there is no error
            either = path in ("unet/scheduler_config.json", "unet/model_index.json")
            yield _file(name, path, instead, "either" if either else "refused")
    for path in ("/dev/zero", "/dev/stdin", "/proc/self/mem", "..", "/", "a\0b", "x" * 5000, ""):
        for more in ((), ("--format", "edm"), ("--format", "diffusers")):
            act = partial(_importing, path, *more)
            yield Attack(f"{path[:20]!r} {more}", act, "refused", None, _unharmed)
