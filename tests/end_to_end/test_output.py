"""Standard output and error: what others wrote is shown, not obeyed; a dead one ends nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from unnoise.cli.output import Output
from unnoise.errors import visible

ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tété 🙂\r\n", "plain\tété 🙂\r\n"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("bell\x07, nul\0, \x9b2J", r"bell\x07, nul\x00, \x9b2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"\\xe9"), ("latin-1", b"\xe9")])
def test_what_an_encoding_lacks_is_escaped(encoding, shown):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert Output(stream).write("é") == 1
    assert stream.buffer.getvalue() == shown  # pyright: ignore[reportAttributeAccessIssue]


OUTPUTS = {
    "into head": "set -o pipefail; {} | head -c 1 > nothing",
    "to full devices": "{} > /dev/full 2> /dev/full",
    "without any": "{} >&- 2>&- <&-",
}


@pytest.mark.parametrize("shell", OUTPUTS.values(), ids=OUTPUTS)
def test_training_goes_on_whoever_listens(tmp_path, shell):
    flags = (
        "--kimg 0.05 --device cpu --network.base-channels 8 --sample.steps 1 --out run "
        "--train.log-every-kimg 0.01 --train.batch-size 8"
    )
    command = shell.format(f"{sys.executable} -m unnoise train digits {flags}")
    words = ["bash", "-c", command]
    done = subprocess.run(
        words, check=False, cwd=tmp_path, env=ENVIRON, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_help_keeps_its_colours_on_a_terminal():
    """And nothing else may have any: the text of a picture is another's."""
    import pty

    def told(words: list[str]) -> bytes:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, "-m", "unnoise", *words])
        said = b""
        while True:
            try:
                said += os.read(terminal, 1 << 16) or b""
            except OSError:  # the child has gone
                os.waitpid(pid, 0)
                return said

    helped = told(["sample", "digits", "--help"])
    assert b"\x1b[" in helped and b"\\x1b" not in helped
    refused = told(["sample", "\x1b[31mred"])
    assert b"\x1b[31m" not in refused and b"\\x1b[31mred" in refused


@pytest.mark.parametrize("after_sec", [0.1, 0.4])
def test_ctrl_c_while_modules_load_is_one_line(tmp_path, after_sec):
    words = [sys.executable, "-m", "unnoise", "train", "digits", "--out", "run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(words, cwd=tmp_path, env=ENVIRON, **pipes)
    time.sleep(after_sec)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    # Python itself may say more of what it cannot raise, in a destructor that is interrupted
    assert child.returncode in (130, -signal.SIGINT), err
    assert err.splitlines()[-1:] in ([], ["stopped"])
