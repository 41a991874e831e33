"""Measures the core: speed and memory of `fused` beside Flax nnx, compile time, import time, and the quickstart.

    python benchmarks/core.py [--quick | --quickstart] [--write]

Rivals take turns in one process, in another order every turn. A row gives the medians of the times and of the ratios
that are formed in every turn, and the quartiles of these. Absolute times mean nothing on a shared machine, ratios
within one run do. `--write` saves the tables under benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import rnnjax as rj

SHAPES = ((32, 100, 64, 128), (32, 100, 128, 256), (64, 200, 256, 512), (1, 1000, 64, 128), (128, 28, 28, 128))
SHAPES += ((16, 512, 32, 64),)
CELLS = {"LSTM": (rj.LSTM, nnx.OptimizedLSTMCell), "GRU": (rj.GRU, nnx.GRUCell)}
RESULTS = Path(__file__).parent / "results"

Timed = tuple[Callable[..., Any], tuple[Any, ...]]


def ours(cell: rj.Cell, shape: tuple[int, ...], **options: Any) -> Timed:
    """A function (params, xs) -> ys, and its arguments; shape is B, T, I, H."""
    batch, steps, in_size, _ = shape
    params = cell.init(jax.random.key(0), in_size)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, in_size))
    return lambda params, xs: rj.unroll(cell, params, xs, **options)[0], (params, xs)


def flax_nnx(cell: Any, shape: tuple[int, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The same of `nnx.RNN`, time-major, its weights split off so that plain `jax.grad` sees them."""
    batch, steps, in_size, hidden = shape
    module = nnx.RNN(cell(in_size, hidden, rngs=nnx.Rngs(0)), time_major=True, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    zeros = jnp.zeros((batch, hidden))
    carry = (zeros, zeros) if cell is nnx.OptimizedLSTMCell else zeros
    xs = jax.random.normal(jax.random.key(1), (steps, batch, in_size))

    def apply(params: Any, xs: Any, rest: Any) -> Any:
        return nnx.merge(graph, params, rest)(xs, initial_carry=carry)

    return apply, (params, xs, rest)


def gradient(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients of Σy² by parameters and inputs."""
    return jax.grad(lambda *args: jnp.sum(apply(*args) ** 2), argnums=(0, 1))


def interleaved(rivals: list[Timed], seconds: float, least: int) -> list[list[float]]:
    """Milliseconds of every rival in turn, until `seconds` have passed and each was measured `least` times."""
    compiled = [(jax.jit(f).lower(*args).compile(), args) for f, args in rivals]
    return turns([lambda f=f, args=args: jax.block_until_ready(f(*args)) for f, args in compiled], seconds, least)


def turns(runs: list[Callable[[], Any]], seconds: float, least: int) -> list[list[float]]:
    """The same of calls that return when they are done.

    A call right behind one that takes much memory is slower. So each turn has an order of its own, and a call that is
    not counted comes before each that is.
    """
    times: list[list[float]] = [[] for _ in runs]
    rng, start = random.Random(0), time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[0]) < least:
        for i in rng.sample(range(len(runs)), len(runs)):
            runs[i]()
            before = time.perf_counter()
            runs[i]()
            times[i].append((time.perf_counter() - before) * 1e3)
    return times


def speed(seconds: float, least: int) -> list[dict[str, Any]]:
    """One row a cell and shape: forward and gradient, nnx's time over ours, in at least so many turns."""
    rows = []
    for name, (cell, peer) in CELLS.items():
        for shape in SHAPES:
            row: dict[str, Any] = {"cell": name, "shape": shape}
            mine, my_args = ours(cell(shape[-1]), shape, implementation="fused")
            theirs, their_args = flax_nnx(peer, shape)
            for what, change in (("forward", lambda f: f), ("gradient", gradient)):
                a, b = interleaved([(change(theirs), their_args), (change(mine), my_args)], seconds, least)
                ratios = sorted(x / y for x, y in zip(a, b, strict=True))
                row[what] = {
                    "nnx_ms": statistics.median(a),
                    "fused_ms": statistics.median(b),
                    "ratio": statistics.median(ratios),
                    "spread": (ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]),
                }
            rows.append(row)
            print(speed_line(row), flush=True)
    return rows


def speed_line(row: dict[str, Any]) -> str:
    """A row of the speed table."""
    cells = [f"{row['cell']} {','.join(map(str, row['shape']))}"]
    for what in ("forward", "gradient"):
        r = row[what]
        low, high = r["spread"]
        cells.append(f"{r['nnx_ms']:.1f} → {r['fused_ms']:.1f} ms, ×{r['ratio']:.2f} ({low:.2f}–{high:.2f})")
    return "| " + " | ".join(cells) + " |"


def memory() -> dict[str, float]:
    """Temporary bytes of the LSTM gradient by `fused` in units of T·B·H·4.

    The loss reads all outputs, so that these and their cotangents, a unit each, are there whatever `remat` says:
    `memory_sqrt_streamed` sums the loss chunk by chunk instead.
    """
    shape = batch, steps, _, hidden = 8, 1024, 16, 32
    unit = steps * batch * hidden * 4

    def units(apply: Callable[..., Any], args: tuple[Any, ...]) -> float:
        return jax.jit(gradient(apply)).lower(*args).compile().memory_analysis().temp_size_in_bytes / unit

    found = {"memory_nnx": units(*flax_nnx(nnx.OptimizedLSTMCell, shape))}
    for name, remat in (("default", None), ("state", "state"), ("sqrt", "sqrt")):
        found[f"memory_{name}"] = units(*ours(rj.LSTM(hidden), shape, remat=remat, implementation="fused"))
    found["memory_sqrt_streamed"] = streamed_units(shape, unit)
    return found


def streamed_units(shape: tuple[int, ...], unit: int) -> float:
    """The same gradient where the loss, too, is summed chunk by chunk, so that the outputs never exist at once."""
    batch, steps, in_size, hidden = shape
    cell, length = rj.LSTM(hidden), math.isqrt(steps)
    params = cell.init(jax.random.key(0), in_size)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, in_size))

    def loss(params: Any, xs: Any) -> Any:
        @jax.checkpoint
        def chunk(state: Any, xs: Any) -> Any:
            ys, state = rj.unroll(cell, params, xs, state, implementation="fused")
            return state, jnp.sum(ys**2)

        chunks = xs.reshape(-1, length, batch, in_size)
        return jnp.sum(jax.lax.scan(chunk, cell.initial_state(params, (batch,)), chunks)[1])

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, xs).compile()
    return compiled.memory_analysis().temp_size_in_bytes / unit


