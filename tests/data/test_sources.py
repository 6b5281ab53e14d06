"""Arrays in files, parquet, the hub, and what says the classes: the same pictures are one data
set wherever they lie."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unnoise
from unnoise.data import cache
from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.errors import ConfigError, DataError
from unnoise.model import _readable

COUNT = 40
PIXELS = np.random.Generator(np.random.Philox(key=3)).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
LABELS = np.arange(COUNT) % 3
KINDS = ("wolf", "ant", "bee")


@pytest.fixture
def read(tmp_path):
    """Load a source at its own 8 x 8 pixels."""

    def reader(source, **changes):
        own = {"image_size": 8, "cache": str(tmp_path / "cache"), **changes}
        return load(DataConfig(source=str(source), **own))

    return reader


def png(index):
    file = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(file, "PNG")
    return file.getvalue()


def kinds_by_pixels(data):
    """Class name of each picture, by its bytes."""
    assert data.labels is not None
    pairs = zip(data.images, data.labels, strict=True)
    return {image.transpose(1, 2, 0).tobytes(): data.class_names[n] for image, n in pairs}


TRUE = {PIXELS[i].tobytes(): KINDS[LABELS[i]] for i in range(COUNT)}
NUMBERS = {PIXELS[i].tobytes(): str(LABELS[i]) for i in range(COUNT)}


# --- .npz and .npy


def test_an_npz_of_any_layout_is_the_data_set_of_its_arrays(tmp_path, read):
    made = unnoise.dataset(PIXELS, LABELS, config=DataConfig(cache=str(tmp_path / "cache")))
    np.savez(tmp_path / "a.npz", PIXELS, LABELS)  # guided-diffusion's arr_0, arr_1
    np.savez_compressed(tmp_path / "b.npz", images=PIXELS.transpose(0, 3, 1, 2), labels=LABELS)
    np.savez(tmp_path / "c.npz", x=PIXELS / np.float32(255), y=LABELS[:, None].astype(np.uint8))
    for name in ("a.npz", "b.npz", "c.npz"):
        data = read(tmp_path / name, image_size=None)
        assert data.fingerprint == made.fingerprint and data.class_names == ("0", "1", "2")
        assert kinds_by_pixels(data) == NUMBERS
    assert any("3 classes; read: arr_0, arr_1" in n for n in read(tmp_path / "a.npz").notes)
    assert not any(path.suffix == ".tmp" for path in (tmp_path / "cache").iterdir())


def test_a_class_without_an_image_is_noted(tmp_path, read):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS + 1)
    data = read(tmp_path / "a.npz")
    assert data.class_names == ("0", "1", "2", "3")
    assert "classes without an image: 1, such as 0" in data.notes


def test_an_npy_is_its_images_in_their_own_size_and_colours(tmp_path, read):
    np.save(tmp_path / "grey.npy", PIXELS[..., 0])
    data = read(tmp_path / "grey.npy", image_size=None)
    assert data.images.shape == (COUNT, 1, 8, 8) and data.labels is None
    assert {p.tobytes() for p in data.images} == {p[..., 0].tobytes() for p in PIXELS}
    assert read(tmp_path / "grey.npy", image_size=16, channels=3).images.shape == (COUNT, 3, 16, 16)
    assert unnoise.preset(str(tmp_path / "grey.npy")).data.image_size == 8


@pytest.mark.parametrize("names", ["x_{}/y_{}", "{}_images/{}_labels"])
def test_the_test_part_of_an_npz_is_held_out_and_nothing_else(tmp_path, read, names):
    image, label = names.split("/")
    parts = {"train": slice(0, 30), "val": slice(30, 34), "test": slice(34, COUNT)}
    arrays = {image.format(k): PIXELS[v] for k, v in parts.items()}
    arrays |= {label.format(k): LABELS[v] for k, v in parts.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    data = read(tmp_path / "a.npz")
    assert (data.num_train, len(data.images)) == (30, COUNT) and kinds_by_pixels(data) == NUMBERS
    trained = {image.transpose(1, 2, 0).tobytes() for image in data.images[:30]}
    assert trained == {p.tobytes() for p in PIXELS[:30]}
    data = read(tmp_path / "a.npz", classes="none")
    assert data.labels is None and data.num_train == 30


@pytest.mark.parametrize(("arrays", "expected"), [
    ({"images": np.array([PIXELS[0], None], object)}, r"cannot be read .*objects.*never pickled"),
    ({"images": PIXELS * 1.0}, "image 0: got floats from 1 to 254, expected 0 to 1"),
    ({"images": PIXELS / 127.5 - 1}, "image 0: got floats from -0.99.* to 0.99.*, expected 0 to 1"),
    ({"images": PIXELS, "labels": LABELS[:-1]}, r"labels int64 \(39,\), expected 40"),
    ({"images": PIXELS, "labels": np.eye(3)[LABELS]}, r"labels float64 \(40, 3\), expected 40"),
    ({"mu": PIXELS}, "got the arrays mu; expected one of images, x, arr_0"),
    ({"images": PIXELS.reshape(COUNT, -1)}, r"image 0: got shape \(192,\)"),
    ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS}, "1 arrays of labels of y_train"),
    ({"images": PIXELS, "labels": LABELS - 1}, r"labels int64 \(40,\) from -1 to 1, expected 40"),
])  # fmt: skip
def test_what_an_npz_cannot_be_is_one_line_with_its_name(tmp_path, read, arrays, expected):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rf"a\.npz: .*{expected}") as error:
        read(tmp_path / "a.npz")
    assert "\n" not in str(error.value) and "Error" not in str(error.value)
    assert not list((tmp_path / "cache").glob("**/*.npy"))


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_no_pickle_is_run_and_damage_is_one_line(tmp_path, read, name):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / name
    save = np.save if name == "a.npy" else np.savez
    save(path, np.array([Evil()], object), allow_pickle=True)
    whole = path.read_bytes()
    for content in (whole, whole[:60], b"", b"no array at all", b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=rf"^{path}: (cannot be read \(.+\)|got the arrays none)"
        ):
            read(path)
    assert not (tmp_path / "ran").exists()


def test_without_classes_no_array_of_labels_is_read(tmp_path, read):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.eye(3)[LABELS])
    data = read(tmp_path / "a.npz", classes="none")
    assert data.labels is None and data.notes == ("no classes; read: images, labels",)


# --- classes


@pytest.fixture
def folder(tmp_path):
    """Pictures in EDM's folders, whose names say nothing of classes."""
    for i in range(COUNT):
        path = tmp_path / "set" / f"{i // 20:05d}" / f"img{i:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return tmp_path / "set"


