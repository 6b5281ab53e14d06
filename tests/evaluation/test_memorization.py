"""Exact neighbours against brute force, and copies: planted ones are found, no others."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu

from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.evaluation import memorization, neighbours
from unnoise.evaluation.memorization import copying, save_pairs
from unnoise.evaluation.neighbours import nearest
from unnoise.evaluation.store import Features


def random(seed):
    return torch.Generator().manual_seed(seed)


def brute_force(queries, train, k):
    """float64 differences of everything."""
    differences = queries.double()[:, None] - torch.as_tensor(train).double()[None]
    found = differences.square().sum(2).sqrt().sort(dim=1, stable=True)
    return found.values[:, :k], found.indices[:, :k]


def same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(found[1], expected[1])


def clusters(count, d, spread):
    """Vectors in two far clusters: their squares are far above their distances."""
    base = torch.randn(d, generator=random(0)) * 10
    signs = torch.ones(count).masked_fill(torch.arange(count) % 2 == 0, -1)
    return base * signs[:, None] + spread * torch.randn(count, d, generator=random(1))


VECTORS = {
    "bytes": torch.randint(0, 256, (300, 75), generator=random(0), dtype=torch.uint8),
    "floats": torch.randn(300, 20, generator=random(1)),
    "float64 far from 0": torch.randn(300, 20, generator=random(2), dtype=torch.float64) + 1e6,
    "close together": clusters(300, 256, 1e-6),
    "one number each": torch.randn(300, 1, generator=random(3)),
}


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("k", [1, 5, 200])
def test_neighbours_are_those_of_brute_force(kind, k):
    queries, train = VECTORS[kind][:100], VECTORS[kind][100:]
    same(nearest([(queries, train)], k), brute_force(queries, train, k))


def test_a_copy_is_at_exactly_0_where_the_expanded_square_is_not():
    train = torch.randint(0, 256, (500, 3072), generator=random(0), dtype=torch.uint8)
    rows = torch.randperm(500, generator=random(1))[:20]
    distances, indices, _ = nearest([(train[rows], train)], 2)
    assert torch.equal(indices[:, 0], rows)
    assert (distances[:, 0] == 0).all() and (distances[:, 1] > 0).all()
    one_off = train[rows].clone()
    one_off[:, 7] ^= 1
    assert (nearest([(one_off, train)], 1)[0] == 1).all()
    floats = clusters(200, 256, 1e-6) + 1e3
    a, b = floats[:20].double(), floats.double()
    squares = a.square().sum(1)[:, None] - 2 * a @ b.T + b.square().sum(1)
    assert squares.diagonal().abs().max() > 1e-8
    assert (nearest([(floats[:20], floats)], 1)[0] == 0).all()


def test_the_lower_index_wins_a_tie():
    train = torch.randint(0, 256, (40, 12), generator=random(0), dtype=torch.uint8).repeat(3, 1)
    distances, indices, _ = nearest([(train[:40], train)], 4)
    assert torch.equal(indices[:, :3], torch.arange(40)[:, None] + torch.tensor([0, 40, 80]))
    same((distances, indices), brute_force(train[:40], train, 4))
    alike = torch.full((500, 12), 7, dtype=torch.uint8)
    assert torch.equal(nearest([(alike[:2], alike)], 3)[1], torch.tensor([[0, 1, 2]] * 2))


@pytest.mark.parametrize(("held", "rows"), [(1, 4096), (700, 3), (1 << 24, 64)])
def test_neighbours_do_not_depend_on_what_is_held_at_once(monkeypatch, tmp_path, held, rows):
    """Nor on whether the training vectors are in memory."""
    queries, train = VECTORS["bytes"][:50], VECTORS["bytes"][50:].numpy()
    whole = nearest([(queries, train)], 7)
    train.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.uint8, "r", shape=train.shape)
    monkeypatch.setattr(neighbours, "ROWS", rows)
    monkeypatch.setattr(neighbours, "HELD", held)
    same(nearest([(queries, mapped)], 7), whole)


def test_the_shortlist_is_short_also_far_from_0(monkeypatch):
    looked_at, rows = [], neighbours.rows_of
    monkeypatch.setattr(neighbours, "rows_of", lambda v, r: looked_at.append(r) or rows(v, r))
    vectors = VECTORS["floats"].double() + 1e4
    nearest([(vectors[:50], vectors)], 5)
    lists = [len(rows) for rows in looked_at if isinstance(rows, torch.Tensor)]
    assert len(lists) == 50 and max(lists) < 10


def pictures(count, seed, size=12, channels=3):
    """Smooth random images, of different contrast, uint8."""
    generator = random(seed)
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    contrast = 5 + 60 * torch.rand(count, 1, 1, 1, generator=generator)
    return (128 + contrast * smooth).round().clamp(0, 255).to(torch.uint8)


def by_one(images, seed=0):
    """Every pixel moved by -1, 0 or 1 grey level."""
    noise = torch.randint(-1, 2, images.shape, generator=random(seed))
    return (images.int() + noise).clamp(0, 255).to(torch.uint8)


def plant(samples, train, count=50, seed=0):
    """Copies of training images among samples, mirrored and with noise too; their rows."""
    places = torch.randperm(len(samples), generator=random(seed))[:count]
    rows = torch.randperm(len(train), generator=random(seed + 1))[:count]
    chosen = train[rows] if isinstance(train, torch.Tensor) else np.array(train[rows.numpy()])
    copies = torch.as_tensor(chosen).clone()
    copies[1::4] = copies[1::4].flip(-1)
    copies[2::4] = by_one(copies[2::4])
    copies[3::4] = by_one(copies[3::4].flip(-1))
    samples = samples.clone()
    samples[places] = copies
    return samples, dict(zip(places.tolist(), rows.tolist(), strict=True))


def found(result):
    return {pair["sample"]: pair["train"] for pair in result.record["copies"]}


def test_planted_copies_are_found_and_nothing_else():
    train, held_out = pictures(2000, 0), pictures(1000, 1)
    samples, planted = plant(pictures(1000, 2), train)
    result = copying(samples, train.numpy(), held_out)
    assert found(result) == planted
    copies, (line, *_) = result.record["copies"], result.record["summary"]
    assert result.record["num_held_out_copies"] == 0
    mirrored = {pair["sample"] for pair in copies if pair["flipped"]}
    assert mirrored == {place for i, place in enumerate(planted) if i % 4 in (1, 3)}
    assert all(pair["grey_levels"] <= 1 for pair in copies)
    assert [pair["grey_levels"] for pair in copies[:25]] == [0] * 25
    assert "50 of 1,000 samples are copies" in line and "0 of 1,000 held-out" in line


def test_real_digits_are_no_copies_of_each_other_and_planted_ones_are_found():
    data = load(DataConfig())
    train, held_out = (
        data.images[: data.num_train],
        torch.from_numpy(np.array(data.images[data.num_train :])),
    )
    samples, planted = plant(held_out, train)
    result = copying(samples, train, held_out)
    assert found(result) == planted and result.record["num_held_out_copies"] == 0


@pytest.fixture(scope="module")
def cifar10(shared_data):
    """The 50,000 training and 1,017 test images, uint8 (n, 3, 32, 32)."""
    folder = shared_data / "cifar10"
    spec = importlib.util.spec_from_file_location("unpack", folder / "unpack.py")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    train = np.concatenate([unpack.tiles(folder / f"cifar10_train_{i}.webp") for i in range(1, 6)])
    test = unpack.tiles(folder / "cifar10_test_first1017.webp", 1017)
    return train.transpose(0, 3, 1, 2), torch.from_numpy(test.transpose(0, 3, 1, 2).copy())


@pytest.mark.slow
def test_planted_cifar10_images_are_found_and_test_images_are_no_copies(cifar10):
    """Though some of CIFAR-10's test images repeat training images (Barz & Denzler 2020)."""
    train, test = cifar10
    samples, planted = plant(test[:1000], train)
    result = copying(samples, train, test)
    assert found(result) == planted
    assert result.record["num_held_out_copies"] == 0
    assert 0.4 < result.record["pixels"]["closer"] < 0.6


