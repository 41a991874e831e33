"""Time and memory against T of every implementation beside plain JAX: a part of `parallel.py`, and how it measures.

On a GPU with a PyTorch that sees it, an LSTM stands beside cuDNN's of the same width and weights.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from core import turns
from textbook import RIVALS

import rnnjax as rj

ROWS, SIZE = 8, 64
LENGTHS = (256, 1024, 4096, 16_384)
CELLS = {"lru": rj.LRU, "mingru": rj.MinGRU, "gru": rj.GRU}
NAMES = ("cpu", "fused", "chunked", "associative", "scan", "newton")
NEWTON_STEPS = {"gru": 4096}
"""The longest sequence of dense Jacobians, which take 4 GB at that; with four times as many steps a call would take a
minute on 2 cores."""


class Rival(NamedTuple):
    """What is measured: a call that returns when it is done, and its temporary bytes."""

    run: Callable[[], Any]
    bytes: int


def problem(cell: rj.Cell, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Parameters and inputs (T, B, H); shape is B, T, H."""
    batch, steps, size = shape
    return cell.init(jax.random.key(0), size), jax.random.normal(jax.random.key(1), (steps, batch, size))


def rival(f: Callable[..., Any], params: Any, xs: Any) -> Rival:
    """Outputs of f(params, xs), of the shape of xs, and the gradients for given cotangents."""

    def pull(params: Any, xs: Any, cotangents: Any) -> Any:
        ys, back = jax.vjp(f, params, xs)
        return ys, back(cotangents)

    args = params, xs, jax.random.normal(jax.random.key(4), xs.shape)
    compiled = jax.jit(pull).lower(*args).compile()
    return Rival(lambda: jax.block_until_ready(compiled(*args)), compiled.memory_analysis().temp_size_in_bytes)


def by_name(cell: rj.Cell, name: str) -> Callable[..., Any]:
    """Outputs by one implementation."""
    return lambda params, xs: rj.unroll(cell, params, xs, implementation=name)[0]


def milliseconds(rivals: list[Rival], seconds: float, least: int) -> list[float]:
    """Medians of calls in turn, until `seconds` have passed and each was measured `least` times."""
    return [statistics.median(own) for own in turns([one.run for one in rivals], seconds, least)]


def supported(cell: rj.Cell, params: Any, xs: Any, longest: int) -> list[str]:
    """The implementations that can run the call, Newton's method up to so many steps."""
    found = []
    for name in NAMES:
        try:
            rj.explain(cell, params, xs, implementation=name)
        except ValueError:
            continue
        found += [] if name == "newton" and len(xs) > longest else [name]
    return found


def at_length(
    name: str, cell: rj.Cell, shape: tuple[int, ...], rivals: dict[str, Callable[..., Any]], seconds: float
) -> list[dict[str, Any]]:
    """Rows of one cell at one length; shape is B, T, H."""
    params, xs = problem(cell, shape)
    runs = {f"plain {what}": f for what, f in rivals.items()}
    names = supported(cell, params, xs, NEWTON_STEPS.get(name, len(xs)))
    runs |= {f"rnnjax {form}": by_name(cell, form) for form in names}
    measured = {what: rival(f, params, xs) for what, f in runs.items()}
    want = np.asarray(measured["rnnjax scan"].run()[0])
    # float32, in another order; products of a GPU may be in TF32
    tolerance = 2e-3 if jax.default_backend() == "cpu" else 2e-2
    for one in measured.values():
        np.testing.assert_allclose(one.run()[0], want, rtol=tolerance, atol=tolerance)
    if not rivals:
        measured["torch cuDNN"] = torch_lstm(params, xs, want, "cuda")
    times = milliseconds(list(measured.values()), seconds, least=2)
    return [
        {"cell": name, "T": len(xs), "what": what, "ms": ms, "bytes": one.bytes}
        for (what, one), ms in zip(measured.items(), times, strict=True)
    ]


def torch_lstm(params: Any, xs: Any, want: np.ndarray, device: str) -> Rival:
    """PyTorch's LSTM with these weights, on a GPU by cuDNN. Its bytes hold outputs and gradients, too."""
    import torch

    def tensor(array: Any) -> Any:
        return torch.tensor(np.asarray(array), device=device)

    layer = torch.nn.LSTM(xs.shape[-1], params.u.shape[0], device=device)
    given = params.w.T, params.u.T, params.b, jnp.zeros_like(params.b)
    with torch.no_grad():
        for own, array in zip(layer.parameters(), given, strict=True):
            own.copy_(tensor(array))
    inputs, cotangents = tensor(xs).requires_grad_(), tensor(jax.random.normal(jax.random.key(4), xs.shape))

    def run() -> Any:
        ys = layer(inputs)[0]
        grads = torch.autograd.grad(ys, (*layer.parameters(), inputs), cotangents)
        if device == "cuda":
            torch.cuda.synchronize()
        return ys, grads

    np.testing.assert_allclose(run()[0].detach().cpu(), want, rtol=2e-2, atol=2e-2)
    if device != "cuda":
        return Rival(run, 0)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return Rival(run, torch.cuda.max_memory_allocated() - before)


def both_have_a_gpu() -> bool:
    """Whether JAX and PyTorch do."""
    if jax.default_backend() != "gpu" or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of all cells and lengths; `quick`: small and short ones."""
    size, seconds = (8, 0.0) if quick else (SIZE, 3.0)
    cells = CELLS | ({"lstm": rj.LSTM} if both_have_a_gpu() else {})
    if quick:
        del cells["lru"]
    rows = []
    for name, make in cells.items():
        for steps in LENGTHS[:1] if quick else LENGTHS:
            rows += at_length(name, make(size), (ROWS, steps, size), RIVALS.get(name, {}), seconds)
            jax.clear_caches()
        print(*table([row for row in rows if row["cell"] == name]), sep="\n", flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """In Markdown: a line a cell and implementation, a column a length."""
    lengths = sorted({row["T"] for row in rows})
    found = {(row["cell"], row["what"], row["T"]): f"{row['ms']:.3g} ms, {row['bytes'] / 1e6:.3g} MB" for row in rows}
    lines = [
        f"| cell | what | {' | '.join(f'T {steps:,}' for steps in lengths)} |",
        "|---|---|" + "---|" * len(lengths),
    ]
    for cell, what in dict.fromkeys((row["cell"], row["what"]) for row in rows):
        lines.append(f"| {cell} | {what} | {' | '.join(found.get((cell, what, t), '–') for t in lengths)} |")
    return lines