def as_zip(folder, top=""):
    """The same as a zip, in a folder of its own if told."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, top + file.relative_to(folder).as_posix())
    return folder.with_suffix(".zip")


def test_edms_dataset_json_gives_the_classes_in_folders_and_zips(folder, read):
    names = [f"{i // 20:05d}/img{i:08d}.png" for i in range(COUNT)]
    table = {"labels": [[name, int(n)] for name, n in zip(names, LABELS, strict=True)]}
    (folder / "dataset.json").write_text(json.dumps(table))
    for source in (folder, as_zip(folder), as_zip(folder, "all/")):
        data = read(source)
        assert kinds_by_pixels(data) == NUMBERS
        assert data.notes == ("3 classes, from dataset.json",)
    (folder / "dataset.json").write_text('{"labels": null}')
    data = read(folder)
    assert data.labels is None and data.notes == ("no classes, by dataset.json",)
    assert read(folder, classes="folders").class_names == ("00000", "00001")


SPELLINGS = {
    "path": lambda i: f"{i // 20:05d}/img{i:08d}.png",
    "relative": lambda i: f"./{i // 20:05d}/img{i:08d}.png",
    "windows": lambda i: f"{i // 20:05d}\\img{i:08d}.png",
    "base name": lambda i: f"img{i:08d}.png",
    "no suffix": lambda i: f"img{i:08d}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("head", "row"), [
    ("file_name,label", "{f},{k}"), ("id,breed", "{f},{k}"), ("class;x;image", "{k};1;{f}"),
    ("label\tfilename", '"{k}"\t{f}'), ("label,picture", "{k},{f}"),
])  # fmt: skip
def test_a_csv_gives_the_classes_whatever_its_columns_are_called(folder, read, head, row, spelling):
    name = SPELLINGS[spelling]
    lines = [row.format(f=name(i), k=KINDS[LABELS[i]]) for i in range(COUNT)]
    (folder / "labels.csv").write_text("\r\n".join([head, *lines]), encoding="utf-8-sig")
    data = read(folder)
    assert kinds_by_pixels(data) == TRUE and data.class_names == ("ant", "bee", "wolf")
    assert data.notes == ("3 classes, from labels.csv",)


def test_a_csv_without_a_header_and_one_that_is_named_elsewhere(folder, read, tmp_path):
    rows = [f"img{i:08d}.png,{KINDS[LABELS[i]]}" for i in range(COUNT)]
    (tmp_path / "elsewhere.csv").write_text("\n".join(rows))
    assert kinds_by_pixels(read(folder, classes=str(tmp_path / "elsewhere.csv"))) == TRUE
    first = read(folder, classes=str(tmp_path / "elsewhere.csv")).fingerprint
    rows[0] = rows[0].replace("wolf", "ant")
    (tmp_path / "elsewhere.csv").write_text("\n".join(rows))
    assert read(folder, classes=str(tmp_path / "elsewhere.csv")).fingerprint != first


@pytest.mark.parametrize("table", ["set/00000/t.csv", "t.csv", "beside/t.csv", "absolute"])
def test_a_chosen_csv_names_pictures_by_paths_from_its_own_folder(folder, read, tmp_path, table):
    """Base names are not unique here, so that only the whole path can tell."""
    for i in range(3):
        shutil.copy(folder / "00001" / f"img{20 + i:08d}.png", folder / "00000" / f"{i}.png")
        shutil.copy(folder / "00000" / f"img{i:08d}.png", folder / "00001" / f"{i}.png")
    file = tmp_path / table.replace("set", folder.name).replace("absolute", "x/t.csv")
    file.parent.mkdir(exist_ok=True)
    of = {f"00000/{i}.png": "up" for i in range(3)} | {f"00001/{i}.png": "down" for i in range(3)}
    base = folder if table == "absolute" else None
    names = [str(base / n) if base else os.path.relpath(folder / n, file.parent) for n in of]
    lines = [f"{name},{kind}" for name, kind in zip(names, of.values(), strict=True)]
    file.write_text("\n".join(["file,label", *lines]), encoding="utf-16")  # as Excel saves it
    data = read(folder, classes=str(file))
    assert len(data.images) == 6 and data.class_names == ("down", "up")
    found = kinds_by_pixels(data)
    assert [found[PIXELS[i].tobytes()] for i in (0, 1, 2, 20, 21, 22)] == ["down"] * 3 + ["up"] * 3


def test_a_chosen_csv_below_may_name_pictures_from_the_top_or_in_short(folder, read):
    (folder / "tables").mkdir()
    for name in SPELLINGS.values():
        rows = [f"{name(i)},{KINDS[LABELS[i]]}" for i in range(COUNT)]
        (folder / "tables" / "t.csv").write_text("\n".join(["file,label", *rows]))
        found = read(folder, classes=str(folder / "tables" / "t.csv"))
        assert kinds_by_pixels(found) == TRUE


def test_contradictions_between_csv_and_pictures_are_one_line_each(folder, read):
    rows = [f"img{i:08d}.png,{KINDS[LABELS[i]]}" for i in range(2, COUNT)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows, "gone.png,ant"]))
    data = read(folder)
    assert len(data.images) == COUNT - 2
    reason = "has no class in labels.csv"
    assert dict(data.skipped) == {f"00000/img{i:08d}.png": reason for i in (0, 1)}
    assert data.notes[1] == (
        "labels.csv: lines that name no picture, or several: 1, such as gone.png"
    )
    rows.append(rows[0].replace("bee", "ant"))
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    said = r"labels\.csv: 00000/img00000002\.png is 'bee' and 'ant', expected one class for each"
    with pytest.raises(DataError, match=said):
        read(folder, classes=str(folder / "labels.csv"))
    assert any("is 'bee' and 'ant'" in n and "it is not used" in n for n in read(folder).notes)


@pytest.mark.parametrize(("content", "expected"), [
    ("file_name,text\na.png,a cat", "got the columns file_name, text; expected one of"),
    ("", "cannot be read as classes"),
    ("\xff\xfe", "cannot be read as classes"),
    ("file_name,label\na\xe4.png,cat", "cannot be read as classes .'utf-8' codec"),
    ("file_name,label\nb.png", "names no picture; its first is b.png"),
    ("file_name,label,class\nimg00000001.png,,cat\nimg00000002.png", "gives no picture a class"),
    ("file_name,label\nb.png,cat", "names no picture; its first is b.png"),
])  # fmt: skip
def test_a_table_that_says_no_classes_is_noted_and_leaves_the_folders(
    folder, read, content, expected
):
    before = read(folder)
    (folder / "metadata.csv").write_text(content, encoding="latin-1")
    data = read(folder)
    assert data.fingerprint == before.fingerprint and data.class_names == ("00000", "00001")
    said = rf"^metadata\.csv: .*{expected}"
    assert any(re.search(said, note) for note in data.notes)
    with pytest.raises(DataError, match=said):
        read(folder, classes=str(folder / "metadata.csv"))


def test_hugging_faces_imagefolder_with_a_table_in_each_split(tmp_path, read):
    for split, rows in (("train", range(30)), ("test", range(30, COUNT))):
        (tmp_path / "set" / split).mkdir(parents=True)
        lines = ["file_name,label"]
        for i in rows:
            (tmp_path / "set" / split / f"{i % 30}.png").write_bytes(png(i))
            lines.append(f"{i % 30}.png,{KINDS[LABELS[i]]}")
        (tmp_path / "set" / split / "metadata.csv").write_text("\n".join(lines))
    data = read(tmp_path / "set")
    assert kinds_by_pixels(data) == TRUE and data.num_train == 30


def test_file_names_give_the_classes_if_asked(tmp_path, read):
    (tmp_path / "set").mkdir()
    for i in range(COUNT):
        kind = KINDS[LABELS[i]]
        name = (f"{kind}_{i:03d}", f"{kind}-{i}", f"{kind} ({i})", f"{kind}{i}")[i % 4]
        (tmp_path / "set" / f"{name}.png").write_bytes(png(i))
    assert read(tmp_path / "set").labels is None
    data = read(tmp_path / "set", classes="names")
    assert kinds_by_pixels(data) == TRUE and data.notes == ("3 classes, from the file names",)
    (tmp_path / "set" / "007.png").write_bytes(png(0))
    data = read(tmp_path / "set", classes="names")
    assert data.skipped == (("007.png", "has no class in the file names"),)
    (tmp_path / "more").mkdir()
    for i, name in enumerate(["0_0000", "1_0001", "n0144_100", "n0150_7", "class1_03", "class2_3"]):
        (tmp_path / "more" / f"{name}.png").write_bytes(png(i))
    names = ("0", "1", "class1", "class2", "n0144", "n0150")
    assert read(tmp_path / "more", classes="names").class_names == names


def test_classes_that_cannot_be_are_one_line(folder, read, tmp_path):
    for wrong, expected in (
        ("nmes", "did you mean 'names'"),
        ("x.csv", "expected one of auto, .* or a CSV file"),
    ):
        with pytest.raises(DataError, match=rf"^data\.classes: got '{wrong}'; {expected}"):
            read(folder, classes=wrong)
    np.save(tmp_path / "a.npy", PIXELS)
    for source in ("digits", tmp_path / "a.npy"):
        with pytest.raises(DataError, match=r"^data\.classes: got 'names', but .* its own classes"):
            read(source, classes="names")
    config = DataConfig(cache=str(tmp_path / "cache"), classes="none")
    assert unnoise.dataset(PIXELS, LABELS, config=config).labels is None
    with pytest.raises(ConfigError, match=r"data\.classes: got 3, expected text"):
        unnoise.preset("digits", {"data.classes": 3})


def test_the_key_of_a_folder_without_the_setting_is_what_it_was(folder, tmp_path, read):
    read(folder)
    files = sorted(folder.rglob("*.png"))
    states = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    key = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    settings = {name: getattr(DataConfig(image_size=8), name) for name in cache.SETTINGS}
    text = json.dumps([cache.VERSION, "set", key, settings], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [f"set-{digest}"]


def test_a_record_names_no_table_to_read(tmp_path):
    config = DataConfig(source="photos", classes="/etc/passwd")
    assert _readable(config, tmp_path).classes == "auto"


# --- parquet and the hub


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install '.[parquet]'")


def write(path, rows, *, names=KINDS, plain=False, label="label", size=7):
    """Rows as Hugging Face writes them, or plain bytes alone."""
    import pyarrow
    import pyarrow.parquet

    pictures = [png(i) if plain else {"bytes": png(i), "path": f"{i}.png"} for i in rows]
    columns = {"note": [f"row {i}" for i in rows]}
    columns |= {} if label is None else {label: [int(LABELS[i]) for i in rows]}
    columns["picture"] = pictures
    table = pyarrow.table(columns)
    if names:
        features = {"picture": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=size)
    return path


@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "target"])
def test_a_parquet_file_of_hugging_face_keeps_the_order_of_its_classes(
    tmp_path, read, parquet, label
):
    data = read(write(tmp_path / "a.parquet", range(COUNT), label=label))
    assert data.class_names == KINDS and kinds_by_pixels(data) == TRUE
    assert data.num_train == COUNT - 2
    assert data.notes == (f"3 classes, from the column {label}",)
    data = read(tmp_path / "a.parquet", classes="none")
    assert data.labels is None and len(data.images) == COUNT


def test_a_parquet_file_of_plain_bytes_and_one_of_bare_numbers(tmp_path, read, parquet):
    data = read(write(tmp_path / "a.parquet", range(COUNT), names=(), plain=True, label=None))
    said = "no classes, by the columns label, labels, fine_label, class, category, target"
    assert data.labels is None and data.notes == (said,)
    assert {p.transpose(1, 2, 0).tobytes() for p in data.images} == set(TRUE)
    assert kinds_by_pixels(read(write(tmp_path / "b.parquet", range(COUNT), names=()))) == NUMBERS


@pytest.mark.parametrize("places", [
    ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"),
    ("default/train/0000", "default/partial-train/0001", "default/validation/0000"),
    ("0", "1", "val"),
    ("tests/train-0", "tests/train-1", "train and test/testing"),
])  # fmt: skip
def test_a_folder_of_parquet_files_splits_as_their_names_say(tmp_path, read, parquet, places):
    for place, rows in zip(places, (range(20), range(20, 33), range(33, COUNT)), strict=True):
        write(tmp_path / "set" / f"{place}.parquet", rows)
    data = read(tmp_path / "set")
    assert data.num_train == 33 and kinds_by_pixels(data) == TRUE
    trained = {image.transpose(1, 2, 0).tobytes() for image in data.images[:33]}
    assert trained == {p.tobytes() for p in PIXELS[:33]}
    shutil.rmtree(tmp_path / "set")
    write(tmp_path / "set" / "test.parquet", range(COUNT))
    assert read(tmp_path / "set").num_train == COUNT - 2, "a test file alone splits nothing"


def test_rows_that_cannot_be_used_are_named_and_the_rest_goes_on(tmp_path, read, parquet):
    import pyarrow

    pictures = [{"bytes": png(i), "path": None} for i in range(COUNT)]
    pictures[3], pictures[5] = None, {"bytes": b"no picture", "path": "5.png"}
    labels = [int(n) for n in LABELS]
    labels[7], labels[8] = None, -1
    table = pyarrow.table({"image": pictures, "label": labels})
    parquet.write_table(table, tmp_path / "a.parquet")
    data = read(tmp_path / "a.parquet")
    assert len(data.images) == COUNT - 4
    assert dict(data.skipped) == {
        "a.parquet row 3": "is not a picture", "a.parquet row 5": "is not a picture",
        "a.parquet row 7": "has no class in the column label",
        "a.parquet row 8": "has no class in the column label",
    }  # fmt: skip


def test_a_broken_or_foreign_parquet_file_is_one_line_with_its_name(tmp_path, read, parquet):
    import pyarrow

    path = write(tmp_path / "a.parquet", range(COUNT))
    whole = path.read_bytes()
    damaged = whole[:200] + bytes(2000) + whole[2200:]
    for content in (whole[: len(whole) // 2], damaged, b"", b"PAR1 no"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"^a\.parquet: cannot be read as parquet \(.+\)$"):
            read(path)
    parquet.write_table(pyarrow.table({"x": [1], "y": [["a"]]}), path)
    with pytest.raises(DataError, match=r"got the columns x \(int64\), y \(list"):
        read(path)
    parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), path)
    with pytest.raises(DataError, match=r"a\.parquet: got 0 rows"):
        read(path)


def test_a_package_that_is_missing_is_one_line_that_installs_it(tmp_path, read, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name, extra, source in (
        ("pyarrow", "parquet", tmp_path / "a.parquet"),
        ("huggingface_hub", "hub", "hf:a/b"),
    ):
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", types.ModuleType("pyarrow.parquet"))
        for module in (name, f"{name}.parquet"):
            monkeypatch.setitem(sys.modules, module, None)
        said = rf"{name} is not installed .*; pip install 'unnoise\[{extra}\]'"
        with pytest.raises(DataError, match=said):
            read(source)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has the repositories below tmp_path / "hub"; the calls it got."""
    calls = []

    def snapshot_download(name, **wanted):
        calls.append((name, wanted))
        if not (tmp_path / "hub" / name).is_dir():
            raise OSError(f"404 Client Error: {name}\nRepository Not Found")
        return str(tmp_path / "hub" / name)

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_a_data_set_of_the_hub_is_its_parquet_files(tmp_path, read, parquet, hub):
    write(tmp_path / "hub" / "me" / "animals" / "data" / "train-0.parquet", range(30))
    write(tmp_path / "hub" / "me" / "animals" / "data" / "test-0.parquet", range(30, COUNT))
    data = read("hf:me/animals")
    assert data.name == "animals" and kinds_by_pixels(data) == TRUE and data.num_train == 30
    wanted = {"repo_type": "dataset", "revision": None, "allow_patterns": "*.parquet"}
    assert hub == [("me/animals", wanted)]
    read("hf:me/animals@refs/convert/parquet")
    assert hub[1] == ("me/animals", {**wanted, "revision": "refs/convert/parquet"})
    config = unnoise.preset("hf:me/animals")
    assert config.preset == "pictures" and config.data.source == "hf:me/animals"


def test_a_data_set_that_the_hub_lacks_is_one_line(tmp_path, read, parquet, hub):
    with pytest.raises(DataError, match=r"^hf:me/none: cannot be downloaded \(404.*me/none\); exp"):
        read("hf:me/none")
    (tmp_path / "hub" / "me" / "pictures").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^hf:me/pictures: has no parquet files; .*@refs/convert"):
        read("hf:me/pictures")
