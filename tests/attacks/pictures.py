"""Files that are called pictures, among eight good ones."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from tests.attacks.harness import Attack, Check
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, load

SIZE = 16
FORMATS = ("png", "jpg", "webp", "bmp", "gif", "tiff", "ppm")


def good(folder: Path, count: int = 8, seed: int = 0) -> None:
    """Write pictures that are all right."""
    folder.mkdir(parents=True, exist_ok=True)
    random_ = np.random.default_rng(seed)
    for i in range(count):
        pixels = random_.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"good-{i}.png")


def encoded(kind: str, size: int = SIZE, seed: int = 1) -> bytes:
    """The bytes of a picture in a format."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(kind, kind))
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width: int, height: int, depth: int, colour: int, *more: bytes) -> bytes:
    """A PNG's header with any numbers in it, and what follows."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + chunk(b"IEND", b"")


def attacks(shared: Path) -> Iterator[Attack]:
    """Truncated, changed, foreign, huge; and unusual ones that are right."""
    yield from _broken()
    yield from _unusual_files()
    yield from _right()
    yield from _as_argument()


def _report(name: str, write: Callable[[Path], object], expected="done", check: Check | None = None,
            bad: str = "") -> Attack:  # fmt: skip
    """`unnoise data` on the good pictures and what `write` puts among them."""

    def prepare(here: Path) -> None:
        good(here / "pictures")
        write(here / "pictures")

    def skipped(ending) -> str | None:
        told = f"    {bad}: " in ending.out
        return None if told or not bad else f"{bad} was not said to be skipped"

    words = ("data", "pictures", "--size", str(SIZE))
    return Attack(name, words, expected, prepare, check or skipped)


def _bytes(name: str, file: str, content: bytes, skipped: bool = True) -> Attack:
    write = lambda folder: (folder / file).write_bytes(content)
    return _report(name, write, bad=file if skipped else "")


def _broken() -> Iterator[Attack]:
    for kind in FORMATS:
        whole = encoded(kind, 64)
        for percent in (0, 1, 10, 50, 80):
            part = whole[: len(whole) * percent // 100]
            yield _bytes(f"{kind} cut at {percent} %", f"bad.{kind}", part)
        draw = random.Random(kind)
        for i in range(8):  # which may still be a picture
            changed = bytearray(whole)
            for _ in range(1 + 4 * i):
                changed[draw.randrange(min(len(changed), 200))] = draw.randrange(256)
            yield _bytes(f"{kind} with changed bytes, {i}", f"bad.{kind}", bytes(changed), False)
        other = encoded("png" if kind != "png" else "bmp")
        yield _bytes(f"another format in a .{kind}", f"bad.{kind}", other, skipped=False)
    noise = random.Random(0)
    for i in range(10):
        yield _bytes(f"noise, {i}", "bad.png", noise.randbytes(10**i % 5000))
    pixels = chunk(b"IDAT", zlib.compress(bytes(200)))
    for width, height in ((0, 0), (0, 5), (2**31, 1), (20000, 20000), (2**31 - 1, 2**31 - 1)):
        yield _bytes(f"png of {width} x {height}", "bad.png", png(width, height, 8, 2, pixels))
    for depth, colour in ((3, 0), (8, 7), (16, 3), (64, 2)):
        yield _bytes(
            f"png of {depth} bits, kind {colour}", "bad.png", png(4, 4, depth, colour, pixels)
        )
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    yield _bytes("png with a text bomb", "bad.png", png(16, 16, 8, 2, bomb, pixels))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n(pwned) print flush\nshowpage\n"
    for suffix in ("png", "jpg", "webp"):
        yield _bytes(f"EPS in a .{suffix}", f"bad.{suffix}", eps)
    for name, content in FOREIGN.items():
        yield _bytes(f"{name} in a .png", "bad.png", content)


FOREIGN = {
    "HTML": b"<html><script>alert(1)</script></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "PDF": b"%PDF-1.4\n1 0 obj<<>>endobj\n%%EOF",
    "pickle": b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    "zip": b"PK\x03\x04" + bytes(60),
    "ELF": b"\x7fELF" + bytes(200),
    "Windows metafile": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "text": b"not a picture: \x1b[31mred\x07",
}


def _unusual_files() -> Iterator[Attack]:
    def linked(folder: Path, to: str) -> None:
        (folder / "bad.png").symlink_to(to)

    yield _report("a link to nothing", partial(linked, to="nowhere"))
    yield _report("a link to itself", partial(linked, to="bad.png"))
    yield _report("a link to a device", partial(linked, to="/dev/zero"))
    yield _report("a link to the folder", partial(linked, to="."))
    yield _report("a pipe", lambda folder: os.mkfifo(folder / "bad.png"))
    yield _report("a folder called .png", lambda folder: (folder / "bad.png").mkdir())
    for escape in ("\x1b[31mred.png", "bell\x07.png", "line\nbreak.png", "\u202egnp.exe.png"):
        write = lambda folder, name=escape: (folder / name).write_bytes(b"no picture")
        yield _report(f"a name with {escape[:4]!r}", write)
    undecodable = os.fsdecode(b"\xff\xfe.png")
    yield _report("a name that is no UTF-8", lambda f: (f / undecodable).write_bytes(b"no"))
    yield _report("a name of 250 bytes", lambda f: (f / ("x" * 246 + ".png")).write_bytes(b"no"))
    yield _report("folders 60 deep", lambda f: good(f / "/".join(["d"] * 60), 1))
    for name in ("photos.zip.png", "CON.png", "..png", "a.PNG", "%s%n.png", "'; rm -rf .png"):
        yield _report(f"called {name}", lambda f, n=name: (f / n).write_bytes(encoded("png")))
    yield Attack(
        "an empty folder", ("data", "pictures"), "refused", lambda h: (h / "pictures").mkdir()
    )
    only = lambda here: ((here / "pictures").mkdir(), (here / "pictures/a.png").write_bytes(b"no"))
    yield Attack("nothing but a bad picture", ("data", "pictures"), "refused", only)
    text = lambda here: ((here / "pictures").mkdir(), (here / "pictures/a.txt").write_text("no"))
    yield Attack("nothing but text", ("data", "pictures"), "refused", text)


def _loaded(folder: str = "pictures", **options) -> ImageData:
    return load(DataConfig(folder, image_size=SIZE, held_out=0.0, **options))


def _right() -> Iterator[Attack]:
    """Unusual pictures with the pixels that they should have."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    full = ramp.astype(np.uint16) * 257
    rgb = np.stack([ramp, ramp[::-1], ramp.T], -1)
    alpha = np.dstack([rgb, np.full_like(ramp, 255)])
    palette = Image.fromarray(rgb).quantize(64)
    cases: dict[str, tuple[Image.Image, str, np.ndarray]] = {
        "grey": (Image.fromarray(ramp), "png", np.stack([ramp] * 3)),
        "16-bit grey": (Image.fromarray(full), "png", np.stack([ramp] * 3)),
        "16-bit grey TIFF": (Image.fromarray(full), "tiff", np.stack([ramp] * 3)),
        "RGB": (Image.fromarray(rgb), "bmp", rgb.transpose(2, 0, 1)),
        "opaque RGBA": (Image.fromarray(alpha), "png", rgb.transpose(2, 0, 1)),
        "palette": (palette, "png", np.asarray(palette.convert("RGB")).transpose(2, 0, 1)),
        "one bit": (Image.fromarray(ramp > 127), "png", np.stack([(ramp > 127) * 255] * 3)),
        "floats 0..1": (
            Image.fromarray(ramp.astype(np.float32) / 255),
            "tiff",
            np.stack([ramp] * 3),
        ),
    }
    for name, (picture, kind, pixels) in cases.items():

        def prepare(here: Path, picture=picture, kind=kind) -> None:
            (here / "pictures").mkdir()
            picture.save(here / "pictures" / f"a.{kind}")

        def act(pixels=pixels) -> None:
            images = _loaded().images
            assert len(images) == 1 and (images[0] == pixels).all(), images[0]

        yield Attack(f"{name}: its pixels", act, "done", prepare)
    yield Attack("not-a-number pixels", ("data", "pictures"), "refused", _nan)
    five = lambda f: _tiff_of_bands(f / "bad.tiff", 5)
    yield _report("a TIFF of five bands", five, bad="bad.tiff")
    for suffix, kind in (("jfif", "jpg"), ("jpe", "jpg"), ("avif", "avif")):
        found = lambda e: None if "9 images" in e.out else "was passed over"
        write = lambda f, s=suffix, k=kind: (f / f"a.{s}").write_bytes(encoded(k))
        yield _report(f"a .{suffix}", write, check=found)
    named = lambda e: None if ".heic" in e.out else "the ending is not named"
    yield _report("endings that are passed over", lambda f: (f / "a.heic").touch(), check=named)
    yield _report(
        "our own animation", _own_animation, check=lambda e: None if "8 images" in e.out else e.out
    )


