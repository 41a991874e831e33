"""Pictures of what the diagnostics return. Each function draws on the Axes it is given, or on new ones, and returns it.

They need matplotlib, `pip install "rnnjax[examples]"`, which is imported at the first call. Lines differ in colour and
in dashes, points in shape, and the colour maps are ordered in brightness, so that pictures can be printed in grey and
read by the colour-blind. In print the sign is lost of signed values, whose two sides differ in hue and not in darkness.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import count, cycle
from typing import Any

import numpy as np

from .._types import Array
from ..training import Swept
from ._compare import Comparison
from ._gradient_flow import GradientFlow, kept_share

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Those of Okabe and Ito 2008, which people tell apart whichever colours they see."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "rnnjax[examples]"') from error
    return Figure(figsize=(6, 4), layout="constrained").subplots()


def _styles() -> Any:
    """Colours and dashes, no pair of which comes back before all have come."""
    size = len(COLOURS)
    return ({"color": COLOURS[i % size], "linestyle": DASHES[(i + i // size) % size]} for i in count())


def gradient_flow(flow: GradientFlow | Mapping[str, Array], ax: Any = None) -> Any:
    """The share of the gradient that is left k steps back, one line a layer, on a logarithmic scale.

    Args:
        flow: from `rnnjax.diagnostics.gradient_flow`, or curves (T) by name, such as the `share` of a `Reading`.
        ax: the Axes to draw on.

    >>> import numpy as np
    >>> from rnnjax.diagnostics import plots
    >>> plots.gradient_flow({"Elman": 0.5 ** np.arange(9.0), "LSTM": 0.9 ** np.arange(9.0)}).get_yscale()
    'log'
    """
    if isinstance(flow, GradientFlow):
        curves = {name: kept_share(norms, flow.reverse[name], flow.mask) for name, norms in flow.norms.items()}
    else:
        curves = dict(flow)
    ax = _axes(ax)
    for (name, curve), style in zip(curves.items(), _styles(), strict=False):
        share = np.asarray(curve, np.float64)
        ax.plot(np.where(share > 0, share, np.nan), label=name, **style)
    ax.set_yscale("log")
    ax.set_xlabel("steps back")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel("share of the gradient left")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def learning_curve(history: Mapping[str, Sequence[float]], measure: str = "loss", ax: Any = None) -> Any:
    """A measure over the epochs of a training, and that of validation if there is one.

    Args:
        history: that of `rnnjax.training.fit`.
        measure: its name, without "val_".
        ax: the Axes to draw on.

    Raises:
        ValueError: for a measure that the history does not have.

    >>> from rnnjax.diagnostics import plots
    >>> plots.learning_curve({"loss": [3.0, 2.0], "val_loss": [2.5, 2.75]}).get_ylabel()
    'loss'
    """
    if measure not in history:
        raise ValueError(f"`measure` must be one of {', '.join(history)}; got {measure!r}")
    ax = _axes(ax)
    for (name, label), style in zip(((measure, "training"), (f"val_{measure}", "validation")), _styles(), strict=False):
        if name in history:
            ax.plot(range(1, len(history[name]) + 1), history[name], label=label, **style)
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel(_words(measure))
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def heat_map(
    values: Array,
    ax: Any = None,
    *,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    label: str = "",
    limits: tuple[float, float] | None = None,
    signed: bool = False,
) -> Any:
    """A matrix as colours: gates over time, alignments of tokens, influence, the results of a sweep.

    Args:
        values: (rows, columns); the first row is on top, and what is NaN is grey. For gates of one row of a batch,
            `gates[:, 0].T`.
        ax: the Axes to draw on.
        rows, columns: names, one for each, written beside them; of more than 40, some.
        xlabel, ylabel, label: of the columns, the rows and the colours.
        limits: the values of the two ends of the colours; None takes those that occur.
        signed: whether zero is in the middle, with colours of its own on either side.

    Raises:
        ValueError: if `values` is no matrix, or the names are not as many as the rows or columns.

    >>> import numpy as np
    >>> from rnnjax.diagnostics import plots
    >>> ax = plots.heat_map(np.eye(2), rows=["the", "cat"], columns=["le", "chat"])
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['le', 'chat']
    """
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"`values` must be a matrix (rows, columns); got shape {matrix.shape}")
    for name, names, size in (("rows", rows, matrix.shape[0]), ("columns", columns, matrix.shape[1])):
        if names is not None and len(names) != size:
            raise ValueError(f"`{name}` must hold {size} names for `values` {matrix.shape}; got {len(names)}")
    ax = _axes(ax)
    ax.set_facecolor("0.85")  # what is NaN
    if limits is None:
        finite = matrix[np.isfinite(matrix)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        limits = (-max(abs(low), abs(high)), max(abs(low), abs(high))) if signed else (low, high)
    image = ax.imshow(
        matrix,
        aspect="auto",
        interpolation="nearest",
        cmap="PuOr_r" if signed else "cividis",
        vmin=limits[0],
        vmax=limits[1],
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    if rows is not None:
        ax.set_yticks(*_some(rows))
    if columns is not None:
        long = max(len(str(name)) for name in columns) > 3
        ax.set_xticks(*_some(columns), rotation=45 if long else 0)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def _some(names: Sequence[Any]) -> tuple[range, list[str]]:
    """At most 40 places and their names."""
    places = range(0, len(names), -(-len(names) // 40))
    return places, [str(names[place]) for place in places]


def sweep_map(swept: Swept, rows: str, columns: str, measure: str, ax: Any = None) -> Any:
    """A measure of a sweep over two of its names, as colours: the mean over all other names, such as seeds.

    Args:
        swept: from `rnnjax.training.sweep`.
        rows, columns: names of the space; their values lie in rising order, the smallest at the bottom and on the left.
        measure: a name of the table, such as "val_accuracy".
        ax: the Axes to draw on.

    Raises:
        ValueError: for a name that the table does not have.

    >>> import numpy as np, rnnjax as rj
    >>> from rnnjax.diagnostics import plots
    >>> table = [{"units": u, "learning_rate": r, "loss": u * r} for u in (2, 4) for r in (0.1, 0.2)]
    >>> swept = rj.training.Swept([], table, {}, None, (None, None), None)
    >>> plots.sweep_map(swept, "units", "learning_rate", "loss").get_xlabel()
    'learning rate'
    """
    for name in (rows, columns, measure):
        if name not in swept.table[0]:
            raise ValueError(f"the table of the sweep has {', '.join(swept.table[0])}; got {name!r}")
    values: dict[tuple[float, float], list[float]] = {}
    for row in swept.table:
        values.setdefault((row[rows], row[columns]), []).append(row[measure])
    downwards, across = sorted({key[0] for key in values}, reverse=True), sorted({key[1] for key in values})
    means = [[np.mean(values.get((row, column), np.nan)) for column in across] for row in downwards]
    named = {"rows": [f"{value:.3g}" for value in downwards], "columns": [f"{value:.3g}" for value in across]}
    words = {"xlabel": _words(columns), "ylabel": _words(rows), "label": _words(measure)}
    return heat_map(np.array(means), ax, **named, **words)


def _words(name: str) -> str:
    return name.replace("_", " ")


def comparison(found: Comparison, ax: Any = None) -> Any:
    """The quality of every model: the mean and its interval, and each seed, beside that of a constant answer.

    Args:
        found: from `rnnjax.diagnostics.compare`.
        ax: the Axes to draw on. The best model is on top; one whose quality is NaN has its name alone.

    >>> import numpy as np, rnnjax as rj
    >>> from rnnjax.diagnostics import plots
    >>> scores, rest = np.array([0.88, 0.92]), (1.0, 1e-6, 1e-5, None, None, np.ones(3), 2, 1.0, "")
    >>> row = rj.diagnostics.Compared("GRU", 8, 200, 0.01, 0.91, 0.9, 0.85, 0.95, scores, *rest)
    >>> ax = plots.comparison(rj.diagnostics.Comparison([row], "accuracy", 0.95, 0.5, "", {}, {}))
    >>> ax.get_xlabel()
    'accuracy on the test rows'
    """
    ax = _axes(ax)
    for place, row in enumerate(found.rows):
        ax.plot(row.scores, np.full(row.scores.size, place), "|", color="0.5", markersize=9, zorder=1)
        ends = [[row.quality - row.low], [row.high - row.quality]]
        ax.errorbar(row.quality, place, xerr=ends, fmt="o", color=COLOURS[0], markersize=5, capsize=3, zorder=2)
    ax.axvline(found.constant, color=COLOURS[1], linestyle="--", linewidth=1, label="constant answer", zorder=0)
    names = [f"{row.name}\n{row.parameters:,} parameters" for row in found.rows]
    ax.set_yticks(range(len(names)), labels=names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(f"{_words(found.metric)} on the test rows")
    ax.set_title(f"dots: means and {found.confidence:.0%} intervals; bars: seeds", fontsize="medium")
    ax.grid(alpha=0.3, axis="x")
    ax.legend()
    return ax


def spectrum(eigenvalues: Mapping[str, Array] | Array, ax: Any = None) -> Any:
    """Eigenvalues in the complex plane, with the unit circle: outside of it a direction grows.

    Args:
        eigenvalues: complex, of any shape, or such arrays by name, of which the first is drawn on top.
        ax: the Axes to draw on.

    >>> import numpy as np
    >>> from rnnjax.diagnostics import plots
    >>> plots.spectrum(np.array([0.5 + 0.5j, 0.5 - 0.5j])).get_xlabel()
    'real part'
    """
    named = dict(eigenvalues) if isinstance(eigenvalues, Mapping) else {"": eigenvalues}
    ax = _axes(ax)
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color="0.5", linewidth=1)
    for place, (name, values), colour, marker in zip(count(), named.items(), cycle(COLOURS), cycle("osv^Dx+")):
        flat, above = np.asarray(values).ravel(), 3 - place / len(named)
        ax.scatter(np.real(flat), np.imag(flat), s=18, color=colour, marker=marker, label=name or None, zorder=above)
    ax.set_aspect("equal")
    ax.set_xlabel("real part")
    ax.set_ylabel("imaginary part")
    ax.grid(alpha=0.3)
    if any(named):
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def phase_portrait(trajectories: Array, points: Array, stable: Array, ax: Any = None) -> Any:
    """Trajectories of the state and its fixed points, on the first two principal components of the trajectories.

    Args:
        trajectories: states (T, *B, S), such as `states(…).h`.
        points: fixed points (K, S), such as `fixed_points(…).state.h`; K may be 0.
        stable: which of them are stable, (K): they are filled circles, the others open squares.
        ax: the Axes to draw on.

    Raises:
        ValueError: if states have fewer than two numbers, are not finite or do not move, or shapes do not fit.

    >>> import numpy as np
    >>> from rnnjax.diagnostics import plots
    >>> paths = np.random.default_rng(0).normal(size=(20, 3, 4)).cumsum(0)
    >>> plots.phase_portrait(paths, np.zeros((1, 4)), np.array([True])).get_xlabel().split(",")[0]
    'first component'
    """
    paths, still, holds = np.asarray(trajectories, np.float64), np.asarray(points), np.asarray(stable, bool)
    if paths.ndim < 2 or paths.shape[-1] < 2 or still.shape != (holds.size, paths.shape[-1]):
        raise ValueError(
            f"`trajectories` must be (T, *B, S) with S ≥ 2, `points` (K, S) and `stable` (K); got {paths.shape}, "
            f"{still.shape} and {holds.shape}"
        )
    if not (np.isfinite(paths).all() and np.isfinite(still).all()):
        raise ValueError("`trajectories` and `points` must be finite; got inf or NaN: look for where the cell makes it")
    rows = paths.reshape(-1, paths.shape[-1])
    centre = rows.mean(0)
    _, singular, axes = np.linalg.svd(rows - centre, full_matrices=False)
    if not singular[0] > 0:
        raise ValueError(
            "`trajectories` must move, or there is no plane to draw them in; got the same state everywhere"
        )
    share = singular[:2] ** 2 / (singular**2).sum()
    flat = ((paths - centre) @ axes[:2].T).reshape(paths.shape[0], -1, 2)
    ax = _axes(ax)
    ax.plot(flat[..., 0], flat[..., 1], color="0.6", linewidth=0.6, zorder=1)
    at = (still - centre) @ axes[:2].T
    ax.scatter(*at[holds].T, s=45, color=COLOURS[0], marker="o", label="stable", zorder=3)
    ax.scatter(*at[~holds].T, s=45, facecolors="white", edgecolors=COLOURS[1], marker="s", label="unstable", zorder=2)
    ax.set_xlabel(f"first component, {share[0]:.0%} of the variance")
    ax.set_ylabel(f"second component, {share[1]:.0%}")
    ax.legend()
    return ax


def exponents(named: Mapping[str, Array], ax: Any = None) -> Any:
    """Lyapunov exponents in falling order, one line a network.

    Args:
        named: exponents (K) by name.
        ax: the Axes to draw on.

    >>> import numpy as np
    >>> from rnnjax.diagnostics import plots
    >>> plots.exponents({"GRU": np.array([-0.1, -0.4])}).get_ylabel()
    'Lyapunov exponent per step'
    """
    ax = _axes(ax)
    ax.axhline(0, color="0.5", linewidth=1)
    for (name, values), style in zip(named.items(), _styles(), strict=False):
        ax.plot(np.arange(1, len(values) + 1), np.asarray(values), marker="o", markersize=3, label=name, **style)
    ax.set_xlabel("index")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel("Lyapunov exponent per step")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def recall(named: Mapping[str, Array], ax: Any = None) -> Any:
    """How well the state recalls inputs of k steps ago, one line a network.

    Args:
        named: the `recall` (D + 1) of `memory_horizon`, by name.
        ax: the Axes to draw on.

    >>> import numpy as np
    >>> from rnnjax.diagnostics import plots
    >>> plots.recall({"GRU": np.array([1.0, 0.4])}).get_xlabel()
    'steps ago'
    """
    ax = _axes(ax)
    ax.axhline(0.5, color="0.5", linewidth=1)
    for (name, values), style in zip(named.items(), _styles(), strict=False):
        ax.plot(np.asarray(values), label=name, **style)
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("steps ago")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel("R² of the recalled input")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def text_html(tokens: Sequence[str], contributions: Array) -> str:
    """Text whose background says what each token contributed: orange for, purple and underlined against.

    Args:
        tokens: words or characters.
        contributions: one number for each, (T), such as attributions summed over the embedding.

    Returns:
        HTML, for `IPython.display.HTML`; each token says its number when pointed at.

    Raises:
        ValueError: if there is not one number for each token.

    >>> from rnnjax.diagnostics import plots
    >>> print(plots.text_html(["a", "<"], [1.0, -0.5]))
    <span style="background: rgba(230,97,1,0.60)" title="+1">a</span><span style="background: rgba(94,60,153,0.30); \
text-decoration: underline" title="-0.5">&lt;</span>
    """
    values = np.asarray(contributions, np.float64)
    if values.shape != (len(tokens),):
        raise ValueError(f"`contributions` must be ({len(tokens)},), one for each token; got {values.shape}")
    top = np.abs(values[np.isfinite(values)]).max(initial=0) or 1.0
    return "".join(_span(token, value, value / top) for token, value in zip(tokens, values, strict=True))


def _span(token: str, value: float, relative: float) -> str:
    strength = 0.6 * abs(relative) if np.isfinite(relative) else 0.0
    colour, mark = ("230,97,1", "") if value > 0 else ("94,60,153", "; text-decoration: underline")
    if not strength:
        mark = ""
    style = f"background: rgba({colour},{strength:.2f}){mark}"
    return f'<span style="{style}" title="{value:+.3g}">{html.escape(token)}</span>'