def test_a_picture_near_to_many_is_no_copy_though_it_is_near():
    """100 blank skies, 2.4 grey levels apart: another one is no copy, a changed one is."""
    skies = (200 + 1.7 * torch.randn(100, 3, 8, 8, generator=random(0))).round().to(torch.uint8)
    train = torch.cat([skies, pictures(400, 1, size=8)])
    other = (200 + 1.7 * torch.randn(5, 3, 8, 8, generator=random(2))).round().to(torch.uint8)
    result = copying(torch.cat([other, skies[:1], by_one(skies[1:2])]), train)
    assert (result.near.distances[:5, 0] < 3).all()
    assert found(result) == {5: 0, 6: 1}


def test_a_copy_with_more_noise_is_found_by_its_ratio_and_at_the_levels_alone(monkeypatch):
    """As a network copies: 4 grey levels of noise, of 30 to 60 between pictures."""
    train = pictures(600, 0)
    contrast = train.float().flatten(1).std(1)
    rows = contrast.argsort(descending=True)[:20]
    noisy = train[rows].flip(-1) + 4 * torch.randn(20, 3, 12, 12, generator=random(1))
    samples = torch.cat([noisy.round().clamp(0, 255).to(torch.uint8), pictures(50, 2)])
    result = copying(samples, train)
    assert found(result) == dict(enumerate(rows.tolist()))
    copies = result.record["copies"]
    assert all(3 < one["grey_levels"] < 5 and one["flipped"] for one in copies)
    assert all(one["ratio"] < 0.2 for one in copies)
    monkeypatch.setattr(memorization, "RATIO", 0.01)
    assert found(copying(samples, train)) == {}
    monkeypatch.setattr(memorization, "GREY_LEVELS", 5)
    assert len(found(copying(samples, train))) >= 20