def _nan(here: Path) -> None:
    (here / "pictures").mkdir()
    Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(here / "pictures" / "a.tiff")


def _tiff_of_bands(path: Path, bands: int) -> None:
    """An uncompressed TIFF with any number of 8-bit bands, which Pillow cannot write."""
    data = bytes(SIZE * SIZE * bands)
    fields = [(256, 3, 1, SIZE), (257, 3, 1, SIZE), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2),
              (273, 4, 1, 8), (277, 3, 1, bands), (278, 3, 1, SIZE), (279, 4, 1, len(data)),
              (284, 3, 1, 1)]  # fmt: skip
    table = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", *f) for f in fields)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + table + bytes(4))


def _own_animation(folder: Path) -> None:
    import torch

    from unnoise.data.images import grid, save_animation

    frames = [grid(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)) for _ in range(3)]
    save_animation(folder / "denoising.gif", frames, frame_ms=40)
    save_animation(folder / "denoising.webp", frames, frame_ms=40)


def _as_argument() -> Iterator[Attack]:
    """The same files where one picture is asked for."""
    for kind in FORMATS:
        whole = encoded(kind, 64)
        for percent in (0, 50):
            part = whole[: len(whole) * percent // 100]
            write = lambda here, c=part, k=kind: (here / f"bad.{k}").write_bytes(c)
            words = ("edit", "reconstruct", "digits", f"bad.{kind}")
            yield Attack(f"edit a {kind} cut at {percent} %", words, "refused", write)
            yield Attack(
                f"info on a {kind} cut at {percent} %", ("info", f"bad.{kind}"), "refused", write
            )
    for name, text in (("text", "plain"), ("escapes", "\x1b[31mred\x1b]0;title\x07")):
        info = PngImagePlugin.PngInfo()
        info.add_text("unnoise", text)
        write = lambda here, i=info: Image.new("RGB", (9, 9)).save(here / "a.png", pnginfo=i)
        yield Attack(f"info on a png with {name}", ("info", "a.png"), "either", write)
    huge = png(20000, 20000, 8, 2, chunk(b"IDAT", zlib.compress(bytes(200))))
    for command in (("info", "a.png"), ("edit", "image", "digits", "a.png", "-n", "1")):
        write = lambda here: (here / "a.png").write_bytes(huge)
        yield Attack(f"{command[0]} on a png of 20000 x 20000", command, "refused", write)
    for word in (
        "nothing.png",
        "/dev/null",
        "/dev/zero",
        ".",
        "",
        "-",
        "x" * 250,
        "x" * 5000,
    ):
        for command in (("data", word), ("info", word), ("edit", "image", "digits", word)):
            yield Attack(f"{' '.join(command[:2])[:20]!r} {word[:12]!r}", command)
