"""Accuracy and distances per class, and classifiers by name."""

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
from unnoise.errors import ConfigError
from unnoise.evaluation.classes import class_accuracy, class_distances, share
from unnoise.evaluation.extractors import classifier
from unnoise.evaluation.frechet import frechet_distance, moments

NAMES = ("cat", "dog", "eel")


def test_accuracy_by_hand():
    found = class_accuracy(torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 1, 1, 1, 0]), NAMES)
    overall, per_class = found["overall"], found["per_class"]
    assert (overall["right"], overall["count"], overall["share"]) == (4, 5, 0.8)
    assert [(s["right"], s["count"]) for s in per_class.values()] == [(2, 2), (2, 3), (0, 0)]
    assert found["confusion"] == [[2, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert per_class["eel"]["share"] is None and per_class["eel"]["interval_95"] == [0, 1]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_confusion_is_scikit_learns_rows_are_labels():
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 3, 200), random.integers(0, 3, 200)
    found = class_accuracy(torch.from_numpy(predicted), torch.from_numpy(labels), NAMES)
    assert found["confusion"] == confusion_matrix(labels, predicted).tolist()


@pytest.mark.parametrize(
    ("right", "count"), [(0, 10), (10, 10), (1, 1), (93, 100), (946, 1017), (5, 13)]
)
def test_intervals_are_wilsons(right, count):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    found = share(right, count)["interval_95"]
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def features(count, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=random)


def test_distances_are_of_each_class_alone_and_need_enough_images():
    ours, theirs = features(60, 0), features(80, 1)
    labels, others = torch.arange(60) % 2, torch.arange(80) % 2
    labels[:4] = 2  # fewer than d + 1
    found = class_distances((ours, labels), (theirs, others), NAMES)
    assert [c["class_name"] for c in found] == ["cat", "dog"]
    assert [(c["count"], c["reference_count"]) for c in found] == [(28, 40), (28, 40)]
    for number, one in enumerate(found):
        sides = (*moments(ours[labels == number]), *moments(theirs[others == number]))
        assert 0 < one["distance"] == pytest.approx(frechet_distance(*sides))
    for count, classes in ((5, ["cat"]), (4, [])):
        few = (ours[:count], torch.zeros(count, dtype=torch.int64))
        least = class_distances(few, (theirs, others), NAMES)
        assert [c["class_name"] for c in least] == classes


IMAGES = (
    torch.tensor([10, 200, 90, 130], dtype=torch.uint8)[:, None, None, None]
    .expand(4, 1, 2, 2)
    .contiguous()
)


@pytest.fixture
def judges(tmp_path, monkeypatch):
    """A folder to be in, with a module of classifiers."""
    (tmp_path / "unnoise_judges.py").write_text(
        "import torch\n"
        "def brightness(x):\n"
        "    assert x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1\n"
        "    return -(x.mean((1, 2, 3))[:, None] - torch.tensor([1/6, 1/2, 5/6])).abs()\n"
        "def two(x): return torch.zeros(len(x), 2)\n"
        "def nan(x): return torch.full((len(x), 3), float('nan'))\n"
    )
    (tmp_path / "unnoise_broken.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_classifier_by_name_reads_bytes(judges):
    judge = classifier("unnoise_judges:brightness", 3, torch.device("cpu"))
    assert judge.logits(IMAGES).argmax(1).tolist() == [0, 2, 1, 1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("judge.pt", "classifier judge.pt: names no function; expected module:function, float"),
        ("unnoise_broken:f", "cannot be imported .No module named 'no_such_module_at_all'"),
        ("unnoise_judges:brightnes", "has no function 'brightnes'; did you mean 'brightness'"),
        (":brightness", "cannot be imported"),
        ("unnoise_judges:two", r"returns \(4, 2\) for 4 images, expected \(4, 3\)"),
        ("unnoise_judges:nan", "returns numbers that are not finite"),
    ],
)
def test_a_classifier_that_does_not_work_is_said_so_in_one_line(judges, spec, message):
    with pytest.raises(ConfigError, match=message) as error:
        classifier(spec, 3, torch.device("cpu")).logits(IMAGES)
    assert "\n" not in str(error.value)


@pytest.mark.long
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
    read = network.classes(network.features(torch.from_numpy(images.copy())))
    found = class_accuracy(read, labels, CLASSES)
    low, high = found["overall"]["interval_95"]
    assert low < 0.93 < high
    assert found["overall"]["right"] == int((read == labels).sum())
    assert abs(found["overall"]["right"] - 943) <= 3  # kernels round differently
    assert min(one["share"] for one in found["per_class"].values()) > 0.8
    assert sum(one["count"] for one in found["per_class"].values()) == 1017
    worst = torch.tensor(found["confusion"]).fill_diagonal_(0)
    # cats and dogs are what CIFAR-10 networks confuse
    assert CLASSES[int(worst.argmax()) // 10] in ("cat", "dog")
