"""Augmentation: what a mask, a noise and a speed do, counted and measured."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import data

KEY = jax.random.key(3)
ROWS, STEPS, FEATURES = 400, 30, 12


def runs(hidden: np.ndarray) -> np.ndarray:
    """How many stretches of True each row has."""
    return np.diff(np.pad(hidden.astype(int), ((0, 0), (1, 0))), axis=1).clip(0).sum(1)


def test_masks_are_bands_of_the_right_sizes() -> None:
    x = jnp.ones((ROWS, STEPS, FEATURES))
    options = {"time_masks": 1, "time_width": 7, "frequency_masks": 1, "frequency_width": 3}
    y = np.asarray(data.spec_augment(KEY, x, **options))
    time, frequency = (y == 0).all(2), (y == 0).all(1)
    np.testing.assert_array_equal(y == 0, time[:, :, None] | frequency[:, None, :])
    assert runs(time).max() == runs(frequency).max() == 1
    assert set(time.sum(1)) == set(range(8))
    assert set(frequency.sum(1)) == set(range(4))
    assert abs(np.corrcoef(time.sum(1), frequency.sum(1))[0, 1]) < 0.2
    # widths are uniform, and masks reach both ends
    np.testing.assert_allclose(time.sum(1).mean(), 3.5, atol=0.4)
    np.testing.assert_allclose(frequency.sum(1).mean(), 1.5, atol=0.25)
    assert time[:, [0, -1]].any(0).all()
    assert frequency[:, [0, -1]].any(0).all()


def test_numbers_of_masks() -> None:
    x = jnp.ones((ROWS, STEPS, FEATURES))
    three = np.asarray(data.spec_augment(KEY, x, time_masks=3, time_width=3, frequency_masks=0))
    assert runs((three == 0).all(2)).max() == 3
    none = data.spec_augment(KEY, x, time_masks=0, frequency_masks=0)
    np.testing.assert_array_equal(none, x)


def test_masks_stay_within_the_valid_frames() -> None:
    lengths = np.arange(ROWS) % (STEPS + 1)
    valid = np.arange(STEPS) < lengths[:, None]
    x = jnp.asarray(np.where(valid[..., None], np.ones((ROWS, STEPS, FEATURES)), np.nan))
    options = {"time_masks": 1, "time_width": 100, "frequency_masks": 0, "time_share": 0.5, "value": 7.0}
    y = np.asarray(data.spec_augment(KEY, x, jnp.asarray(lengths), **options))
    hidden = (y == 7).all(2)
    assert not hidden[~valid].any()
    np.testing.assert_array_equal(y[~valid], 0)
    assert (hidden.sum(1) <= lengths // 2).all()
    assert (hidden.sum(1) == lengths // 2).any()


def test_masks_differ_by_row_and_key_alone() -> None:
    x = jnp.ones((4, STEPS, FEATURES))
    first, again = (data.spec_augment(KEY, x) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    assert (first != data.spec_augment(jax.random.key(4), x)).any()
    keys = jax.random.split(KEY, 4)
    mapped = jax.vmap(jax.jit(data.spec_augment))(keys, x)
    np.testing.assert_array_equal(mapped[2], data.spec_augment(keys[2], x[2]))


def test_mask_values_of_each_band() -> None:
    means = jnp.arange(1.0, FEATURES + 1)
    y = data.spec_augment(KEY, jnp.zeros((30, STEPS, FEATURES)), value=means)
    assert set(np.unique(y[..., 5])) == {0.0, 6.0}


@pytest.mark.parametrize("ratio", [-5.0, 20.0])
def test_noise_has_the_ratio_exactly(ratio: float) -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([900, 500, 0])
    x = np.where(np.arange(900) < lengths[:, None], 3 * rng.standard_normal((3, 900)), np.nan)
    y = np.asarray(data.add_noise(KEY, jnp.asarray(x), ratio, jnp.asarray(lengths)))
    for row, length in enumerate(lengths[:2]):
        signal, noise = x[row, :length], (y - x)[row, :length]
        np.testing.assert_allclose(10 * np.log10((signal**2).sum() / (noise**2).sum()), ratio)
        assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(length)
        np.testing.assert_array_equal(y[row, length:], 0)
    np.testing.assert_array_equal(y[2], 0)


def test_ratios_of_each_row_and_silence() -> None:
    x = jnp.stack([jnp.ones(50), jnp.full(50, 2.0), jnp.zeros(50)])
    noise = jnp.tile(jnp.array([1.0, -1.0]), (3, 25))
    y = data.mix(x, noise, jnp.array([0.0, 20.0, 0.0]))
    np.testing.assert_allclose(y - x, noise * jnp.array([[1.0], [0.2], [0.0]]), atol=1e-12)
    np.testing.assert_array_equal(data.mix(x, jnp.zeros_like(x), 0.0), x)
    assert np.isfinite(jax.grad(lambda x: data.mix(x, noise, 0.0).sum())(x)).all()
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(jax.jit(data.add_noise))(keys, x, jnp.array([0.0, 20.0, 0.0]))
    np.testing.assert_allclose(mapped[1], data.add_noise(keys[1], x[1], 20.0))


def tone(frequency: float, samples: int, rate: float = 8000.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency / rate * np.arange(samples))


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_moves_a_tone(speed: float) -> None:
    x = jnp.asarray(tone(400, 4000))
    y, length = data.change_speed(x, speed)
    assert y.shape == (int(length),) == (round(4000 / speed),)
    inner = slice(50, -50)
    np.testing.assert_allclose(y[inner], tone(400 * speed, len(y))[inner], atol=0.01)
    if speed == 1:
        np.testing.assert_allclose(y, x, atol=1e-12)


def test_fast_speech_has_no_echo_of_what_it_cannot_hold() -> None:
    y, _ = data.change_speed(jnp.asarray(tone(3500, 4000)), 2.0)
    assert np.abs(y[50:-50]).max() < 0.01


def test_speeds_of_each_row() -> None:
    rng = np.random.default_rng(1)
    x, lengths = rng.standard_normal((3, 200)), np.array([200, 120, 0])
    padded = jnp.asarray(np.where(np.arange(200) < lengths[:, None], x, np.nan))
    speeds = jnp.array([0.9, 1.1, 1.0])
    y, new = jax.jit(lambda x, s, n: data.change_speed(x, s, n, bounds=(0.9, 1.1)))(
        padded, speeds, jnp.asarray(lengths)
    )
    assert y.shape == (3, 223)
    for row, (speed, length) in enumerate(zip([0.9, 1.1, 1.0], lengths, strict=True)):
        alone, count = data.change_speed(jnp.asarray(x[row, :length]), speed)
        assert new[row] == count == int(np.ceil(length / speed))
        np.testing.assert_allclose(y[row, : int(count)], alone, atol=1e-12)
        np.testing.assert_array_equal(y[row, int(count) :], 0)
    clamped, _ = data.change_speed(jnp.asarray(x), jnp.array([0.1, 5.0, 1.0]), bounds=(0.9, 1.1))
    np.testing.assert_allclose(clamped[0], data.change_speed(jnp.asarray(x[0]), 0.9)[0])


def test_drawn_speeds() -> None:
    _, lengths = data.perturb_speed(KEY, jnp.ones((60, 990)))
    assert set(lengths.tolist()) == {1100, 990, 900}
    y, _ = jax.vmap(data.perturb_speed)(jax.random.split(KEY, 3), jnp.ones((3, 99)))
    assert y.shape == (3, 110)


def test_resampled_rows_are_the_rows_alone() -> None:
    rng = np.random.default_rng(2)
    x, lengths = rng.standard_normal((2, 60)), np.array([60, 31])
    padded = jnp.asarray(np.where(np.arange(60) < lengths[:, None], x, np.nan))
    y, new = data.resample(padded, 8000, 6000, jnp.asarray(lengths))
    for row, length in enumerate(lengths):
        alone, count = data.resample(jnp.asarray(x[row, :length]), 8000, 6000)
        assert new[row] == count == len(alone)
        np.testing.assert_allclose(y[row, : len(alone)], alone, atol=1e-12)
        np.testing.assert_array_equal(y[row, len(alone) :], 0)


def test_equal_rates_change_nothing() -> None:
    x, lengths = np.random.default_rng(0).normal(size=(2, 30)), np.array([30, 12])
    y, new = data.resample(jnp.asarray(x), 8000, 8000, jnp.asarray(lengths))
    np.testing.assert_array_equal(y, np.where(np.arange(30) < lengths[:, None], x, 0))
    assert new.tolist() == [30, 12]


def test_a_speed_may_be_a_numpy_number() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=50))
    for got, want in zip(data.change_speed(x, np.float64(1.1)), data.change_speed(x, 1.1), strict=True):
        np.testing.assert_array_equal(got, want)


def test_long_waveforms_keep_their_pitch() -> None:
    """Positions are exact in float32 too, late in a long waveform."""
    count, (old, new) = 600_000, (44100, 16000)
    x = jnp.asarray(tone(1000, count, old), jnp.float32)
    y, _ = data.resample(x, old, new)
    late = slice(len(y) - 1000, len(y) - 100)
    np.testing.assert_allclose(y[late], tone(1000, len(y), new)[late], atol=0.003)


BAD = {
    "masks": (lambda: data.spec_augment(KEY, jnp.ones((4, 3)), time_masks=-1), ValueError, "`time_masks`"),
    "key": (lambda: data.spec_augment(0, jnp.ones((4, 3))), TypeError, "`key`"),
    "value": (lambda: data.spec_augment(KEY, jnp.ones((4, 3)), value=jnp.ones(4)), ValueError, "`value` must be"),
    "ratio": (lambda: data.add_noise(KEY, jnp.ones((4, 3)), jnp.ones(3)), ValueError, "`snr_db` must be"),
    "noise": (lambda: data.mix(jnp.ones(3), jnp.ones(4), 1.0), ValueError, "`noise` must be like"),
    "bounds": (lambda: data.change_speed(jnp.ones(3), jnp.array(1.0)), ValueError, "needs `bounds`"),
    "speed": (lambda: data.change_speed(jnp.ones(3), 1.2, bounds=(0.9, 1.1)), ValueError, "within `bounds`"),
    "too_slow": (lambda: data.change_speed(jnp.ones(3), 0.01), ValueError, "0.1…10"),
    "rate": (lambda: data.resample(jnp.ones(3), 0, 1), ValueError, "`from_rate`"),
    "divisor": (lambda: data.resample(jnp.ones(3), 48001, 48000), ValueError, "too small a common divisor, 1,"),
    "word": (lambda: data.change_speed(jnp.ones(3), "fast"), TypeError, "`speed` must be a number or an array; got 'f"),
    "row": (
        lambda: data.change_speed(jnp.ones((2, 3)), jnp.ones(3), bounds=(1, 1)),
        ValueError,
        r"`speed` must be \(\) or one for each row, \(2,\); got \(3,\)",
    ),
    "speeds": (
        lambda: data.perturb_speed(KEY, jnp.ones(3), speeds=(1.0, 11)),
        ValueError,
        "`speeds` must lie in 0.1…10",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    run, error, message = BAD[name]
    with pytest.raises(error, match=message):
        run()
