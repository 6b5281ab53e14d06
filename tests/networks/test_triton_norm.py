"""The fused GroupNorm, scale and shift, SiLU against float64, on CUDA and in Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, so on the CPU the checks run in a pytest of
their own: one test here.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unnoise.networks import triton_norm
from unnoise.networks.triton_norm import group_norm_silu

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
on_cuda = pytest.mark.parametrize("device", [CUDA])
outside = pytest.mark.skipif(
    INTERPRETED, reason="starts the interpreter's process, or needs no triton"
)


@pytest.fixture(params=["cpu"] if INTERPRETED else [CUDA])
def device(request):
    return request.param


@pytest.fixture
def blocks(monkeypatch):
    """Sets (TILE, PROGRAMS): small tensors then meet several tiles and chunks."""

    def choose(tile, programs):
        monkeypatch.setattr(triton_norm, "TILE", tile)
        monkeypatch.setattr(triton_norm, "PROGRAMS", programs)
        triton_norm._launch.cache_clear()

    yield choose
    triton_norm._launch.cache_clear()


def inputs(
    shape, device, dtype=torch.float32, parameters=torch.float32, conditioned=(True, True)
) -> Any:
    """x in channels_last, weight, bias, and scale and shift as halves of one embedding."""
    torch.manual_seed(0)
    n, c = shape[:2]
    x = (2 * torch.randn(shape) + 1).to(device, dtype).to(memory_format=torch.channels_last)
    weight, bias = (torch.randn(c, device=device).to(parameters) for _ in range(2))
    halves = torch.randn(n, 2 * c, device=device).to(parameters).chunk(2, dim=1)
    scale, shift = (
        half if given else None for half, given in zip(halves, conditioned, strict=True)
    )
    return [None if v is None else v.requires_grad_() for v in (x, weight, bias, scale, shift)]


def ours(tensors, groups):
    x, weight, bias, scale, shift = tensors
    return group_norm_silu(x, groups, weight, bias, 1e-5, scale, shift)


def plain(tensors, groups):
    x, weight, bias, scale, shift = tensors
    y = F.group_norm(x, groups, weight, bias, 1e-5)
    y = y if scale is None else y * (1 + scale[:, :, None, None])
    y = y if shift is None else y + shift[:, :, None, None]
    return F.silu(y)


def results(function, tensors, groups, dtype=None):
    """y and the gradients of every tensor given, for a random dy (rounded to dtype)."""
    y = function(tensors, groups)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype or y.dtype).to(y)
    return [y, *torch.autograd.grad(y, [v for v in tensors if v is not None], dy)]


def exact(tensors, groups):
    doubles = [None if v is None else v.detach().double().requires_grad_() for v in tensors]
    return results(plain, doubles, groups, tensors[0].dtype)


def assert_near(got, want, tolerance):
    """Largest error by largest value: y, dx, then the gradients of the other tensors."""
    assert len(got) == len(want)
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape
        error = ((a.double() - b).abs().max() / b.abs().max()).item()
        assert error < tolerance, f"result {index}: {error:.1e}"


@outside
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton (pip install triton)"
)
def test_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-m",
        "not gpu",
        "-p",
        "no:cacheprovider",
        __file__,
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout


@outside
def test_the_module_imports_where_triton_does_not():
    code = (
        "import sys; sys.modules['triton'] = None; "
        "from unnoise.networks import triton_norm as t; print(t.available())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "False"


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 96, 7, 7), 32),
        ((1, 192, 3, 3), 32),
        ((2, 320, 1, 1), 32),
        ((2, 64, 8, 8), 32),
        ((1, 24, 32, 32), 8),
        ((1, 8, 64, 64), 1),
        ((3, 5, 2, 9), 5),
    ],
)
def test_values_and_gradients(device, shape, groups):
    tensors = inputs(shape, device)
    assert_near(results(ours, tensors, groups), exact(tensors, groups), 1e-5)


@pytest.mark.parametrize("conditioned", [(True, False), (False, True), (False, False)])
def test_without_scale_or_shift(device, conditioned):
    tensors = inputs((2, 12, 3, 5), device, conditioned=conditioned)
    assert_near(results(ours, tensors, 4), exact(tensors, 4), 1e-5)


@pytest.mark.parametrize("sizes", [(256, 6), (64, 1), (16, 64)])
def test_any_block_sizes(device, blocks, sizes):
    """Several tiles to a chunk, one chunk, many more chunks than a block of them holds."""
    blocks(*sizes)
    tensors = inputs((2, 12, 9, 11), device)
    tensors[0] = (
        (tensors[0] + torch.linspace(-5, 5, 11, device=device)).detach().requires_grad_()
    )  # chunks differ
    assert_near(results(ours, tensors, 3), exact(tensors, 3), 1e-5)


@pytest.mark.parametrize("sizes", [(4096, 2048), (128, 6)])
def test_a_large_mean_cancels_nothing(device, blocks, sizes):
    """Mean 1000, std 1: E x^2 - (E x)^2 in float32 is off by a tenth of the variance."""
    blocks(*sizes)
    _, *rest = inputs((2, 8, 16, 16), device)
    x = 1000 + torch.randn(2, 8, 16, 16, device=device).to(memory_format=torch.channels_last)
    x[0, :4] -= 3000  # and the groups of an image and the images differ
    x[1, 1] += 2
    tensors = [x.requires_grad_(), *rest]
    assert_near(
        results(ours, tensors, 2), exact(tensors, 2), 4e-5
    )  # float32 holds the mean itself to 3e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("same", [False, True])
def test_sixteen_bits(device, dtype, same):
    """Only what is stored in 16 bits is rounded to them."""
    tensors = inputs((2, 32, 6, 7), device, dtype, dtype if same else torch.float32)
    got, want = results(ours, tensors, 8), exact(tensors, 8)
    unit = torch.finfo(dtype).eps
    assert [v.dtype for v in got] == [dtype, dtype, *(v.dtype for v in tensors[1:])]
    assert_near(got[:2], want[:2], unit)
    assert_near(got[2:], want[2:], unit if same else 1e-5)


def test_finite_differences(device):
    tensors = inputs((1, 6, 3, 4), device)
    y = ours(tensors, 2)
    weights = torch.randn(y.shape, device=device, dtype=torch.float64)
    gradients = torch.autograd.grad((y * weights).sum(), tensors)
    for index, (v, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        step = 1e-2 * torch.randn_like(v)
        with torch.no_grad():
            ends = [
                ours([*tensors[:index], v + way * step, *tensors[index + 1 :]], 2)
                for way in (1, -1)
            ]
        slope = ((ends[0] - ends[1]).double() * weights).sum() / 2
        torch.testing.assert_close(
            (gradient * step).sum().double(), slope, rtol=2e-3, atol=2e-3 * step.norm().item()
        )


def test_bitwise_repeatable(device, blocks):
    blocks(256, 16)
    tensors = inputs((2, 24, 9, 9), device)
    first, second = (results(ours, tensors, 4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_any_layout_comes_in_and_channels_last_comes_out(device):
    tensors = inputs((2, 12, 4, 5), device)
    want = results(ours, tensors, 3)
    x = tensors[0].detach()
    wide = torch.cat([x, x], dim=1)[:, :12]
    for other in (
        x.contiguous(),
        wide,
        x.contiguous().transpose(2, 3).contiguous().transpose(2, 3),
    ):
        got = results(ours, [other.requires_grad_(), *tensors[1:]], 3)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        assert got[0].is_contiguous(memory_format=torch.channels_last)
    spaced = [torch.stack([v.detach()] * 2, -1)[..., 0].requires_grad_() for v in tensors[1:]]
    assert all(
        torch.equal(a, b)
        for a, b in zip(results(ours, [tensors[0], *spaced], 3), want, strict=True)
    )
    one = torch.ones((), device=device).expand(x.shape)  # the gradient of a sum has strides 0
    summed = torch.autograd.grad(ours(tensors, 3).sum(), tensors)
    assert all(
        torch.equal(a, b)
        for a, b in zip(summed, torch.autograd.grad(ours(tensors, 3), tensors, one), strict=True)
    )


def test_backward_keeps_x_and_little_else(device):
    kept = []
    tensors = inputs((2, 8, 16, 16), device)
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        ours(tensors, 2)
    assert sum(v.data_ptr() == tensors[0].data_ptr() for v in kept) == 1
    assert sum(v.numel() for v in kept) <= tensors[0].numel() + 5 * 2 * 8 + 2 * 8


def test_operators_are_registered_soundly(device):
    x, weight, bias, scale, _ = (v.detach() for v in inputs((2, 8, 3, 3), device))
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    operators = torch.ops.unnoise
    torch.library.opcheck(
        operators.group_norm_silu.default,
        (x, 4, weight, bias, 1e-5, scale, None),
        test_utils=checks,
    )
    y, coef = operators.group_norm_silu(x, 4, weight, bias, 1e-5, scale, None)
    torch.library.opcheck(
        operators.group_norm_silu_backward.default, (x, y, 4, coef), test_utils=checks
    )


def test_compiled_whole(device):
    """No graph break, the same bits; Inductor itself on CUDA only."""
    backend = "inductor" if device == "cuda" else "aot_eager"
    tensors = inputs((2, 16, 5, 3), device)
    function = getattr(
        triton_norm.group_norm_silu, "__wrapped__", group_norm_silu
    )  # without the tests' shape checks

    def around(tensors, groups):
        x, weight, bias, scale, shift = tensors
        return function(x * 2, groups, weight, bias, 1e-5, scale, shift) + 1

    compiled = torch.compile(around, backend=backend, fullgraph=True)
    got, want = (results(f, tensors, 4) for f in (compiled, around))
    assert_near(got, [v.double() for v in want], 1e-6)
    assert [v.stride() for v in got] == [v.stride() for v in want]


def test_second_gradients_are_refused(device):
    tensors = inputs((2, 8, 3, 3), device)
    (first,) = torch.autograd.grad(ours(tensors, 4).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError):  # not silently zero
        torch.autograd.grad(first.sum(), tensors[0])


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graph_replays_it(device, dtype):
    tensors = inputs((4, 96, 16, 16), device, dtype)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles the kernels: capture allows no module to load
        results_on_device(tensors)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results_on_device(tensors)
    with torch.no_grad():
        tensors[0].mul_(3).sub_(1)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, results_on_device(tensors), strict=True))


def results_on_device(tensors):
    y = ours(tensors, 32)
    return [y, *torch.autograd.grad(y, tensors, y.detach())]


@on_cuda
def test_nothing_waits_for_the_gpu(device):
    tensors = inputs((4, 96, 16, 16), device)
    results_on_device(tensors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results_on_device(tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
@pytest.mark.parametrize("shape", [(33, 256, 512, 512), (1, 64, 6000, 6000)])
def test_more_than_two_to_the_31_elements(device, shape):
    """The last group of the last image as if alone; 20 GB of bf16."""
    assert torch.Size(shape).numel() > 2**31
    c, width = shape[1], shape[1] // 32
    x = torch.empty(
        shape, device=device, dtype=torch.bfloat16, memory_format=torch.channels_last
    ).normal_()
    x[-1, :, shape[2] // 2 :] += 3
    weight, bias = torch.randn(c, device=device), torch.randn(c, device=device)
    y = group_norm_silu(x.requires_grad_(), 32, weight, bias, 1e-5)
    (dx,) = torch.autograd.grad(y, x, y.detach())
    group = x.detach()[-1:, -width:].float().requires_grad_()
    want = F.silu(F.group_norm(group, 1, weight[-width:], bias[-width:], 1e-5))
    (gradient,) = torch.autograd.grad(want, group, want.detach())
    assert_near([y[-1:, -width:], dx[-1:, -width:]], [want.double(), gradient.double()], 0.02)
