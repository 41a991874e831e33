"""Recurrent layers on a CPU: every implementation beside PyTorch, ONNX Runtime, Flax, Equinox and Keras.

    python benchmarks/speed.py [--quick] [--write] [--only LSTM GRU Elman]

Four tables: layers at many sizes; cost against T, B and H; many models under `vmap`; single steps of a stream.

One process runs all rivals of a row in turns (A B C A B C …). Before each measurement it waits until the last one's
threads sleep, because PyTorch's spin for ten milliseconds after their work and slow down whoever comes next, and then
makes calls that are not counted until the machine is awake again. A row gives medians; its ratio is that of the peer
with the least median to `cpu`, formed in every turn: the median of those ratios and, in brackets, their quartiles.
Peers that are not installed are left out and named. Gradients are those of Σy² by parameters and inputs; ONNX Runtime
has none. In the figures of single steps the peers are Flax, Equinox and PyTorch; ONNX Runtime's time is named beside
them. Compilation and temporary memory are what XLA says of the programs; what `cpu`, PyTorch and ONNX Runtime
allocate by themselves is not among it. benchmarks/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peers
from core import RESULTS, SHAPES, gradient, machine, parsed
from flax import linen
from peers import GATES, Run, Shape, installed

import rnnjax as rj

CELLS = {"LSTM": rj.LSTM, "GRU": rj.GRU, "Elman": rj.Elman}
OURS = ("cpu", "fused", "scan")
SETTLE, AWAKE = 0.012, 0.015  # seconds
UNITS, STEPS = 128, 100  # of a stream
STREAMED = ("flax", "equinox", "torch")
"""What a step's figure compares with."""


def compiled(apply: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Run, dict[str, float]]:
    """A JAX function that waits for its result, with its seconds of compilation and bytes of temporary memory."""
    start = time.perf_counter()
    run = jax.jit(apply).lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = run.memory_analysis()
    facts = {"compile_seconds": seconds, "temporary_bytes": getattr(memory, "temp_size_in_bytes", 0)}
    return lambda: jax.block_until_ready(run(*args)), facts


def jax_rivals(name: str, shape: Shape) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Functions (params, xs) -> ys and their arguments, ours first."""
    batch, steps, inputs, hidden = shape
    xs = jax.random.normal(jax.random.key(1), (steps, batch, inputs))
    cell = CELLS[name](hidden)
    params = cell.init(jax.random.key(0), inputs)

    def ours(implementation: str, params: Any, xs: Any) -> Any:
        return rj.unroll(cell, params, xs, implementation=implementation)[0]

    return {name: (partial(ours, name), (params, xs)) for name in OURS} | peers.jax_layers(name, shape, xs)


def rivals(name: str, shape: Shape, what: str) -> tuple[dict[str, Run], dict[str, dict[str, float]]]:
    """Everything that runs a row, and what JAX knows of its own programs before they run."""
    runs: dict[str, Run] = {}
    facts: dict[str, dict[str, float]] = {}
    for rival, (apply, args) in jax_rivals(name, shape).items():
        runs[rival], facts[rival] = compiled(apply if what == "forward" else gradient(apply), args)
    if installed("torch"):
        runs["torch"] = peers.torch_runs(name, shape)[what == "gradient"]
    if what == "forward" and installed("onnx") and installed("onnxruntime"):
        runs["onnxruntime"] = peers.onnx_run(name, shape)
    return runs, facts


def in_turns(runs: dict[str, Run], seconds: float, least: int = 5) -> dict[str, list[float]]:
    """Milliseconds of every rival, one measurement a turn."""
    times: dict[str, list[float]] = {rival: [] for rival in runs}
    for run in runs.values():
        run()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(next(iter(times.values()))) < least:
        for rival, run in runs.items():
            time.sleep(SETTLE)
            awake = time.perf_counter() + AWAKE
            while time.perf_counter() < awake:
                run()
            before = time.perf_counter()
            run()
            times[rival].append((time.perf_counter() - before) * 1e3)
    return times


def row(name: str, shape: Shape, what: str, seconds: float) -> dict[str, Any]:
    """One line of the table."""
    runs, facts = rivals(name, shape, what)
    times = in_turns(runs, seconds)
    medians = {rival: statistics.median(own) for rival, own in times.items()}
    chosen = "cpu"
    best = min((rival for rival in medians if rival not in OURS), key=lambda rival: medians[rival])
    ratios = sorted(a / b for a, b in zip(times[best], times[chosen], strict=True))
    batch, steps, inputs, hidden = shape
    work = 2 * batch * steps * (inputs + hidden) * GATES[name] * hidden * (1 if what == "forward" else 3)
    return {
        "cell": name,
        "shape": shape,
        "what": what,
        "ms": medians,
        "facts": facts,
        "best": best,
        "ratio": statistics.median(ratios),
        "spread": (ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]),
        "gflops": {rival: work / ms / 1e6 for rival, ms in medians.items()},
    }


def peak_gflops(seconds: float) -> dict[str, float]:
    """The best matrix products of this machine, in GFLOP/s: XLA's, PyTorch's, and those of the kernels, by a network
    whose one activation costs next to nothing beside them."""
    size, (batch, steps, hidden) = 2048, (768, 4, 256)
    a = jnp.ones((size, size))
    products: dict[str, Run] = {"xla": compiled(lambda a, b: a @ b, (a, a))[0]}
    work = {"xla": 2 * size**3, "torch": 2 * size**3, "cpu": 2 * batch * steps * 2 * hidden * hidden}
    if installed("torch"):
        import torch

        b = torch.ones(size, size)
        products["torch"] = lambda: b @ b
    cell = rj.Elman(hidden, activation="relu")
    params = cell.init(jax.random.key(0), hidden)
    state = jax.tree.map(jnp.ones_like, cell.initial_state(params, (batch,)))  # of zeros, products are left out
    xs = jnp.ones((steps, batch, hidden))
    products["cpu"] = compiled(partial(rj.unroll, cell, implementation="cpu"), (params, xs, state))[0]
    return {name: work[name] / min(times) / 1e6 for name, times in in_turns(products, seconds).items()}


def with_shares(rows: list[dict[str, Any]], peaks: dict[str, float]) -> list[dict[str, Any]]:
    """The rows with their shares of the peak, which is the best of the products and of what any rival of a row does."""
    peak = max([*peaks.values(), *(value for found in rows for value in found["gflops"].values())])
    return [{**found, "peak_share": found["gflops"]["cpu"] / peak} for found in rows]


def products(peaks: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in peaks.items())


def line(found: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    low, high = found["spread"]
    peers = ", ".join(f"{rival} {ms:.1f}" for rival, ms in sorted(found["ms"].items(), key=lambda item: item[1]))
    shape = ",".join(map(str, found["shape"]))
    ratio = f"×{found['ratio']:.2f} ({low:.2f}–{high:.2f}) over {found['best']}"
    known = {rival: own for rival, own in found["facts"].items() if rival in ("cpu", "fused", found["best"])}
    facts = ", ".join(
        f"{rival} {own['compile_seconds']:.2f} s {own['temporary_bytes'] / 1e6:.1f} MB" for rival, own in known.items()
    )
    return f"| {found['cell']} {shape} | {found['what']} | {ratio} | {found['peak_share']:.2f} | {peers} | {facts} |"


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The figures."""
    figures = {}
    for what in ("gradient", "forward"):
        ratios = [found["ratio"] for found in rows if found["what"] == what]
        figures |= {f"{what}_mean": statistics.geometric_mean(ratios), f"{what}_least": min(ratios)}
    large = [r["peak_share"] for r in rows if r["what"] == "gradient" and r["shape"][0] >= 32 and r["shape"][3] >= 256]
    return figures | ({"peak_share": min(large)} if large else {})


