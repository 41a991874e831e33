"""Measures what runs in parallel over time, and Newton's iterations, beside plain JAX, and online learning.

    python benchmarks/parallel.py [--quick] [--write]

The rivals are what one writes by hand: the textbook's `lax.scan` with the products inside the loop; the same with those
outside that do not wait for a state, over all steps at once (of the LRU also with its readout alone outside); and
`lax.associative_scan` between such products. An LRU has complex numbers, but products of real ones. Matrix memories are
measured against the two loops alone, at several lengths; the longest gives their figures. Each figure compares the
automatic choice with the best of the rivals, time with the fastest and memory with the smallest, in a forward pass that
returns its outputs and the gradients of parameters and inputs for given cotangents: temporary bytes are then what the
loop itself needs. Rivals take turns in one process, in another order every turn; absolute times mean nothing on a
shared machine, ratios within one run do. A second table has time and memory of an LRU, a minGRU and a GRU by every
implementation against T (`over_time.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from core import RESULTS, machine, parsed
from over_time import ROWS, SIZE, by_name, measure, milliseconds, problem, rival, table
from textbook import HEADS, RIVALS

import rnnjax as rj
from rnnjax.training import online

SHAPE = (8, 4096, 256)
MEMORY_SHAPES = ((2, 512, 256), (2, 2048, 256), (2, 8192, 256))
AGREEING = (
    *(
        rj.MinGRU(8),
        rj.MinLSTM(8),
        rj.LinearElman(8),
        rj.LRU(8),
        rj.RGLRU(8),
        rj.S5(8),
        rj.QRNN(8),
        rj.SRU(8),
        rj.HGRN(8),
    ),
    *(rj.MLSTM(8, heads=2), rj.GLA(8, heads=2), rj.DeltaNet(8, heads=2), rj.GatedDeltaNet(8, heads=2)),
)


def forms(cell: rj.Cell) -> tuple[str, ...]:
    """The implementations beside `scan` that a linear cell is made for."""
    return ("chunked",) if isinstance(cell, rj.ChunkedCell) else ("chunked", "associative")


CELLS: dict[str, Callable[[int], rj.Cell]] = {
    "mingru": rj.MinGRU,
    "lru": rj.LRU,
    "mlstm": partial(rj.MLSTM, heads=HEADS),
    "gated_delta_net": partial(rj.GatedDeltaNet, heads=HEADS),
}


def beside_plain_jax(name: str, shape: tuple[int, ...], seconds: float) -> list[dict[str, Any]]:
    """Forward and gradient of every rival, of the automatic choice and of each implementation by name."""
    cell = CELLS[name](shape[-1])
    params, xs = problem(cell, shape)
    runs: dict[str, Callable[..., Any]] = {f"plain {what}": f for what, f in RIVALS[name].items()}
    runs["rnnjax"] = lambda params, xs: rj.unroll(cell, params, xs)[0]
    runs |= {f"rnnjax {form}": by_name(cell, form) for form in (*forms(cell), "scan")}
    measured = {what: rival(f, params, xs) for what, f in runs.items()}
    want = next(iter(measured.values())).run()[0]
    for one in measured.values():
        np.testing.assert_allclose(one.run()[0], want, rtol=1e-3, atol=2e-3)  # float32, in another order
    times = milliseconds(list(measured.values()), seconds, least=5)
    rows = [
        {"cell": name, "shape": shape, "what": what, "bytes": one.bytes, "ms": ms}
        for (what, one), ms in zip(measured.items(), times, strict=True)
    ]
    print(*map(line, rows), sep="\n", flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table; memory in units of the outputs."""
    unit = 4 * np.prod(row["shape"])
    shape = ",".join(map(str, row["shape"]))
    return f"| {row['cell']} {shape} | {row['what']} | {row['ms']:.3g} ms | {row['bytes'] / unit:.2f} |"


def ratios(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The fastest rival's time over that of the automatic choice, and the latter's memory over the smallest rival's."""
    plain = [row for row in rows if row["what"].startswith("plain")]
    ours = next(row for row in rows if row["what"] == "rnnjax")
    return {
        f"{name}_time": min(row["ms"] for row in plain) / ours["ms"],
        f"{name}_memory": ours["bytes"] / min(row["bytes"] for row in plain),
    }


def agreement(cells: tuple[rj.Cell, ...], dtype: str, steps: int, both_ways: bool) -> float:
    """Largest difference of any form, and of streaming in two pieces, from `scan`, relative to the largest entry: in
    outputs, state and gradients by parameters and inputs, with masks and resets, forwards or both ways."""
    found = []
    for cell in cells:
        params, xs = jax.tree.map(lambda leaf: leaf.astype(dtype), problem(cell, (3, steps, cell.hidden_size)))
        mask, reset = (jax.random.bernoulli(jax.random.key(i), p, xs.shape[:2]) for i, p in ((2, 0.8), (3, 8 / steps)))
        for reverse in (False, True) if both_ways else (False,):
            run = jax.jit(partial(pull, cell, mask=mask, reset=reset, reverse=reverse), static_argnames="form")
            want = run(params, xs, form="scan")
            for form in (*forms(cell), *(() if reverse else ("streamed",))):
                found.append(distance(run(params, xs, form=form), want))
    return float(np.max(found))


def pull(cell: rj.Cell, params: Any, xs: Any, *, mask: Any, reset: Any, reverse: bool, form: Any) -> Any:
    """Outputs, state and gradients."""

    def loss(params: Any, xs: Any) -> Any:
        if form == "streamed":
            half, state, pieces = xs.shape[0] // 2, None, []
            for part in (slice(0, half), slice(half, None)):
                ys, state = rj.unroll(cell, params, xs[part], state, mask=mask[part], reset=reset[part])
                pieces.append(ys)
            ys = jnp.concatenate(pieces)
        else:
            ys, state = rj.unroll(cell, params, xs, mask=mask, reset=reset, reverse=reverse, implementation=form)
        return jnp.mean(ys**2), (ys, state)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, xs)


