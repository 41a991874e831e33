"""Pictures: what is drawn is what was given, and bad input is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.diagnostics import Compared, Comparison, GradientFlow, plots
from rnnjax.training import Swept

pytest.importorskip("matplotlib")


def test_gradient_flow() -> None:
    """Counted back from the last step, zeros left out of the logarithm."""
    norms = {"0": jnp.array([0.0, 0.5, 1.0]), "1": jnp.array([1.0, 0.25, 0.125])}
    flow = GradientFlow(jnp.zeros(()), norms, {}, {"0": jnp.asarray(False), "1": jnp.asarray(True)})
    lines = plots.gradient_flow(flow).get_lines()
    np.testing.assert_array_equal(lines[0].get_ydata(), [1.0, 0.5, np.nan])
    np.testing.assert_array_equal(lines[1].get_ydata(), [1.0, 0.25, 0.125])
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_no_two_lines_look_alike() -> None:
    lines = plots.recall({str(i): jnp.ones(3) for i in range(20)}).get_lines()
    assert len({(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in lines}) == len(lines)


def test_axes_are_taken() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.recall({"a": jnp.ones(3)}, ax) is ax
    assert plots.exponents({"a": jnp.ones(3)}, ax) is ax


def test_recall() -> None:
    """A line a network, counted from the present input, beside the half that a horizon needs."""
    half, *lines = plots.recall({"GRU": jnp.array([1.0, 0.75, 0.25]), "LSTM": jnp.array([0.5])}).get_lines()
    assert {*half.get_ydata()} == {0.5}
    assert [line.get_label() for line in lines] == ["GRU", "LSTM"]
    np.testing.assert_array_equal(lines[0].get_xydata(), [(0, 1.0), (1, 0.75), (2, 0.25)])
    np.testing.assert_array_equal(lines[1].get_xydata(), [(0, 0.5)])


def test_exponents() -> None:
    """A line a network, counted from the largest, beside the zero above which is chaos."""
    zero, *lines = plots.exponents({"GRU": jnp.array([0.5, -1.0, -jnp.inf]), "LSTM": jnp.array([-2.0])}).get_lines()
    assert {*zero.get_ydata()} == {0.0}
    assert [line.get_label() for line in lines] == ["GRU", "LSTM"]
    np.testing.assert_array_equal(lines[0].get_xydata(), [(1, 0.5), (2, -1.0), (3, -np.inf)])
    np.testing.assert_array_equal(lines[1].get_xydata(), [(1, -2.0)])


def test_learning_curve() -> None:
    history = {"loss": [3.0, 2.0, 1.5], "val_loss": [2.5, 2.25, 2.75], "accuracy": [0.5, 0.6, 0.7]}
    training, validation = plots.learning_curve(history).get_lines()
    assert (training.get_label(), validation.get_label()) == ("training", "validation")
    np.testing.assert_array_equal(training.get_xydata(), [(1, 3.0), (2, 2.0), (3, 1.5)])
    np.testing.assert_array_equal(validation.get_ydata(), history["val_loss"])
    assert len(plots.learning_curve(history, "accuracy").get_lines()) == 1
    with pytest.raises(ValueError, match="`measure` must be one of loss, val_loss, accuracy; got 'f1'"):
        plots.learning_curve(history, "f1")


def test_heat_map() -> None:
    values = np.array([[0.0, -1.0, 3.0], [np.nan, 0.5, 1.0]])
    image = plots.heat_map(values, signed=True).get_images()[0]
    assert image.get_clim() == (-3.0, 3.0)
    np.testing.assert_array_equal(np.asarray(image.get_array().filled(np.nan)), values)
    assert plots.heat_map(values, limits=(0, 1)).get_images()[0].get_clim() == (0, 1)
    many = plots.heat_map(np.zeros((2, 90)), columns=range(90)).get_xticklabels()
    assert [tick.get_text() for tick in many] == [str(i) for i in range(0, 90, 3)]
    with pytest.raises(ValueError, match="matrix"):
        plots.heat_map(np.zeros(3))
    with pytest.raises(ValueError, match="`rows` must hold 2"):
        plots.heat_map(values, rows=["a"])


def test_sweep_map() -> None:
    """Means over what is not named; the smallest values at the bottom and on the left; holes are NaN."""
    table = [
        {"units": u, "rate": r, "seed": s, "loss": 10 * u + r + s} for u in (4, 2) for r in (0.2, 0.1) for s in (0, 1)
    ]
    ax = plots.sweep_map(Swept([], table[:-2], {}, None, (None, None), None), "units", "rate", "loss")
    image = ax.get_images()[0].get_array().filled(np.nan)
    np.testing.assert_allclose(image, [[40.6, 40.7], [np.nan, 20.7]])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["4", "2"]
    with pytest.raises(ValueError, match="got 'width'"):
        plots.sweep_map(Swept([], table, {}, None, (None, None), None), "width", "rate", "loss")


def test_comparison() -> None:
    """The best on top, means with their intervals, one bar a seed, and NaN does no harm."""
    costs = (1.0, 1e-6, 1e-5, None, None, np.ones(3), 2, 1.0, "")
    good = Compared("GRU", 8, 1_200, 0.01, 0.91, 0.9, 0.85, 0.95, np.array([0.88, 0.92]), *costs)
    bad = Compared("LSTM", 8, 1_100, 0.01, np.nan, np.nan, np.nan, np.nan, np.array([np.nan, 0.5]), *costs)
    ax = plots.comparison(Comparison([good, bad], "mean_squared_error", 0.9, 0.3, "", {}, {}))
    assert ax.get_xlabel() == "mean squared error on the test rows"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["GRU\n1,200 parameters", "LSTM\n1,100 parameters"]
    assert ax.get_ylim() == (1.5, -0.5)
    seeds, mean = ax.get_lines()[:2]
    np.testing.assert_array_equal(seeds.get_xdata(), [0.88, 0.92])
    np.testing.assert_array_equal(mean.get_xdata(), [0.9])
    ends = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[0.85, 0.95]])


def test_spectrum() -> None:
    ax = plots.spectrum({"r": np.array([[0.5 + 1j], [2.0]]), "z": np.array([1j])})
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.5, 1.0], [2.0, 0.0]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["r", "z"]


def test_phase_portrait() -> None:
    """In a plane of four dimensions distances are kept; stable and unstable points are drawn apart."""
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.standard_normal((4, 2)))[0].T
    paths, points = rng.standard_normal((20, 3, 2)) @ plane + 1.0, rng.standard_normal((3, 2)) @ plane + 1.0
    ax = plots.phase_portrait(paths, points, np.array([True, False, True]))
    stable, unstable = ax.collections
    path = np.asarray(ax.get_lines()[1].get_xydata())
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), np.linalg.norm(paths[:, 1] - paths.mean((0, 1)), axis=1))
    drawn, kept = np.asarray(stable.get_offsets()), points[[0, 2]]
    assert len(unstable.get_offsets()) == 1
    np.testing.assert_allclose(np.linalg.norm(drawn[0] - drawn[1]), np.linalg.norm(kept[0] - kept[1]))
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), np.linalg.norm(kept - paths.mean((0, 1)), axis=1))
    with pytest.raises(ValueError, match="must move"):
        plots.phase_portrait(np.ones((5, 3)), np.zeros((0, 3)), np.zeros(0, bool))
    with pytest.raises(ValueError, match="`points`"):
        plots.phase_portrait(paths, points[:, :2], np.array([True, False, True]))


def test_text_html() -> None:
    said = plots.text_html(["a<b", "c", "d"], jnp.array([-2.0, 1.0, 0.0]))
    assert said.count("<span") == 3
    assert "a&lt;b" in said
    assert said.count("underline") == 1
    assert 'rgba(94,60,153,0.60); text-decoration: underline" title="-2"' in said
    assert 'rgba(230,97,1,0.30)" title="+1"' in said
    assert "0.00" in said
    assert "0.00" in plots.text_html(["a"], [np.nan])
    with pytest.raises(ValueError, match="one for each token"):
        plots.text_html(["a"], [1.0, 2.0])