def scaling(seconds: float) -> list[dict[str, Any]]:
    """Milliseconds of forward and gradients of an LSTM against T, B and H, each with the exponent of a fitted power."""
    base = {"B": 8, "T": 1000, "I": 16, "H": 64}
    found = []
    for axis, values in (("T", (100, 1000, 10_000, 100_000)), ("B", (1, 4, 16, 64, 256)), ("H", (16, 64, 256))):
        runs = {}
        for value in values:
            batch, steps, inputs, hidden = ({**base, "T": 100} | {axis: value}).values()
            cell = rj.LSTM(hidden)
            params = cell.init(jax.random.key(0), inputs)
            xs = jax.random.normal(jax.random.key(1), (steps, batch, inputs))
            runs[str(value)] = compiled(gradient(lambda p, xs, cell=cell: rj.unroll(cell, p, xs)[0]), (params, xs))[0]
        medians = {value: statistics.median(own) for value, own in in_turns(runs, 3 * seconds).items()}
        slope = np.polyfit(np.log([float(v) for v in medians]), np.log(list(medians.values())), 1)[0]
        found.append({"axis": axis, "ms": medians, "exponent": float(slope)})
        print(f"| {axis} | {slope:.2f} | {', '.join(f'{v}: {ms:.2f}' for v, ms in medians.items())} |", flush=True)
    return found


def populations(seconds: float) -> dict[str, list[float]]:
    """Milliseconds of forward and gradients of 32 LSTMs: under `vmap`, call by call, and Flax's under `vmap`."""
    models, (batch, steps, inputs, hidden) = 32, (16, 100, 64, 64)
    cell, module = rj.LSTM(hidden), linen.RNN(linen.OptimizedLSTMCell(hidden), time_major=True)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, inputs))
    keys = jax.random.split(jax.random.key(0), models)
    params = jax.vmap(lambda key: cell.init(key, inputs))(keys)
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(models)]
    grad = gradient(lambda p, xs: rj.unroll(cell, p, xs)[0])
    single = jax.jit(grad).lower(each[0], xs).compile()
    theirs = jax.vmap(lambda key: module.init(key, xs))(keys)
    runs = {
        "vmap": compiled(jax.vmap(grad, (0, None)), (params, xs))[0],
        "one by one": lambda: jax.block_until_ready([single(own, xs) for own in each]),
        "flax": compiled(jax.vmap(gradient(module.apply), (0, None)), (theirs, xs))[0],
    }
    return in_turns(runs, 2 * seconds)


