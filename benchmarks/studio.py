"""How fast the studio answers: the table of docs/studio.md, by a client and by Chromium."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import unnoise
from unnoise.studio.jobs import Job, Worker
from unnoise.studio.works import Sample, checked

ROUNDS, PAIRS, SEC, JOBS, IDLE_SEC = 9, 15, 60, 500, 30
DIGITS: dict[str, Any] = {"kind": "sample", "model": "digits", "num": 16}
CIFAR = {**DIGITS, "model": "cifar10-small", "settings": {"sampler": "balanced"}}
BODIES = {"16 digits": DIGITS, "16 CIFAR-10 pictures, balanced": CIFAR}


@contextmanager
def server() -> Iterator[tuple[int, int, float]]:
    """A studio: its port, process and seconds until it gave the page."""
    began, words = time.perf_counter(), ["-m", "unnoise", "studio", "--no-open", "--port", "0"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        port = int(re.findall(r":(\d+)/", process.stdout.readline())[0])  # pyright: ignore
        request(port, "GET", "/").read()
        yield port, process.pid, time.perf_counter() - began
        process.kill()


def request(port: int, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
    """An answer; ConnectionError where it is a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status >= 400:
        raise ConnectionError(answer.read().decode())
    return answer


def run(port: int, body: dict[str, Any], wait: float = 0) -> tuple[float, float, dict[str, Any]]:
    """Seconds until a job's first frame and its end, and what it says at its end.

    `wait` are seconds before the first of its records is read.
    """
    began, first = time.perf_counter(), 0.0
    number = json.load(request(port, "POST", "/api/jobs", body))["id"]
    time.sleep(wait)
    stream = request(port, "GET", f"/api/jobs/{number}")
    while True:
        size, kind = struct.unpack("<II", stream.read(8))
        content = stream.read(size - 4)
        if kind == 1:
            first = first or time.perf_counter() - began
        elif b'"state"' in content:
            return first, time.perf_counter() - began, json.loads(content)


def compared(port: int, body: dict[str, Any]) -> tuple[float, float, float]:
    """Median ms to the first frame and the end; a job's own seconds read as it runs, as a ratio to
    those of one that is read later (A B A B)."""
    taken, ratios = list[tuple[float, float]](), list[float]()
    for number in range(PAIRS + 1):
        asked = {**body, "seed": 100 * number}
        first, last, end = run(port, asked)
        taken.append((first, last))
        ratios.append(end["seconds"] / run(port, asked, 2 * last + 0.2)[2]["seconds"])
    first, last = map(statistics.median, zip(*taken[1:], strict=True))
    return 1000 * first, 1000 * last, statistics.median(ratios[1:])


def frames(body: dict[str, Any]) -> float:
    """Seconds of a job, which keeps frames, as a ratio to Model.steps, in one process (A B A B)."""
    model, worker, ratios = unnoise.load(body["model"], "cpu"), Worker(), list[float]()
    shape = [16, model.shape.channels, model.shape.height, model.shape.width]
    worker.wait()
    for number in range(PAIRS + 1):
        work = Sample(model=body["model"], settings=body.get("settings", {}), seed=100 * number)
        job = worker.submit(Job(model, checked(work, model), {"shape": shape}))
        while not job.ended:
            time.sleep(0.001)
        began = time.perf_counter()
        deque(model.steps(range(100 * number, 100 * number + 16), **work.settings), 0)
        end = json.loads(job.records[-1][8:])
        ratios.append(end["seconds"] / (time.perf_counter() - began))
    return statistics.median(ratios[1:])


def crowd(port: int) -> tuple[float, Counter[str]]:
    """95 % of the status answers come in these ms; how the jobs of 20 clients ended."""
    status, ends, end = list[float](), Counter[str](), time.monotonic() + SEC

    def client(number: int) -> None:
        while time.monotonic() < end:
            began = time.perf_counter()
            request(port, "GET", "/api/state").read()
            status.append(time.perf_counter() - began)
            try:
                ends[run(port, {**DIGITS, "num": 4, "seed": number})[2]["state"]] += 1
            except ConnectionError:  # the queue is full
                ends["told to wait"] += 1
                time.sleep(0.1)

    with ThreadPoolExecutor(20) as clients:
        list(clients.map(client, range(20)))
    return 1000 * statistics.quantiles(status, n=20)[-1], ends


PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
DONE = "() => / s$/.test(document.querySelector('.caption').textContent)"
WATCH = """() => {
  const times = {start: performance.now()};
  window.times = times;
  const changes = {subtree: true, childList: true, characterData: true};
  new MutationObserver(() => {
    const caption = document.querySelector(".caption").textContent;
    const step = document.querySelector(".scrubber p")?.textContent;
    requestAnimationFrame(() => {
      if (/^step [1-9],/.test(step)) times.first ??= performance.now();
      if (times.first && / s$/.test(caption)) times.all ??= performance.now();
    });
  }).observe(document.querySelector(".stage"), changes);
  [...document.querySelectorAll("button")].find((one) => one.textContent.trim() === "Dice").click();
}"""
"""Ask for other pictures in ten steps; note when the first frame and the last are painted."""


def busy(words: str) -> float:
    """Seconds of processor time of all processes whose command has these words."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in file.read_text():
                ticks += sum(map(int, (file.parent / "stat").read_text().split()[13:15]))
        except OSError:  # it has ended
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def in_browser(port: int) -> dict[str, str]:
    """What a person at Chromium waits for, and what a tab costs that nobody touches."""
    from playwright.sync_api import sync_playwright

    rows, took = dict[str, str](), list[float]()
    with sync_playwright() as tool:
        path, flags = shutil.which("chromium"), ["--no-sandbox"]
        chromium = tool.chromium.launch(executable_path=path, args=flags)
        page = chromium.new_page()
        for _ in range(ROUNDS):
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector(".scrubber input")
            took.append(page.evaluate(PAINTED))
        rows["Chromium: the page is painted"] = f"{statistics.median(took):.0f} ms"
        for name, body in BODIES.items():
            page.select_option("select", body["model"])
            times = list[tuple[float, float]]()
            for _ in range(ROUNDS + 1):
                page.wait_for_function(DONE)
                page.wait_for_timeout(500)
                page.evaluate(WATCH)
                page.wait_for_function("() => window.times.all")
                found = page.evaluate("() => window.times")
                times.append((found["first"] - found["start"], found["all"] - found["start"]))
            first, last = map(statistics.median, zip(*times[1:], strict=True))
            rows[f"Chromium, {name}: first frame, all"] = f"{first:.0f}, {last:.0f} ms"
        page.wait_for_timeout(3000)
        before = busy("unnoise"), busy("chromium")
        time.sleep(IDLE_SEC)
        shares = [
            100 * (now - old) / IDLE_SEC
            for now, old in zip((busy("unnoise"), busy("chromium")), before, strict=True)
        ]
        words = "an idle tab: the server and Chromium, of a core"
        rows[words] = "{:.2f} and {:.2f} %".format(*shares)
        chromium.close()
    return rows


def main() -> None:
    starts, memory = list[float](), list[str]()
    for _ in range(ROUNDS):
        with server() as (_, _, sec):
            starts.append(1000 * sec)
    rows = {"the page, from the start of the process": f"{statistics.median(starts):.0f} ms"}
    with server() as (port, _, _):
        rows |= in_browser(port)
    with server() as (port, process, _):
        for name, body in BODIES.items():
            first, last, ratio = compared(port, body)
            rows[f"{name}: first frame"] = f"{first:.0f} ms"
            rows[f"{name}: all"] = f"{last:.0f} ms"
            rows[f"{name}: read as it runs, against later"] = f"{ratio:.2f}"
        p95, ends = crowd(port)
        rows[f"20 clients for {SEC} s: status, p95"] = f"{p95:.0f} ms"
        rows["20 clients: jobs"] = ", ".join(f"{count} {end}" for end, count in ends.items())
        for number in range(JOBS + 1):
            if number in (0, JOBS):
                said = Path(f"/proc/{process}/status").read_text()
                memory.append(f"{int(re.findall(r'VmRSS:.*?([0-9]+)', said)[0]) / 1024:.0f} MB")
            run(port, {**DIGITS, "seed": number})
        rows[f"memory before and after {JOBS} jobs"] = ", ".join(memory)
    for name, body in BODIES.items():
        rows[f"{name}: with frames, against plain sampling"] = f"{frames(body):.2f}"
    print("| | |\n|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items()), sep="\n")


if __name__ == "__main__":
    main()
