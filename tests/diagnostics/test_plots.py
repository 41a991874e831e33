"""Pictures: what is drawn is what was given, and bad input is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.diagnostics import GradientFlow, plots

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


def test_axes_are_taken() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.recall({"a": jnp.ones(3)}, ax) is ax
    assert plots.exponents({"a": jnp.ones(3)}, ax) is ax


def test_heat_map() -> None:
    values = np.array([[0.0, -1.0, 3.0], [np.nan, 0.5, 1.0]])
    image = plots.heat_map(values, signed=True).get_images()[0]
    assert image.get_clim() == (-3.0, 3.0)
    np.testing.assert_array_equal(np.asarray(image.get_array().filled(np.nan)), values)
    assert plots.heat_map(values, limits=(0, 1)).get_images()[0].get_clim() == (0, 1)
    with pytest.raises(ValueError, match="matrix"):
        plots.heat_map(np.zeros(3))
    with pytest.raises(ValueError, match="`rows` must hold 2"):
        plots.heat_map(values, rows=["a"])


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