def streams(layers: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of so many single steps of so many LSTMs at B 1, waiting for each output."""
    model = rj.Stack([rj.LSTM(UNITS)] * layers)
    stepper = rj.stepper(model, model.init(jax.random.key(0), UNITS))
    ours = peers.jax_stream(stepper, jnp.ones((1, UNITS)), stepper.initial_state((1,)), STEPS)
    return in_turns({"rnnjax": ours} | peers.streams(UNITS, layers, STEPS), seconds)


def further(seconds: float) -> tuple[dict[str, Any], dict[str, float]]:
    """The tables besides the first, and their figures."""
    tables: dict[str, Any] = {"scaling": scaling(seconds)}
    times = tables["scaling"][0]["ms"]
    figures = {"linear_in_t": times["100000"] / times["1000"] / 100}
    tables["vmap"] = {rival: statistics.median(own) for rival, own in populations(seconds).items()}
    figures["vmap32_vs_serial"] = tables["vmap"]["one by one"] / tables["vmap"]["vmap"]
    figures["vmap32_vs_flax"] = tables["vmap"]["flax"] / tables["vmap"]["vmap"]
    for name, layers in (("step_one_layer", 1), ("step_four_layers", 4)):
        medians = {rival: statistics.median(own) for rival, own in streams(layers, seconds).items()}
        tables[name] = {rival: ms / STEPS * 1e3 for rival, ms in medians.items()}
        figures[name] = stepped(tables[name])
    for name in SHORT:
        print(short(name, tables[name]))
    return tables, figures


SHORT = {
    "vmap": "32 LSTMs 16,100,64,64 under `vmap`, forward and gradients, ms",
    "step_one_layer": f"a step of an LSTM of {UNITS} units at B 1, µs",
    "step_four_layers": "a step of four of them, µs",
}


def stepped(values: dict[str, float]) -> float:
    """How many times our step of a stream is faster than the best of `STREAMED`, the libraries that also train; ONNX
    Runtime, which only runs, is named beside them."""
    return min(values[rival] for rival in STREAMED if rival in values) / values["rnnjax"]


def short(name: str, values: dict[str, float]) -> str:
    """A table of one line in Markdown."""
    shown = {rival: f"{rival} {value:.1f}" for rival, value in values.items()}
    beside = shown.pop("onnxruntime", None)
    text = ", ".join(shown.values())
    if name != "vmap":
        text += f": ×{stepped(values):.2f} over the best of {', '.join(own for own in STREAMED if own in values)}"
    if beside is not None:
        text += f"; beside them {beside}"
    return f"| {SHORT[name]} | {text} |"


def write(
    rows: list[dict[str, Any]], tables: dict[str, Any], figures: dict[str, float], peaks: dict[str, float]
) -> None:
    """Saves the table as JSON and Markdown."""
    RESULTS.mkdir(exist_ok=True)
    data = {"machine": machine(), "peak_gflops": peaks, "figures": figures, "rows": rows, **tables}
    (RESULTS / "speed.json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [f"{machine()}; medians, in brackets the quartiles of the ratio. `python benchmarks/speed.py --write`", ""]
    lines += [
        "| cell B,T,I,H | what | `cpu` over the best peer | share of peak | milliseconds | compiled in, temporary |",
        "|---|---|---|---|---|---|",
    ]
    lines += [line(found) for found in rows]
    lines += ["", "| LSTM, forward and gradients, against | exponent | milliseconds |", "|---|---|---|"]
    lines += [
        f"| {own['axis']} | {own['exponent']:.2f} | {', '.join(f'{v}: {ms:.2f}' for v, ms in own['ms'].items())} |"
        for own in tables["scaling"]
    ]
    lines += ["", "| many models, and single steps | |", "|---|---|", *(short(name, tables[name]) for name in SHORT)]
    lines += ["", f"Best matrix products: {products(peaks)}."]
    (RESULTS / "speed.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a moment a row: shows that it runs")
    parser.add_argument("--write", action="store_true", help=f"save to {RESULTS.name}/speed.json and speed.md")
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS), help="some of the cells")
    args = parsed(parser)
    if args.write and args.only != list(CELLS):
        parser.error("--write keeps the table of all cells; leave out --only")
    missing = [name for name in ("torch", "onnxruntime", "equinox", "keras") if not installed(name)]
    print(machine() + (f"; not installed: {', '.join(missing)}" if missing else ""))
    seconds = 0.5 if args.quick else 4
    peaks = peak_gflops(seconds)
    print(f"best matrix products: {products(peaks)}")
    rows = []
    for name in args.only:
        for shape in SHAPES[:2] if args.quick else SHAPES:
            for what in ("forward", "gradient"):
                rows.append(row(name, shape, what, seconds))
                print(line(with_shares(rows, peaks)[-1]), flush=True)
    rows = with_shares(rows, peaks)
    tables, own = further(seconds)
    figures = summary(rows) | own
    for name, value in figures.items():
        print(f"figure: {name} {value:.4g}")
    if args.write:
        write(rows, tables, figures, peaks)


if __name__ == "__main__":
    main()
