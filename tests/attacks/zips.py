"""Zips of pictures that are damaged, or that want more than to be read."""

from __future__ import annotations

import io
import random
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attacks.harness import Attack, Ending
from tests.attacks.pictures import SIZE, encoded, good


def made(names: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return file.getvalue()


def some(count: int = 6, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}good-{i}.png": encoded("png", seed=i) for i in range(count)}


def attacks(shared: Path) -> Iterator[Attack]:
    """Damage first, then names, then trees that must give their classes."""
    yield from _damaged()
    yield from _members()
    yield from _classes()


def _zip(name: str, content: bytes, expected="refused",
         check: Callable[[Ending], object] | None = None) -> Attack:  # fmt: skip
    write = lambda here: (here / "a.zip").write_bytes(content)
    return Attack(name, ("data", "a.zip", "--size", str(SIZE)), expected, write, check)


def _damaged() -> Iterator[Attack]:
    yield _zip("an empty file", b"")
    yield _zip("a zip of nothing", made({}))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        whole = made(some(), method)
        for percent in (1, 20, 50, 90, 99):
            part = whole[: len(whole) * percent // 100]
            yield _zip(f"method {method} cut at {percent} %", part)
        draw = random.Random(method)
        for i in range(12):
            changed = bytearray(whole)
            for _ in range(1 + 5 * i):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            yield _zip(f"method {method} with changed bytes, {i}", bytes(changed), "either")
        data = bytearray(whole)  # the compressed bytes alone
        data[60:400] = draw.randbytes(340)
        yield _zip(f"method {method} with a damaged member", bytes(data), "done")
        tail = bytearray(whole)  # the directory at the end
        tail[-120:-30] = draw.randbytes(90)
        yield _zip(f"method {method} with a damaged directory", bytes(tail), "either")
    for field, offset, value in (
        ("version 25.5", 6, b"\xff\x00"), ("encrypted", 8, b"\x01\x00"),
        ("method 77", 10, b"\x4d\x00"),
        ("bad UTF-8", 8, b"\x00\x08"), ("size 4 GB", 24, b"\xff\xff\xff\xff"),
        ("date 0", 12, bytes(4)),
        ("offset 4 GB", 42, b"\xf0\xff\xff\xff"), ("name of 0 bytes", 28, b"\x00\x00"),
    ):  # fmt: skip
        content = bytearray(made({**some(5), "\xe9\xe8.png": encoded("png")}))
        at = content.rindex(b"PK\x01\x02")
        content[at + offset : at + offset + len(value)] = value
        yield _zip(field, bytes(content), "either")


def _members() -> Iterator[Attack]:
    many = {**some(), "bomb.png": bytes(300_000_000)}
    yield _zip("a bomb", made(many, zipfile.ZIP_DEFLATED), "done")
    yield _zip("a zip in a zip", made({"inner.zip": made(some())}))
    yield _zip("a zip in a .png", made({**some(), "a.png": made(some())}), "done")
    for name in ("../../escape.png", "/escape.png", "C:\\escape.png", "..\\..\\escape.png",
                 "a/../../escape.png", "\x1b[31mred.png", "x" * 3000 + ".png", "a//b.png",
                 "./a.png", "CON.png", "a\0b.png", " .png", "\u202egnp.png"):  # fmt: skip
        content = made({**some(), name: encoded("png", seed=9), "bad" + name[:99]: b"no"})
        outside = lambda e: [p.name for p in e.folder.parent.parent.glob("escape*")] or None
        yield _zip(f"a member {name[:16]!r}", content, "done", outside)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        for _ in range(2):
            for name, content in some().items():
                archive.writestr(name, content)
    yield _zip("every name twice", twice.getvalue(), "either")
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(twice := io.BytesIO(), "w") as archive:
        archive.writestr(link, "/etc/passwd")
        for name, content in some().items():
            archive.writestr(name, content)
    yield _zip("a link to /etc/passwd", twice.getvalue(), "done", lambda e: "root:" in e.out)


def trees() -> Iterator[tuple[str, Callable[[Path], object], tuple[str, ...]]]:
    """One tree of two classes in several shapes, and other trees with the classes they have."""
    kinds = ("cats", "dogs")
    both = lambda at: [good(at / kind, 4, i) for i, kind in enumerate(kinds)]
    yield "plain", lambda p: both(p), kinds
    yield "wrapped", lambda p: both(p / "animals"), kinds
    yield "train and test", lambda p: (both(p / "train"), both(p / "test")), kinds
    yield "train, val", lambda p: (both(p / "train"), both(p / "val")), kinds
    yield "one stray picture", lambda p: (both(p), good(p, 1, 7)), ("good-0.png",)
    yield "numbers", lambda p: [good(p / n, 3, int(n)) for n in ("1", "10", "2")], ("1", "2", "10")
    yield "none", lambda p: [good(p / n, 3, i) for i, n in enumerate(("all", "none"))], ("none",)
    names = unicodedata.normalize("NFD", "été"), "hiver"
    yield "NFD", lambda p: [good(p / n, 3, i) for i, n in enumerate(names)], ("hiver",)


def _classes() -> Iterator[Attack]:
    for name, make, classes in trees():

        def named(ending: Ending, classes: tuple[str, ...] = classes) -> str | None:
            at = [ending.out.find(each) for each in classes]
            return (
                None
                if -1 not in at and at == sorted(at)
                else f"{classes} are not told: {ending.out}"
            )

        words = ("data", "pictures", "--size", str(SIZE))
        yield Attack(f"a tree: {name}", words, "done", lambda h, m=make: m(h / "pictures"), named)
        for kind, slash in (("zip", "/"), ("zip with backslashes", "\\")):

            def zipped(here: Path, make=make, slash=slash) -> None:
                make(here / "pictures")
                with zipfile.ZipFile(here / "a.zip", "w") as archive:
                    for path in sorted((here / "pictures").rglob("*.png")):
                        inside = path.relative_to(here / "pictures").as_posix()
                        info = zipfile.ZipInfo("x")
                        info.filename = inside.replace("/", slash)
                        archive.writestr(info, path.read_bytes())

            words = ("data", "a.zip", "--size", str(SIZE))
            yield Attack(f"a {kind}: {name}", words, "done", zipped, named)
