"""Sound features against librosa, torchaudio and transcriptions of their equations. `generate_sounds.py` made the
goldens."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import data
from rnnjax.data import MFCC, STFT, LogMel, MelSpectrogram

RATE = 8000
EXACT = {"rtol": 1e-9, "atol": 1e-9}
# torchaudio's filters are rounded to float32
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
FRAME = STFT(256, 80)


@cache
def load(file: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / f"{file}.npz") as archive:
        return dict(archive)


def golden(file: str, case: str) -> tuple[jax.Array, np.ndarray]:
    """What goes in, and what comes out with time before the features."""
    arrays = load(file)
    return jnp.asarray(arrays[f"{case}/x"]), np.swapaxes(arrays[f"{case}/y"], 0, 1)


LIBROSA_STFT = {
    "stft": STFT(64, 24),
    "stft_window": STFT(64, 24, win_length=50, window="hamming"),
    "stft_stream": STFT(64, 24, center=False),
    "stft_reflect": STFT(64, 24, pad_mode="reflect"),
    "stft_odd": STFT(63, 24, win_length=40),
    "stft_odd_whole": STFT(63, 24, pad_mode="reflect"),
}
LIBROSA = {
    "mel": MelSpectrogram(RATE, FRAME, 16),
    "mel_magnitude": MelSpectrogram(RATE, FRAME, 16, scale="htk", power=1.0),
    "mfcc": MFCC(MelSpectrogram(RATE, FRAME, 16), 13),
    "mfcc_lifter": MFCC(MelSpectrogram(RATE, FRAME, 16), 10, lifter=22),
}
TORCHAUDIO_MEL = MelSpectrogram(RATE, STFT(256, 80, win_length=200, pad_mode="reflect"), 16, scale="htk", norm=None)
TORCHAUDIO = {"mel": TORCHAUDIO_MEL, "mfcc": MFCC(TORCHAUDIO_MEL, 12)}
FILTERS = {f"filters_{scale}_{norm}": (scale, norm) for scale in ("slaney", "htk") for norm in ("slaney", None)}
RESAMPLED = {
    "resample_8000_11025": (8000, 11025, {}),
    "resample_8000_6000": (8000, 6000, {}),
    "resample_44100_16000": (44100, 16000, {}),
    "resample_wide": (3, 2, {"width": 12, "rolloff": 0.9}),
}


@pytest.mark.parametrize("case", LIBROSA_STFT)
def test_stft_is_librosas(case: str) -> None:
    x, y = golden("librosa", case)
    spectrum, frames = LIBROSA_STFT[case](x)
    np.testing.assert_allclose(spectrum, y, **EXACT)
    assert frames == len(y)


@pytest.mark.parametrize("case", LIBROSA)
def test_features_are_librosas(case: str) -> None:
    x, y = golden("librosa", case)
    np.testing.assert_allclose(LIBROSA[case](x)[0], y, **EXACT)


def test_log_mel_is_the_logarithm_of_librosas() -> None:
    """Of power, and with a floor that a third of the bands do not reach."""
    x, power = golden("librosa", "mel")
    floor = float(np.quantile(power, 1 / 3))
    wanted = np.log(np.where(power < floor, floor, power))
    np.testing.assert_allclose(LogMel(LIBROSA["mel"], floor=floor)(x)[0], wanted, **EXACT)
    assert 0.3 < (wanted == np.log(floor)).mean() < 0.4


@pytest.mark.parametrize("case", TORCHAUDIO)
def test_features_are_torchaudios(case: str) -> None:
    x, y = golden("torchaudio", case)
    np.testing.assert_allclose(TORCHAUDIO[case](x)[0], y, **CLOSE)


@pytest.mark.parametrize("case", FILTERS)
def test_filters_are_librosas(case: str) -> None:
    scale, norm = FILTERS[case]
    got = data.mel_filters(RATE, 512, 20, fmin=50, fmax=3500, scale=scale, norm=norm)
    np.testing.assert_allclose(got, load("librosa")[f"{case}/y"].T, **EXACT)


def test_decibels_are_librosas() -> None:
    x, y = golden("librosa", "decibels")
    got = data.power_to_db(x.T, ref=0.5, top_db=60.0)
    np.testing.assert_allclose(got, y, **EXACT)
    assert (y == y.min()).sum() > 10  # the bound is met


@pytest.mark.parametrize(("file", "case", "width", "order"), [
    ("librosa", "delta_1", 7, 1), ("librosa", "delta_2", 7, 2), ("torchaudio", "delta", 5, 1),
])  # fmt: skip
def test_deltas_are_theirs(file: str, case: str, width: int, order: int) -> None:
    x, y = golden(file, case)
    np.testing.assert_allclose(data.deltas(x.T, width=width, order=order), y, **EXACT)


@pytest.mark.parametrize("case", RESAMPLED)
def test_resampling_is_torchaudios(case: str) -> None:
    old, new, options = RESAMPLED[case]
    x, y = (jnp.asarray(load("torchaudio")[f"{case}/{key}"]) for key in "xy")
    got, lengths = data.resample(x, old, new, **options)
    np.testing.assert_allclose(got, y, **EXACT)
    assert lengths == len(y)


def test_every_stored_case_is_compared() -> None:
    mine = {f"librosa/{case}" for case in [*LIBROSA_STFT, *LIBROSA, *FILTERS, "decibels", "delta_1", "delta_2"]}
    mine |= {f"torchaudio/{case}" for case in [*TORCHAUDIO, *RESAMPLED, "delta"]}
    assert mine == {f"{file}/{key.split('/')[0]}" for file in ("librosa", "torchaudio") for key in load(file)}


def test_scales_are_inverse_and_known() -> None:
    hertz = np.array([0.0, 440.0, 1000.0, 6400.0])
    for scale in ("slaney", "htk"):
        np.testing.assert_allclose(data.mel_to_hz(data.hz_to_mel(hertz, scale), scale), hertz, rtol=1e-12)
    np.testing.assert_allclose(data.hz_to_mel([1000.0, 6400.0]), [15.0, 42.0])
    np.testing.assert_allclose(data.hz_to_mel(700.0, "htk"), 2595 * np.log10(2))


RNG = np.random.default_rng(7)
SIGNALS = RNG.standard_normal((2, 3, 500))
LENGTHS = np.array([[500, 333, 0], [1, 256, 479]])
SMALL = MelSpectrogram(RATE, STFT(64, 24), 8)
EVERY = {
    "stft": STFT(64, 24),
    "stft_stream": STFT(64, 24, center=False),
    "log_mel": LogMel(SMALL),
    "mfcc": MFCC(SMALL, 6, top_db=15.0),
}


@pytest.mark.parametrize("name", EVERY)
def test_padded_rows_are_the_rows_alone(name: str) -> None:
    """NaN behind the end is harmless, and frames behind the end are zero."""
    extract = EVERY[name]
    padded = np.where(np.arange(500) < LENGTHS[..., None], SIGNALS, np.nan)
    got, frames = extract(jnp.asarray(padded), jnp.asarray(LENGTHS))
    for at in np.ndindex(*LENGTHS.shape):
        alone, count = extract(jnp.asarray(SIGNALS[at][: LENGTHS[at]]))
        assert frames[at] == count == len(alone)
        np.testing.assert_allclose(got[at][:count], alone, **EXACT)
        np.testing.assert_array_equal(got[at][count:], 0)


@pytest.mark.parametrize("name", EVERY)
def test_traced_lengths_under_jit_and_vmap(name: str) -> None:
    extract = EVERY[name]
    signal, lengths = jnp.asarray(SIGNALS[0]), jnp.asarray(LENGTHS[0])
    want = extract(signal, lengths)
    for got in (jax.jit(extract)(signal, lengths), jax.vmap(extract)(signal, lengths)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), got, want)


@pytest.mark.parametrize("name", EVERY)
def test_lengths_that_jit_closes_over(name: str) -> None:
    extract, lengths = EVERY[name], jnp.asarray(LENGTHS[0])
    got = jax.jit(lambda signal: extract(signal, lengths))(jnp.asarray(SIGNALS[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), got, extract(SIGNALS[0], LENGTHS[0]))


def test_no_rows() -> None:
    assert data.deltas(jnp.ones((0, 5, 3))).shape == data.standardize(jnp.ones((0, 5, 3))).shape == (0, 5, 3)
    for extract in EVERY.values():
        assert extract(jnp.ones((0, 500)), jnp.ones((0,), int))[0].shape[0] == 0


def test_hop_of_a_narrow_window() -> None:
    """As in librosa, where it is a quarter of the window and not of the frame."""
    assert STFT(512, win_length=400).hop == 100
    assert STFT(512).hop == 128


def test_float64_of_numpy_without_x64() -> None:
    """What `soundfile` returns, where JAX computes in float32; a warning is an error here."""
    with jax.enable_x64(False):
        for extract in EVERY.values():
            assert jnp.real(extract(SIGNALS[0])[0]).dtype == np.float32
        assert data.deltas(np.ones((5, 3))).dtype == np.float32


def test_products_are_exact_on_accelerators() -> None:
    """A GPU's default would round factors to 11 bits, a TPU's to 8, and decibels are near −100."""
    for run in (EVERY["mfcc"], lambda x: data.deltas(x[..., None])):
        text = str(jax.make_jaxpr(run)(jnp.ones(200)))
        assert text.count("dot_general") == text.count("Precision.HIGHEST, Precision.HIGHEST") > 0


def test_chunks_of_a_stream_are_the_whole() -> None:
    extract = LogMel(MelSpectrogram(RATE, STFT(64, 24, center=False), 8))
    signal = jnp.asarray(SIGNALS[0, 0])
    whole, _ = extract(signal)
    parts = [extract(signal[start * 24 : (start + 5) * 24 + 40])[0] for start in range(0, 20, 5)]
    assert len(whole) == 19
    np.testing.assert_allclose(jnp.concatenate(parts), whole, **EXACT)


@pytest.mark.parametrize("name", ["log_mel", "mfcc"])
def test_gradients_of_silence_are_finite(name: str) -> None:
    gradient = jax.grad(lambda x: EVERY[name](x)[0].sum())(jnp.zeros(200))
    assert np.isfinite(gradient).all()
    root = MelSpectrogram(RATE, STFT(64, 24), 8, power=1.0)
    assert np.isfinite(jax.grad(lambda x: root(x)[0].sum())(jnp.zeros(200))).all()


@pytest.mark.parametrize(("given", "kept"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_dtypes(given: str, kept: str) -> None:
    x = jnp.ones(100, given)
    assert EVERY["log_mel"](x)[0].dtype == EVERY["mfcc"](x)[0].dtype == kept
    assert data.deltas(jnp.ones((4, 2), given)).dtype == data.standardize(jnp.ones((4, 2), given)).dtype == kept
    assert data.resample(x, 3, 2)[0].dtype == data.change_speed(x, 1.1)[0].dtype == kept
    assert data.add_noise(jax.random.key(0), x, 3.0).dtype == kept


def test_equal_extractors_trace_once() -> None:
    count = 0

    @jax.jit
    def run(extract: LogMel, x: jax.Array) -> jax.Array:
        nonlocal count
        count += 1
        return extract(x)[0]

    for _ in range(2):
        run(LogMel(MelSpectrogram(RATE, STFT(64, 24), 8)), jnp.ones(100))
    assert count == 1


def test_slopes_and_standard_scores_of_padded_rows() -> None:
    x = RNG.standard_normal((3, 11, 2))
    lengths = np.array([11, 4, 0])
    padded = jnp.asarray(np.where(np.arange(11)[:, None] < lengths[:, None, None], x, np.nan))
    slopes, scores = data.deltas(padded, jnp.asarray(lengths), width=5), data.standardize(padded, jnp.asarray(lengths))
    for row, length in enumerate(lengths):
        valid = x[row, :length]
        for t in range(length):
            near = valid[np.clip(np.arange(t - 2, t + 3), 0, length - 1)]
            np.testing.assert_allclose(slopes[row, t], np.array([-2, -1, 0, 1, 2]) @ near / 10, **EXACT)
        if length:
            expected = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5)
            np.testing.assert_allclose(scores[row, :length], expected, **EXACT)
        np.testing.assert_array_equal(slopes[row, length:], 0)
        np.testing.assert_array_equal(scores[row, length:], 0)


def test_slope_of_a_line_is_its_slope() -> None:
    line = 3.0 * jnp.arange(30.0)[:, None] + 1
    np.testing.assert_allclose(data.deltas(line)[4:-4], 3.0)
    np.testing.assert_allclose(data.deltas(line**2, order=2)[4:-4], 18.0)


BAD = {
    "integers": (lambda: STFT(8)(jnp.ones(9, jnp.int16)), TypeError, "divide PCM"),
    "lengths": (lambda: STFT(8)(jnp.ones((2, 9)), jnp.array([3, 10])), ValueError, "must lie in 0…9; got 3…10"),
    "rows": (lambda: STFT(8)(jnp.ones((2, 9)), jnp.array([3])), ValueError, "one entry for each row"),
    "window": (lambda: STFT(8, window="kaiser"), ValueError, "`window` must be one of hann"),
    "width": (lambda: STFT(8, win_length=9), ValueError, "`win_length` must be at most"),
    "reflect": (lambda: STFT(8, pad_mode="reflect")(jnp.ones(4)), ValueError, "longer than half a frame"),
    "both": (
        lambda: STFT(8, pad_mode="reflect")(jnp.ones((1, 9)), jnp.array([9])), ValueError, "`lengths` need `pad_mode"
    ),
    "filters": (lambda: data.mel_filters(8000, 64, 40), ValueError, "meets no frequency"),
    "range": (lambda: data.mel_filters(8000, 64, 4, fmax=4001), ValueError, "fmin < fmax ≤ 4000"),
    "cepstra": (lambda: MFCC(SMALL, 9), ValueError, "at most the 8 bands"),
    "floor": (lambda: LogMel(SMALL, floor=1e-50), ValueError, "`floor` must be positive, 1.2e-38 or more"),
    "amin": (lambda: data.power_to_db(jnp.ones((1, 1)), amin=0.0), ValueError, "`amin` must be positive"),
    "delta": (lambda: data.deltas(jnp.ones((4, 2)), width=4), ValueError, "odd"),
    "features": (lambda: data.standardize(jnp.ones(4)), ValueError, r"\(\*B, T, F\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    run, error, message = BAD[name]
    with pytest.raises(error, match=message):
        run()