def test_a_copy_of_an_image_that_is_there_many_times_is_a_copy():
    repeated = pictures(1, 0).repeat(60, 1, 1, 1)
    train = torch.cat([repeated, pictures(440, 1)])
    result = copying(torch.cat([repeated[:1], by_one(repeated[:1])]), train)
    assert found(result) == {0: 0, 1: 0}
    assert result.near.ratios[0] == 0 and result.near.ratios[1] > 0.9


@pytest.mark.parametrize(("count", "neighbours"), [(1, 1), (3, 3), (30, 4), (300, 30), (600, 50)])
def test_a_small_training_set_has_fewer_neighbours(count, neighbours):
    near = copying(pictures(2, 1, 4), pictures(count, 0, 4)).near
    assert near.distances.shape == (2, neighbours)


def test_an_image_is_called_flipped_only_where_that_is_nearer():
    train = pictures(500, 0)
    train[3] = torch.maximum(train[3], train[3].flip(-1))  # its own mirror image
    result = copying(torch.stack([train[3], train[4].flip(-1), train[5]]), train)
    assert result.near.flipped[:, 0].tolist() == [False, True, False]
    assert all(len(set(row.tolist())) == len(row) for row in result.near.indices)
    both = torch.stack([train, train.flip(-1)]).double()
    samples = torch.stack([train[4].flip(-1), train[5]]).double()
    distances = (both[:, None] - samples[:, None]).square().mean((3, 4, 5)).sqrt()
    expected = distances.amin(0).sort(dim=1)
    nearest_50 = expected.values[:, :50]
    torch.testing.assert_close(result.near.distances[1:], nearest_50)
    assert torch.equal(result.near.indices[1:], expected.indices[:, :50])
    ratios = nearest_50[:, 0] / nearest_50.mean(1)
    torch.testing.assert_close(result.near.ratios[1:], ratios)


@pytest.mark.parametrize("seed", [0, 1])
def test_closeness_is_the_mann_whitney_test_against_held_out_images(seed):
    train, held_out, samples = pictures(150, 0), pictures(200, 5), by_one(pictures(90, seed + 2))
    samples[:30] = train[:30]  # ties
    held_out[:10] = train[:10]
    result = copying(samples, train, held_out)
    ours = result.near.distances[:, 0].numpy()
    theirs = copying(held_out, train).near.distances[:, 0].numpy()
    expected = mannwhitneyu(theirs, ours)  # pairs in which held-out is larger
    closeness = result.record["pixels"]
    assert closeness["closer"] == pytest.approx(expected.statistic / (90 * 200))
    u = 90 * 200 - expected.statistic
    assert closeness["c_t"] == pytest.approx((u - 90 * 200 / 2) / np.sqrt(90 * 200 * 291 / 12))
    assert closeness["closer"] > 0.6 and closeness["c_t"] < -2


def test_held_out_images_against_themselves_are_as_new():
    train, held_out = pictures(300, 0), pictures(200, 1)
    closeness = copying(held_out, train, held_out).record["pixels"]
    assert closeness["closer"] == 0.5 and closeness["c_t"] == 0