def compile_ratios(repeats: int) -> dict[str, float]:
    """Seconds to trace, lower and compile the gradient of two stacked LSTMs, ours over nnx's: by what the library takes
    for itself, which on a CPU is `cpu`, and by `fused`."""
    cells, xs = (rj.LSTM(64), rj.LSTM(64)), jnp.ones((64, 16, 32))
    params = rj.Stack([rj.RNN(cell) for cell in cells]).init(jax.random.key(0), 32)
    first, (p1, _, r1) = flax_nnx(nnx.OptimizedLSTMCell, (16, 64, 32, 64))
    second, (p2, _, r2) = flax_nnx(nnx.OptimizedLSTMCell, (16, 64, 64, 64))

    def seconds(f: Callable[..., Any], args: tuple[Any, ...]) -> float:
        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(gradient(f)).lower(*args).compile()
        return time.perf_counter() - start

    def by(implementation: str | None) -> Callable[..., Any]:
        layers = rj.Stack([rj.RNN(cell, implementation=implementation) for cell in cells])
        return lambda params, xs: layers(params, xs)[0]

    def nnx_layers(p: Any, xs: Any) -> Any:
        return second(p[1], first(p[0], xs, r1), r2)

    programs = {"nnx": (nnx_layers, ((p1, p2), xs))}
    programs |= {"compile_vs_nnx": (by(None), (params, xs)), "compile_fused_vs_nnx": (by("fused"), (params, xs))}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(seconds(*program))
    medians = {name: statistics.median(own) for name, own in times.items()}
    return {name: median / medians["nnx"] for name, median in medians.items() if name != "nnx"}


def import_seconds(repeats: int) -> float:
    """Seconds that `import rnnjax` takes after `import jax`, in fresh processes, with the bytecode that the first one
    leaves, as an installation has it."""
    code = "import jax, time; t = time.perf_counter(); import rnnjax; print(time.perf_counter() - t)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds() -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env).stdout)

    seconds()
    return statistics.median(seconds() for _ in range(repeats))


def summarize(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means and least rows of the speed table."""
    figures = {}
    for what in ("gradient", "forward"):
        ratios = [row[what]["ratio"] for row in rows]
        figures[f"fused_vs_nnx_{what}"] = statistics.geometric_mean(ratios)
        figures[f"fused_vs_nnx_{what}_least"] = min(ratios)
    return figures


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; a quick run shows that a benchmark runs, and its figures are not kept."""
    args = parser.parse_args()
    if args.quick and args.write:
        parser.error("--write keeps the figures of a whole run; leave out --quick")
    return args


def machine() -> str:
    """One line on what the run ran on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{len(names)} × {names[0]}" if names else model
    return f"{model}, {jax.devices()[0].platform}, Python {platform.python_version()}, jax {jax.__version__}"


def write(rows: list[dict[str, Any]] | None, figures: dict[str, float]) -> None:
    """Saves the tables as JSON and Markdown. Without rows, the table of speeds is what it was, as are other figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "core.json"
    if rows is None:
        saved = json.loads(path.read_text())
        kept = {name: value for name, value in saved["figures"].items() if not name.startswith("quickstart_")}
        path.write_text(json.dumps(saved | {"figures": kept | figures}, indent=1) + "\n")
        return
    data = {"machine": machine(), "figures": figures, "speed": rows}
    path.write_text(json.dumps(data, indent=1) + "\n")
    lines = [f"{machine()}; medians, in brackets the quartiles of the ratio. `python benchmarks/core.py --write`", ""]
    lines += ["| cell B,T,I,H | forward, nnx → rnnjax | forward + gradients, nnx → rnnjax |", "|---|---|---|"]
    lines += [speed_line(row) for row in rows]
    (RESULTS / "core.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a second a row and one seed: shows that it runs")
    parser.add_argument("--write", action="store_true", help="save the tables under benchmarks/results")
    parser.add_argument("--quickstart", action="store_true", help="the quickstart alone")
    args = parsed(parser)
    print(machine())
    figures: dict[str, float] = {}
    rows = None
    if not args.quickstart:
        figures = memory()
        figures["import_seconds"] = import_seconds(3 if args.quick else 7)
        figures |= compile_ratios(1 if args.quick else 5)
        rows = speed(1, 5) if args.quick else speed(5, 15)
        figures |= summarize(rows)
    for name, value in figures.items():
        print(f"figure: {name} {value:.4g}")

    from quickstart_vs_keras import measure

    figures |= measure(seeds=1 if args.quick else 5)  # which prints its own
    if args.write:
        write(rows, figures)


if __name__ == "__main__":
    main()
