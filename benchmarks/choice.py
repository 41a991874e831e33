"""What `implementation=None` takes on a CPU for a cell with a kernel, beside what it leaves: by size.

    python benchmarks/choice.py [--quick] [--write | --rule]

Whole sequences: `cpu` over `fused`, forwards and with gradients, for B × T × H. Single steps: `cpu` over `scan`,
forwards, for B × H. A ratio above 1 says that `cpu` is faster. The rule of `rnnjax/_unroll/cpu.py`, which `explain`
states, is read off the saved table, and tests/test_choice.py holds it to that. `choice_least` is the least ratio of
what is taken over what is left. `--rule` measures nothing: it saves what the rule of today takes beside the times that
are saved, as is due after every change of the rule.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from core import RESULTS, gradient, machine, parsed
from speed import CELLS, compiled, in_turns

import rnnjax as rj

ROWS, STEPS, HIDDEN = (1, 16, 128), (2, 16, 128), (16, 64, 256)
SINGLE_ROWS = (1, 4, 16, 17, 32, 64)


def ratio(name: str, rows: int, steps: int, hidden: int, what: str, seconds: float) -> dict[str, Any]:
    """How many times `cpu` is faster than what would be taken without it, and whether it is taken."""
    cell = CELLS[name](hidden)
    params = cell.init(jax.random.key(0), hidden)
    xs = jax.random.normal(jax.random.key(1), (steps, rows, hidden))
    other = left(steps)

    def run(implementation: str) -> Any:
        def apply(params: Any, xs: Any) -> Any:
            return rj.unroll(cell, params, xs, implementation=implementation)[0]

        return compiled(apply if what == "forward" else gradient(apply), (params, xs))[0]

    times = in_turns({"cpu": run("cpu"), other: run(other)}, seconds)
    ratios = sorted(theirs / own for own, theirs in zip(times["cpu"], times[other], strict=True))
    return {
        "cell": name,
        "B": rows,
        "T": steps,
        "H": hidden,
        "what": what,
        "ratio": statistics.median(ratios),
        "spread": (ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]),
        "taken": taken(name, rows, steps, hidden),
    }


def left(steps: int) -> str:
    """What would be taken without `cpu`."""
    return "scan" if steps == 1 else "fused"


@cache
def taken(name: str, rows: int, steps: int, hidden: int) -> str:
    """What the rule takes."""
    cell = CELLS[name](hidden)
    said = rj.explain(cell, cell.init(jax.random.key(0), hidden), jnp.zeros((steps, rows, hidden)))
    return "cpu" if "→ cpu" in said else left(steps)


def gained(row: dict[str, Any]) -> float:
    """How many times what is taken is faster than what is left."""
    return row["ratio"] if row["taken"] == "cpu" else 1 / row["ratio"]


def line(row: dict[str, Any]) -> str:
    low, high = row["spread"]
    size = f"{row['B']},{row['T']},{row['H']}"
    return f"| {row['cell']} {size} | {row['what']} | ×{row['ratio']:.2f} ({low:.2f}–{high:.2f}) | {row['taken']} |"


def least(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The figure."""
    return {"choice_least": min(map(gained, rows))}


def write(where: str, rows: list[dict[str, Any]]) -> None:
    """Saves the table, measured on the machine of that name, as JSON and Markdown."""
    RESULTS.mkdir(exist_ok=True)
    kept = {"machine": where, "figures": least(rows), "rows": rows}
    (RESULTS / "choice.json").write_text(json.dumps(kept, indent=1) + "\n")
    head = [f"{where}; medians, in brackets quartiles. `python benchmarks/choice.py --write`", ""]
    head += ["| cell B,T,H | what | `cpu` over the other | taken |", "|---|---|---|---|"]
    (RESULTS / "choice.md").write_text("\n".join([*head, *map(line, rows)]) + "\n")


def measure(quick: bool) -> list[dict[str, Any]]:
    """Every size, or of a quick run a few."""
    sizes = [(*size, what) for size in itertools.product(ROWS, STEPS, HIDDEN) for what in ("forward", "gradient")]
    sizes += [(rows, 1, hidden, "forward") for rows in SINGLE_ROWS for hidden in HIDDEN]
    found = []
    for name in CELLS:
        for rows, steps, hidden, what in sizes[:: 20 if quick else 1]:
            found.append(ratio(name, rows, steps, hidden, what, 0.1 if quick else 0.7))
            print(line(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sizes, a moment each: shows that it runs")
    parser.add_argument("--write", action="store_true", help=f"save to {RESULTS.name}/choice.json and choice.md")
    parser.add_argument("--rule", action="store_true", help="save what is taken today beside the times that are saved")
    options = parsed(parser)
    if options.rule and (options.quick or options.write):
        parser.error("--rule measures nothing; leave out --quick and --write")
    if options.rule:
        saved = json.loads((RESULTS / "choice.json").read_text())
        rows = [row | {"taken": taken(row["cell"], row["B"], row["T"], row["H"])} for row in saved["rows"]]
        write(saved["machine"], rows)
    else:
        rows = measure(options.quick)
        if options.write:
            write(machine(), rows)
    for figure, value in least(rows).items():
        print(f"figure: {figure} {value:.4g}")


if __name__ == "__main__":
    main()