def test_without_held_out_images_there_is_no_closeness():
    train, samples = pictures(100, 0), pictures(30, 1)
    alone = copying(samples, train).record
    assert alone["pixels"] is None and alone["num_held_out_copies"] is None
    assert "no held-out images to compare with" in alone["summary"][1]


def test_features_find_what_pixels_do_not():
    """Means over blocks of 4 x 4 as features: a copy moved by noise that they average away."""

    def of(images):
        return torch.nn.functional.avg_pool2d(images.float(), 4).flatten(1)

    train, held_out = pictures(400, 0), pictures(100, 1)
    copied = train[7:8].float()
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(6, 6) * 30
    samples = torch.cat([pictures(50, 2), (copied + checks).clamp(0, 255).to(torch.uint8)])
    features = Features(of(samples), of(train), of(held_out))
    result = copying(samples, train, held_out, features)
    assert found(result) == {}
    differences = of(samples).double()[:, None] - of(train).double()
    expected = differences.square().sum(2).sqrt().amin(1)
    assert result.record["features"]["median"] == pytest.approx(float(expected.median()))
    assert result.record["near_copies"]["features"][0] > result.record["near_copies"]["pixels"][0]
    assert "features: nearest" in result.record["summary"][2]
    vectors = of(samples)[50:]
    distances, (near,), _ = nearest([(vectors, of(train))], 5)
    assert near[0] == 7 and distances[0, 0] < 0.2 * distances.mean()
    plain = copying(samples, train, held_out, Features(of(samples), of(train))).record
    assert plain["features"] is None and "no held-out images" in plain["summary"][2]


def test_figures_are_json_with_all_copies_and_the_closest_pairs():
    train = pictures(30, 0)
    samples, planted = plant(pictures(100, 1), train, 10)
    record = copying(samples, train, pictures(100, 2)).record
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    counts = ("num_samples", "num_train", "num_held_out", "num_copies", "num_held_out_copies")
    assert [record[name] for name in counts] == [100, 30, 100, 10, 0]
    assert {pair["sample"]: pair["train"] for pair in record["copies"]} == planted
    assert len(record["closest"]) == 20 and record["closest"][:10] == record["copies"]
    assert record["level"] == {"grey_levels": 1.0, "ratio": 0.2, "neighbours": 4, "flips": True}


def test_one_training_image_is_enough():
    train = pictures(1, 0)
    assert found(copying(torch.cat([train, pictures(1, 1)]), train)) == {0: 0}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_samples_next_to_their_neighbours_as_they_match(channels, tmp_path):
    train = pictures(100, 0, size=8, channels=channels)
    samples = torch.cat([pictures(20, 1, size=8, channels=channels), train[4:5].flip(-1)])
    result = copying(samples, train)
    save_pairs(tmp_path / "pairs.png", samples, train.numpy(), result, count=4)
    sheet = np.array(Image.open(tmp_path / "pairs.png"))
    words = sheet.shape[0] - (2 * 66 + 2)
    assert 12 < words < 24 and sheet.shape[1] == 2 * (5 * 66 + 2) + 32

    def at(column, row=0):
        top, left = words + 2 + 66 * row, 2 + 66 * column
        cell = sheet[top : top + 64, left : left + 64].reshape(64, 64, channels)
        return torch.from_numpy(cell[::8, ::8].transpose(2, 0, 1).copy())

    first, second = result.record["closest"][:2]
    assert first["sample"] == 20 and first["flipped"]
    assert torch.equal(at(0), samples[20]) and torch.equal(at(1), train[4].flip(-1))
    assert torch.equal(at(0, 1), samples[second["sample"]])
    for place in (1, 2, 3):
        image = train[result.near.indices[20, place]]
        image = image.flip(-1) if result.near.flipped[20, place] else image
        assert torch.equal(at(1 + place), image)


def test_the_picture_of_one_pair_and_of_one_training_image(tmp_path):
    train = pictures(1, 0)
    save_pairs(tmp_path / "pairs.png", train, train, copying(train, train))
    sheet = np.array(Image.open(tmp_path / "pairs.png"))
    assert sheet.shape[1] == 2 * (132 + 2) + 2  # 11 pixels for each: the sheet has 256 or more
    for left in (2, 136):
        image = sheet[2:134:11, left : left + 132 : 11]
        assert np.array_equal(image, train[0].permute(1, 2, 0))
