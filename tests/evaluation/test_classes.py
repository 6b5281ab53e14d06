"""Accuracy per class against its definition and a real classifier, distances per class, and classifiers by name."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from benchmarks.resnet56 import ResNet56
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from unnoise.data.cifar10 import CLASSES
from unnoise.errors import ConfigError, DataError
from unnoise.evaluation.classes import (
    Share,
    class_accuracy,
    class_distances,
    load_classifier,
    predictions,
)
from unnoise.evaluation.frechet import frechet_distance, moments

NAMES = ("cat", "dog", "eel")


def test_accuracy_by_hand():
    found = class_accuracy(torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 1, 1, 1, 0]), NAMES)
    assert found.overall.right == 4 and found.overall.count == 5 and found.overall.share == 0.8
    assert [(s.right, s.count, s.share) for s in found.per_class] == [
        (2, 2, 1.0),
        (2, 3, 2 / 3),
        (0, 0, None),
    ]
    assert found.confusion.tolist() == [[2, 0, 0], [1, 2, 0], [0, 0, 0]]
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["per_class"]["dog"]["right"] == 2 and record["per_class"]["eel"]["share"] is None
    assert record["per_class"]["eel"]["interval_95"] == [0, 1]


def test_confusion_is_scikit_learns_rows_are_labels():
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 3, 200), random.integers(0, 3, 200).astype(np.int32)
    found = class_accuracy(torch.from_numpy(predicted), torch.from_numpy(labels), NAMES)
    assert found.confusion.tolist() == confusion_matrix(labels, predicted).tolist()


@pytest.mark.parametrize(
    ("right", "count"), [(0, 10), (10, 10), (1, 1), (93, 100), (946, 1017), (5, 13)]
)
def test_intervals_are_wilsons(right, count):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert Share(right, count).interval == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0, 1], [0], "got 2 predictions for 1 labels"),
        ([], [], "got 0 predictions for 0 labels"),
        ([0, 511], [0, 1], r"predicted classes: got 0 to 511, expected 0 to 2 \(3 classes\)"),
        ([0, -1], [0, 1], "predicted classes: got -1 to 0"),
        ([0, 1], [3, 1], "labels: got 1 to 3, expected 0 to 2"),
        ([0.0, 1.0], [0, 1], "predicted classes: got torch.float32"),
    ],
)
def test_classes_that_do_not_fit_are_refused_in_one_line(predicted, labels, message):
    with pytest.raises(DataError, match=message) as error:
        class_accuracy(torch.tensor(predicted), torch.tensor(labels), NAMES)
    assert "\n" not in str(error.value)


def features(count, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=random)


def test_distances_are_of_each_class_alone_and_need_enough_images():
    ours, theirs = features(60, 0), features(80, 1)
    labels, others = torch.arange(60) % 2, torch.arange(80) % 2
    labels[:4] = 2  # fewer than d + 1
    found = class_distances((ours, labels), (theirs, others), NAMES)
    for number in (0, 1):
        one, two = moments(ours[labels == number]), moments(theirs[others == number])
        assert found[number].distance == pytest.approx(frechet_distance(*one, *two))
        assert found[number].distance > 0
    assert found[2].distance is None and found[2].count == 4 and found[2].reference_count == 0
    assert [c.class_name for c in found] == list(NAMES)
    counts = [(c.count, c.reference_count) for c in found]
    assert counts == [(28, 40), (28, 40), (4, 0)]
    assert all(
        c.distance is None
        for c in class_distances((ours, labels), (theirs, others), NAMES, minimum=29)
    )
    assert (
        class_distances((ours, labels), (theirs, others), NAMES, minimum=28)[0].distance
        == found[0].distance
    )
    least = class_distances((ours[:9], torch.zeros(9, dtype=torch.int64)), (theirs, others), NAMES)
    assert least[0].distance is not None
    less = class_distances((ours[:4], torch.zeros(4, dtype=torch.int64)), (theirs, others), NAMES)
    assert less[0].distance is None


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (
            (features(5, 0), torch.zeros(4, dtype=torch.int64)),
            r"got features \(5, 4\) and 4 labels",
        ),
        (
            (features(5, 0)[:, :3], torch.zeros(5, dtype=torch.int64)),
            r"got features of \[3, 4\] numbers",
        ),
        (
            (features(5, 0) / 0, torch.zeros(5, dtype=torch.int64)),
            "5 of 5 feature vectors hold NaN or infinity",
        ),
        ((features(5, 0), torch.full((5,), 3)), "labels: got 3 to 3, expected 0 to 2"),
    ],
)
def test_features_that_do_not_fit_are_refused_in_one_line(side, message):
    with pytest.raises(DataError, match=message) as error:
        class_distances(side, (features(5, 0), torch.zeros(5, dtype=torch.int64)), NAMES)
    assert "\n" not in str(error.value)


IMAGES = (
    torch.tensor([10, 200, 90, 130], dtype=torch.uint8)[:, None, None, None]
    .expand(4, 1, 2, 2)
    .contiguous()
)


class Brightness(torch.nn.Module):
    """Class 0 below 1/3, 1 below 2/3, 2 above."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean((1, 2, 3))
        return -(mean[:, None] - torch.tensor([1 / 6, 1 / 2, 5 / 6])).abs()


