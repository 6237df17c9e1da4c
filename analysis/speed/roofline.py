"""How close a step comes to its device's ceilings: arithmetic and memory bandwidth.

The ceilings are measured on the device at hand, with the threads and in the precision of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from posmlp.linear import project
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.cost.costs import clip_shape_of
from analysis.speed.count_step import count_bytes, count_flops
from analysis.speed.speed import PHASES, measure_speed, uncompiled
from posmlp.config import PosMLPConfig
from posmlp.train.population import seeded_model

LARGE = 2**26
"""Floats of each array that is copied: 256 MB, well over the caches."""

PRODUCT_SIZES = {"cpu": (4096, 512, 512), "cuda": (8192, 8192, 8192)}
"""Rows, channels in and channels out of the products that set the ceiling of arithmetic."""

MAKERS: dict[str, Callable[..., Tensor]] = {"project": project, "linear": F.linear}
"""The ways in which a branch may compute a product (`posmlp.linear`)."""

TIMED = ["phase", "mode", "batch_size", "median_ms", "q1_ms", "q3_ms", "num_runs", "unstable"]


class Ceilings(NamedTuple):
    """GFLOP/s of the faster product and GB/s (1e9 bytes) of the faster pass over memory."""

    gflops_per_s: float
    gb_per_s: float


def measure_ceilings(
    device: torch.device | str = "cpu", mode: str = "eager", num_threads: int | None = None
) -> Ceilings:
    """Ceilings of a device, each the better of two ways by its median, measured now.

    Arithmetic: a product of PRODUCT_SIZES in the precision of `mode` (`analysis.speed.MODES`;
    float32 is as precise as torch.get_float32_matmul_precision tells), by both MAKERS. Memory: a
    copy (one array read, one written) and a triad (two read, one written) of LARGE floats.
    """
    kind = torch.device(device).type
    products = make_products(kind)
    passes = {"copy": _Copy(), "triad": _Triad()}
    speeds = measure_speed(
        {**products, **passes},
        clip_shape=(1,),
        modes=[uncompiled(mode)],
        device=device,
        num_threads=num_threads,
        warm_up=2,
        min_runs=9,
        min_seconds=0.0,
    )
    median_ms = speeds.set_index("model")["median_ms"]
    rates = [one.num_arrays * 4 * LARGE / median_ms[name] for name, one in passes.items()]
    return Ceilings(peak_gflops_per_s(speeds, kind), max(rates) / 1e6)


def make_products(kind: str) -> dict[str, nn.Module]:
    """Modules that each compute one large product, to be timed like models; `kind`: cpu or cuda."""
    return {name: _Product(maker, *PRODUCT_SIZES[kind]) for name, maker in MAKERS.items()}


def peak_gflops_per_s(speeds: pd.DataFrame, kind: str) -> float:
    """GFLOP/s of the faster of `make_products`, from the rows of `measure_speed` that time them."""
    rows, c_in, c_out = PRODUCT_SIZES[kind]
    times = speeds.loc[speeds["model"].isin(MAKERS), "median_ms"]
    return 2 * rows * c_in * c_out / 1e6 / times.min()


class _Product(nn.Module):
    """A product of its own matrices; its output has a gradient, which costs nothing."""

    def __init__(self, maker: Callable[..., Tensor], rows: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.maker = maker
        self.scale = nn.Parameter(torch.ones(()))
        for name, shape in {"x": (rows, c_in), "weight": (c_out, c_in), "bias": (c_out,)}.items():
            tensor = torch.randn(shape)
            self.register_buffer(f"{name}_float32", tensor, persistent=False)
            self.register_buffer(f"{name}_bfloat16", tensor.bfloat16(), persistent=False)

    def forward(self, _: Tensor) -> Tensor:
        low = torch.is_autocast_enabled(self.scale.device.type)
        names = (f"{name}_{'bfloat16' if low else 'float32'}" for name in ("x", "weight", "bias"))
        with torch.no_grad():
            y = self.maker(*(getattr(self, name) for name in names))
        return self.scale * y[0, 0]


class _Copy(nn.Module):
    """One array copied to another."""

    num_arrays = 2

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.ones(LARGE), persistent=False)
        self.register_buffer("c", torch.ones(LARGE), persistent=False)

    def forward(self, _: Tensor) -> Tensor:
        return self.get_buffer("c").copy_(self.get_buffer("a"))


class _Triad(_Copy):
    """a + 3 b, written to c."""

    num_arrays = 3

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", torch.ones(LARGE), persistent=False)

    def forward(self, _: Tensor) -> Tensor:
        a, b, c = (self.get_buffer(name) for name in "abc")
        return torch.add(a, b, alpha=3, out=c)


def against_ceilings(
    flops: float, num_bytes: float, median_ms: float, ceilings: Ceilings
) -> dict[str, Any]:
    """Columns that place a step of so many FLOPs and bytes under the roofline.

    gflops, gb : of the step, in units of 1e9; gflops_per_s, gb_per_s : over its median time;
    peak_gflops_per_s, peak_gb_per_s : the ceilings; flops_per_byte : arithmetic intensity; bound :
    `compute` or `memory`, whichever ceiling is the lower at that intensity; roofline_share :
    gflops_per_s over that lower one, min(peak, intensity x bandwidth). A share above 1 under the
    `memory` bound says that caches served what was counted as moved.
    """
    intensity = flops / num_bytes
    roof = intensity * ceilings.gb_per_s
    rate = flops / 1e6 / median_ms
    return {
        "gflops": flops / 1e9,
        "gb": num_bytes / 1e9,
        "gflops_per_s": rate,
        "gb_per_s": num_bytes / 1e6 / median_ms,
        "peak_gflops_per_s": ceilings.gflops_per_s,
        "peak_gb_per_s": ceilings.gb_per_s,
        "flops_per_byte": intensity,
        "bound": "memory" if roof < ceilings.gflops_per_s else "compute",
        "roofline_share": rate / min(roof, ceilings.gflops_per_s),
    }


def bench_roofline(
    config: PosMLPConfig,
    device: str,
    num_runs: int,
    *,
    modes: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Forward pass and training step against the device's ceilings in each mode.

    `modes`: of `analysis.speed.MODES`, by default eager, and bfloat16 too on a GPU; `batch_size`:
    by default 8 clips on a GPU and 1 on a CPU. A training step is forward and backward, without an
    optimiser.

    Columns: phase, mode, batch_size, median_ms, q1_ms, q3_ms, num_runs, unstable, counted
    (`operators`, or `products` alone where a mode is compiled: see `count_bytes`), those of
    `against_ceilings`, and num_threads.
    """
    on_cpu = torch.device(device).type == "cpu"
    size = batch_size or (1 if on_cpu else 8)
    model = seeded_model(config, 0).to(device)
    shape = clip_shape_of(model)
    clips = torch.randn(size, *shape, device=device)
    rows = []
    for mode in modes or (["eager"] if on_cpu else ["eager", "bfloat16"]):
        for phase in PHASES:
            ceilings = measure_ceilings(device, mode)
            speed = measure_speed(
                model,
                batch_sizes=[size],
                phases=[phase],
                modes=[mode],
                device=device,
                warm_up=3,
                min_runs=num_runs,
                min_seconds=0.0 if on_cpu else 1.0,
            ).iloc[0]
            traffic = count_bytes(model, clips, phase, mode)
            compiled = "compiled" in mode
            flops = count_flops(model, shape, size, phase)
            num_bytes = traffic.product_bytes if compiled else traffic.all_bytes
            rows.append(
                {
                    **speed[TIMED],
                    "counted": "products" if compiled else "operators",
                    **against_ceilings(flops, num_bytes, speed["median_ms"], ceilings),
                    "num_threads": speed["num_threads"],
                }
            )
    return pd.DataFrame(rows)
