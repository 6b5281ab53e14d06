"""Checkpoints and model files: whole or not there, and never loaded when damaged."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file

from unnoise import checkpoint
from unnoise.errors import CheckpointError
from unnoise.files import read_json, write_json

SHAPE = {"channels": 1, "height": 8, "width": 8}
GROUPS = {
    "network": {"a": torch.arange(1000.0), "b": torch.ones(3, 4).T},
    "optimizer": {"exp_avg/a": torch.zeros(1000), "step/a": torch.tensor(7.0)},
}


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    path = checkpoint.save(tmp_path, 12, GROUPS, {"nimg": 768, "loss": 0.1 + 0.2})
    assert path == tmp_path / "step-00000012" and [p.name for p in tmp_path.iterdir()] == [
        path.name
    ]
    tensors, state = checkpoint.load(path)
    assert state == {"nimg": 768, "loss": 0.1 + 0.2}
    for group, values in GROUPS.items():
        assert values.keys() == tensors[group].keys()
        assert all(torch.equal(tensors[group][k], v) for k, v in values.items())


@pytest.mark.parametrize(
    "file", ["network.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["one bit", "truncated", "missing", "empty", "longer"])
def test_no_damage_is_loaded_and_the_older_checkpoint_serves(tmp_path, file, damage):
    older = checkpoint.save(tmp_path, 1, GROUPS, {"n": 1})
    newer = checkpoint.save(tmp_path, 2, GROUPS, {"n": 2})
    path = newer / file
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "one bit": content,
                "truncated": content[: len(content) // 2],
                "empty": b"",
                "longer": content + b"x",
            }[damage]
        )
    if (file, damage) == ("manifest.json", "one bit") and not _unreadable(newer):
        pytest.skip("the flipped bit left a manifest with the same content")
    found, skipped = checkpoint.newest(tmp_path)
    assert found == older and len(skipped) == 1 and str(newer) in skipped[0]
    with pytest.raises(CheckpointError, match=newer.name):
        checkpoint.load(newer)


def _unreadable(path):
    try:
        checkpoint.verify(path)
    except CheckpointError:
        return True
    return False


def test_a_foreign_format_says_so(tmp_path):
    path = checkpoint.save(tmp_path, 1, GROUPS, {})
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, expected 1; update unnoise"):
        checkpoint.load(path)


def test_prune_keeps_those_named(tmp_path):
    for step in (1, 5, 20, 100):
        checkpoint.save(tmp_path, step, GROUPS, {})
    checkpoint.prune(tmp_path, {"step-00000005", "step-00000100"})
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000005", "step-00000100"]


def test_a_full_disk_leaves_the_older_checkpoint_and_says_what_to_do(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, GROUPS, {"n": 1})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"not written \(No space left on device\); step-00000001 is intact"
    ):
        checkpoint.save(tmp_path, 2, GROUPS, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    with pytest.raises(CheckpointError, match="not written"):
        checkpoint.save_model(tmp_path / "m.safetensors", GROUPS["network"], {"config": {}})
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "step-00000001"


def test_a_write_beyond_the_file_size_limit_is_the_same_in_a_real_process(tmp_path):
    """A limit of the system stands in for a full disk: write(2) fails half-way through a file."""
    script = textwrap.dedent("""
        import resource, signal, sys, torch
        from pathlib import Path
        from unnoise import checkpoint
        from unnoise.errors import CheckpointError
        folder = Path(sys.argv[1])
        checkpoint.save(folder, 1, {"network": {"a": torch.zeros(10)}}, {"n": 1})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            checkpoint.save(folder, 2, {"network": {"a": torch.zeros(100_000)}}, {"n": 2})
        except CheckpointError as error:
            print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert "step-00000001 is intact" in done.stdout, done.stderr
    found, skipped = checkpoint.newest(tmp_path)
    assert found is not None and found.name == "step-00000001" and not skipped
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]


@pytest.mark.long
def test_a_killed_writer_never_leaves_a_checkpoint_that_loads_wrongly(tmp_path):
    """kill -9 while checkpoints are written: whatever is there verifies, or has another name."""
    script = textwrap.dedent("""
        import sys, torch
        from pathlib import Path
        from unnoise import checkpoint
        print("ready", flush=True)
        folder = Path(sys.argv[1])
        for step in range(1, 10_000):
            groups = {"network": {"a": torch.full((200_000,), float(step))}}
            checkpoint.save(folder, step, groups, {"n": step})
            checkpoint.prune(folder, {checkpoint.name(step - 1), checkpoint.name(step)})
    """)
    for trial in range(3):
        folder = tmp_path / str(trial)
        process = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):  # it works until it is killed
            process.wait(0.3 + 0.037 * trial)
        process.kill()
        process.wait()
        found, skipped = checkpoint.newest(folder)
        assert found is not None and not skipped
        tensors, state = checkpoint.load(found)
        assert (
            tensors["network"]["a"] == state["n"]
        ).all() and found.name == f"step-{state['n']:08d}"


def test_model_files_describe_themselves_and_damage_is_found(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, GROUPS["network"], {"config": {"x": 1}, "shape": SHAPE})
    tensors, record = checkpoint.read_model(path)
    assert record["config"] == {"x": 1} and record["weights"] == checkpoint.fingerprint(tensors)
    content = bytearray(path.read_bytes())
    for cut in (0, 7, 100, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            checkpoint.read_model(path)
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.read_model(path)
    save_file(GROUPS["optimizer"], path)
    with pytest.raises(CheckpointError, match="has no unnoise record"):
        checkpoint.read_model(path)


def test_the_fingerprint_sees_names_shapes_types_and_values():
    a = torch.arange(6.0)
    prints = [
        checkpoint.fingerprint(t)
        for t in (
            {"a": a},
            {"b": a},
            {"a": a.reshape(2, 3)},
            {"a": a.int()},
            {"a": a + 1},
            {"a": a, "b": a},
        )
    ]
    assert len(set(prints)) == 6
    assert checkpoint.fingerprint({"b": a, "a": a}) == prints[5]


def test_memory_format_does_not_change_what_is_written(tmp_path):
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    checkpoint.save_model(
        tmp_path / "m.safetensors",
        {"a": x.to(memory_format=torch.channels_last)},
        {"config": {}, "shape": SHAPE},
    )
    assert torch.equal(load_file(tmp_path / "m.safetensors")["a"], x)


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1} and os.listdir(tmp_path) == ["a.json"]
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path / "a.json")