def distance(got: Any, want: Any) -> float:
    """Largest difference, relative to the largest entry of each array; NaN if there is one, which Python's `max` would
    lose."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in pairs]
    return float(np.max([np.abs(a - b).max() / np.abs(b).max() if b.any() else np.abs(a).max() for a, b in pairs]))


def newton_iterations(steps: int, size: int = 32) -> float:
    """Iterations of Newton's method for a GRU with the weights it starts with, to 1e-10 in float64, after checks: its
    values and gradients are those of the loop to 1e-10, and a chaotic network ends in the loop and says so."""
    params, xs = jax.tree.map(lambda leaf: leaf.astype("float64"), problem(rj.GRU(size), (1, steps, size)))
    newton = rj.Newton(tolerance=1e-10)
    report = rj.newton_report(rj.GRU(size), params, xs, implementation=newton)
    print(f"GRU {size}, T {steps:,}: {report}")
    none = jnp.zeros(xs.shape[:2], bool)
    run = jax.jit(partial(pull, rj.GRU(size), mask=~none, reset=none, reverse=False), static_argnames="form")
    apart = distance(run(params, xs, form=newton), run(params, xs, form="scan"))
    if not (report.converged and apart < 1e-10):
        raise SystemExit(f"Newton's method is {apart:.2g} from the loop")
    chaotic = rj.Elman(size)
    wild, xs = chaotic.init(jax.random.key(0), size, "float64"), xs[:200]
    wild = wild._replace(u=4 * wild.u)
    said = rj.newton_report(chaotic, wild, xs)
    print(f"chaotic Elman network: {said}")
    ys = [rj.unroll(chaotic, wild, xs, implementation=form)[0] for form in ("newton", "scan")]
    if said.converged or not jnp.array_equal(*ys):
        raise SystemExit("a chaotic network did not end in the loop")
    return float(report.iterations)


def rtrl_error(steps: int, size: int = 32) -> float:
    """Largest difference of exact RTRL from back-propagation through time in float64, relative to the largest entry of
    each gradient of an LRU, after the check that its memory does not grow with time."""
    cell = rj.LRU(size, r_min=0.9, r_max=0.999)

    def squares(ys: Any, targets: Any) -> Any:
        return jnp.sum((ys - targets) ** 2)

    def arrays(steps: int) -> tuple[Any, Any, Any]:
        params, xs = jax.tree.map(lambda leaf: leaf.astype("float64"), problem(cell, (2, steps, 8)))
        return params, xs, jnp.sin(xs)

    forwards = jax.jit(partial(online.online_gradient(online.RTRL(), cell, squares), carry=None))
    params, xs, targets = arrays(steps)
    backwards = jax.jit(jax.grad(lambda params: squares(rj.unroll(cell, params, xs)[0], targets)))

    def temporary(steps: int) -> int:
        params, xs, targets = jax.eval_shape(lambda: arrays(steps))
        compiled = forwards.lower(params, xs=xs, targets=targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    memory = temporary(steps), temporary(16 * steps)
    print(
        f"RTRL of an LRU {size}: {memory[0]:,} temporary bytes for {steps:,} steps, {memory[1]:,} for 16 times as many"
    )
    if memory[1] > memory[0] + 64:
        raise SystemExit("the memory of RTRL grows with time")
    return distance(forwards(params, xs=xs, targets=targets).grads, backwards(params))


def write(rows: list[dict[str, Any]], against_time: list[dict[str, Any]], figures: dict[str, float]) -> None:
    """Saves the tables as JSON and Markdown."""
    RESULTS.mkdir(exist_ok=True)
    data = {"machine": machine(), "figures": figures, "rows": rows, "over_time": against_time}
    (RESULTS / "parallel.json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [f"{machine()}; medians. `python benchmarks/parallel.py --write`", ""]
    lines += [
        "| cell B,T,H | what | forward + gradients | temporary bytes, in outputs |",
        "|---|---|---|---|",
    ]
    lines += [line(row) for row in rows]
    lines += ["", f"Forward and gradients at B {ROWS}, H {SIZE}; milliseconds, and temporary bytes.", ""]
    lines += table(against_time)
    lines += ["", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in figures.items()]
    (RESULTS / "parallel.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter sequences, few runs: shows that it runs")
    parser.add_argument("--write", action="store_true", help="save the tables under benchmarks/results")
    args = parsed(parser)
    print(machine())
    cells = (rj.MinGRU(8),) if args.quick else AGREEING
    with jax.enable_x64(True):
        figures = {"forms_agree_f64": agreement(cells, "float64", 64 if args.quick else 200, both_ways=True)}
        figures["newton_iterations"] = newton_iterations(200 if args.quick else 10_000)
        figures["rtrl_error"] = rtrl_error(50 if args.quick else 1000)
    figures["forms_agree_f32"] = agreement(cells, "float32", 256 if args.quick else 16_384, both_ways=False)
    rows = []
    for name, make in CELLS.items():
        shapes = MEMORY_SHAPES if isinstance(make(HEADS), rj.ChunkedCell) else (SHAPE,)
        for shape in [(2, 128, 32)] if args.quick else shapes:
            own = beside_plain_jax(name, shape, 1 if args.quick else 30 / len(shapes))
            rows += own
            figures |= ratios(name, own)
    against_time = measure(args.quick)
    for name, value in figures.items():
        print(f"figure: {'quick_' if args.quick else ''}{name} {value:.4g}")
    if args.write:
        write(rows, against_time, figures)


if __name__ == "__main__":
    main()