@pytest.fixture
def judges(tmp_path, monkeypatch):
    """A folder to be in, with a module of classifiers and a TorchScript file."""
    (tmp_path / "unnoise_judges.py").write_text(
        "import torch\n"
        "def brightness(x):\n"
        "    assert x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1\n"
        "    return -(x.mean((1, 2, 3))[:, None] - torch.tensor([1/6, 1/2, 5/6])).abs()\n"
        "def two(x): return torch.zeros(len(x), 2)\n"
        "def nan(x): return torch.full((len(x), 3), float('nan'))\n"
        "def text(x): return 'cat'\n"
        "def fails(x): raise RuntimeError('first line\\nneeds 3 channels')\n"
        "number = 3\n"
    )
    (tmp_path / "unnoise_broken.py").write_text("import no_such_module_at_all\n")
    torch.jit.save(torch.jit.script(Brightness()), str(tmp_path / "judge.pt"))
    (tmp_path / "damaged.pt").write_bytes((tmp_path / "judge.pt").read_bytes()[:300])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spec", ["unnoise_judges:brightness", "judge.pt"])
def test_a_classifier_by_name_reads_bytes(judges, spec):
    classify = load_classifier(spec, 3)
    assert predictions(classify, IMAGES).tolist() == [0, 2, 1, 1]
    assert predictions(classify, IMAGES, batch_size=3).tolist() == [0, 2, 1, 1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "no_such.pt",
            "classifier no_such.pt: there is no such file; expected module:function or a TorchScript file",
        ),
        ("plain", "classifier plain: there is no such file"),
        ("damaged.pt", "classifier damaged.pt: is no TorchScript file"),
        (
            "unnoise_nowhere:f",
            "module 'unnoise_nowhere' cannot be imported .No module named 'unnoise_nowhere'",
        ),
        ("unnoise_broken:f", "cannot be imported .No module named 'no_such_module_at_all'"),
        ("unnoise_judges:brightnes", "has no function 'brightnes'; did you mean 'brightness'"),
        ("unnoise_judges:number", "has no function 'number'"),
        ("unnoise_judges:", "has no function ''"),
        (":brightness", "cannot be imported"),
    ],
)
def test_a_classifier_that_is_not_there_is_said_so_in_one_line(judges, spec, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_classifier(spec, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two", r"got \(4, 2\) for 4 images, expected logits \(4, 3\)"),
        ("nan", "got logits with NaN or infinity"),
        ("text", "got str for 4 images"),
        ("fails", r"fails on images \(1, 2, 2\) as floats in 0..1 \(needs 3 channels\)"),
    ],
)
def test_a_classifier_with_wrong_answers_is_said_so_in_one_line(judges, name, message):
    classify = load_classifier(f"unnoise_judges:{name}", 3)
    with pytest.raises(ConfigError, match=message) as error:
        predictions(classify, IMAGES)
    assert "\n" not in str(error.value)


def test_images_and_answers_are_checked():
    with pytest.raises(DataError, match=r"got images torch\.float32"):
        predictions(lambda images: images[:, 0, 0, 0], IMAGES.float())
    with pytest.raises(ConfigError, match=r"got an answer \(4, 10\) to 4 images"):
        predictions(lambda images: torch.zeros(len(images), 10), IMAGES)
    with pytest.raises(ConfigError, match=r"got an answer \(1,\) to 4 images"):
        predictions(lambda images: torch.zeros(1, dtype=torch.int64), IMAGES)


def test_a_resnet_56_reads_93_percent_of_real_cifar10_test_images(shared_data):
    """The weights are known for about 93 % of all 10,000; of these 1,017 it is 943."""
    folder = shared_data / "cifar10"
    spec = importlib.util.spec_from_file_location("unpack", folder / "unpack.py")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    images = unpack.tiles(folder / "cifar10_test_first1017.webp", 1017).transpose(0, 3, 1, 2)
    labels = torch.from_numpy(
        np.load(folder / "cifar10_labels.npz")["test"][:1017].astype(np.int64)
    )
    network = ResNet56(shared_data / "extractors" / "cifar10_resnet56_akamaster.npz")
    read = predictions(
        lambda part: network.classes(network.features(part)), torch.from_numpy(images.copy())
    )
    found = class_accuracy(read, labels, CLASSES)
    low, high = found.overall.interval
    assert low < 0.93 < high
    assert found.overall.right == int((read == labels).sum())
    assert abs(found.overall.right - 943) <= 3  # kernels round differently
    assert min(share.share for share in found.per_class) > 0.8
    assert sum(share.count for share in found.per_class) == 1017
    worst = found.confusion - torch.diag(found.confusion.diagonal())
    assert CLASSES[int(worst.argmax()) // 10] in (
        "cat",
        "dog",
    )  # cats and dogs are what CIFAR-10 networks confuse
