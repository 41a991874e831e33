"""Losses against their formulas in NumPy, position by position; masks, lengths and layouts; gradients; bad input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import training

T, B, K = 5, 3, 4
LENGTHS = np.array([5, 2, 0])
VALID = np.arange(T)[:, None] < LENGTHS  # (T, B)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(T, B, K)) * 2
LABELS = RNG.integers(0, K, (T, B))
SOFT = RNG.dirichlet(np.ones(K), (T, B))
TARGETS = RNG.normal(size=(T, B, K)) * 2
BINARY = RNG.integers(0, 2, (T, B, K)).astype(float)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def reference(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One number a position."""
    if name == "cross_entropy":
        return -np.take_along_axis(log_softmax(a), b[..., None], -1)[..., 0]
    if name == "soft":
        return -(b * log_softmax(a)).sum(-1)
    if name == "binary_cross_entropy":
        p = 1 / (1 + np.exp(-a))
        return -(b * np.log(p) + (1 - b) * np.log(1 - p)).mean(-1)
    e = a - b
    if name == "mean_squared_error":
        return (e**2).mean(-1)
    if name == "mean_absolute_error":
        return np.abs(e).mean(-1)
    return np.where(np.abs(e) <= 1, e**2 / 2, np.abs(e) - 0.5).mean(-1)


CASES = {
    "cross_entropy": (training.cross_entropy, LABELS),
    "soft": (training.cross_entropy, SOFT),
    "binary_cross_entropy": (training.binary_cross_entropy, BINARY),
    "mean_squared_error": (training.mean_squared_error, TARGETS),
    "mean_absolute_error": (training.mean_absolute_error, TARGETS),
    "huber": (training.huber, TARGETS),
}
each_loss = pytest.mark.parametrize("name", CASES)


@each_loss
def test_follows_its_formula(name: str) -> None:
    loss, targets = CASES[name]
    expected = reference(name, LOGITS, targets)
    total = loss(LOGITS, targets)
    np.testing.assert_allclose(total.value, expected.mean(), rtol=1e-12)
    assert float(total.count) == T * B


@each_loss
def test_lengths_are_the_mask_in_both_layouts(name: str) -> None:
    loss, targets = CASES[name]
    expected = reference(name, LOGITS, targets)[VALID].mean()
    swapped = LOGITS.swapaxes(0, 1), targets.swapaxes(0, 1)
    for total in (
        loss(LOGITS, targets, lengths=LENGTHS),
        loss(LOGITS, targets, mask=VALID),
        loss(LOGITS, targets, mask=np.array([True, True, False]), lengths=LENGTHS),
        loss(*swapped, lengths=LENGTHS, time_major=False),
        loss(*swapped, mask=VALID.T, time_major=False),
    ):
        np.testing.assert_allclose(total.value, expected, rtol=1e-12)
        assert float(total.count) == VALID.sum()


@each_loss
def test_weights_weigh(name: str) -> None:
    loss, targets = CASES[name]
    weights = RNG.uniform(size=(T, B))
    expected = (weights * reference(name, LOGITS, targets)).sum() / weights.sum()
    np.testing.assert_allclose(loss(LOGITS, targets, mask=weights).value, expected, rtol=1e-12)
    rows = weights[0]
    expected = (rows * reference(name, LOGITS, targets)).sum() / (T * rows.sum())
    np.testing.assert_allclose(loss(LOGITS, targets, mask=rows).value, expected, rtol=1e-12)


@each_loss
def test_what_is_masked_is_never_read(name: str) -> None:
    loss, targets = CASES[name]
    spoilt = np.where(VALID[..., None], LOGITS, np.where(np.arange(K) == 0, np.nan, np.inf))
    wrong = np.where(VALID if targets.ndim == 2 else VALID[..., None], targets, -99 if targets.ndim == 2 else np.nan)

    def run(logits: Any, targets: Any) -> Any:
        return jax.value_and_grad(lambda logits: loss(logits, targets, lengths=LENGTHS).value)(logits)

    value, gradient = run(jnp.asarray(spoilt), wrong)
    clean_value, clean_gradient = run(jnp.asarray(LOGITS), targets)
    np.testing.assert_array_equal(value, clean_value)
    np.testing.assert_array_equal(gradient, clean_gradient)
    np.testing.assert_array_equal(gradient[~VALID], 0)


@each_loss
def test_nothing_valid_is_zero_with_zero_gradient(name: str) -> None:
    loss, targets = CASES[name]
    value, gradient = jax.value_and_grad(lambda x: loss(x, targets, lengths=np.zeros(B, int)).value)(
        jnp.asarray(LOGITS)
    )
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


@each_loss
def test_gradient_is_that_of_differences(name: str) -> None:
    loss, targets = CASES[name]

    def value(x: Any) -> Any:
        return loss(x, targets, lengths=LENGTHS).value

    direction, step = RNG.normal(size=LOGITS.shape), 1e-6
    numeric = (value(LOGITS + step * direction) - value(LOGITS - step * direction)) / (2 * step)
    np.testing.assert_allclose((jax.grad(value)(jnp.asarray(LOGITS)) * direction).sum(), numeric, rtol=1e-7)


@each_loss
def test_parts_add_up(name: str) -> None:
    loss, targets = CASES[name]
    parts = [loss(LOGITS[:, i : i + 1], targets[:, i : i + 1], lengths=LENGTHS[i : i + 1]) for i in range(B)]
    np.testing.assert_allclose((parts[0] + parts[1] + parts[2]).value, loss(LOGITS, targets, lengths=LENGTHS).value)


def test_half_precision_is_summed_in_float32() -> None:
    logits = jnp.zeros((4096, 2), jnp.bfloat16)
    total = training.cross_entropy(logits, np.zeros(4096, int))
    assert total.total.dtype == jnp.float32
    np.testing.assert_allclose(total.value, np.log(2), rtol=1e-6)


def test_label_smoothing_spreads_the_label() -> None:
    smooth = 0.9 * np.eye(K)[LABELS] + 0.1 / K
    expected = reference("soft", LOGITS, smooth).mean()
    np.testing.assert_allclose(training.cross_entropy(LOGITS, LABELS, label_smoothing=0.1).value, expected, rtol=1e-12)
    np.testing.assert_allclose(
        training.cross_entropy(LOGITS, np.eye(K)[LABELS], label_smoothing=0.1).value, expected, rtol=1e-12
    )
    traced = jax.jit(lambda s: training.cross_entropy(LOGITS, LABELS, label_smoothing=s).value)(0.1)
    np.testing.assert_allclose(traced, expected, rtol=1e-12)


def test_classes_that_are_ruled_out() -> None:
    """What a logit of −∞ adds, and its gradient, is 0 where the label is, and what has a share of the label is ∞."""
    out = (np.arange(K) == (LABELS[..., None] + 1) % K) | (np.arange(K) == 1) & (LABELS[..., None] != 1)
    closed, open_ = np.where(out, -np.inf, LOGITS), np.where(out, 0, 1)
    p = np.exp(closed) / np.exp(closed).sum(-1, keepdims=True)
    log_p = np.log(np.where(out, 1, p))
    hard = np.eye(K)[LABELS]
    shares = np.where(RNG.uniform(size=hard.shape) < 0.3, 0, SOFT * open_) + hard
    shares /= shares.sum(-1, keepdims=True)
    weights = RNG.uniform(size=(T, B)) * VALID

    def nats(logits: Any, labels: Any, smoothing: Any) -> Any:
        return training.cross_entropy(logits, labels, label_smoothing=smoothing, mask=weights).value

    run = jax.jit(jax.value_and_grad(nats, argnums=(0, 1)))
    share = weights[..., None] / weights.sum()
    for labels in (hard, shares):
        value, (gradient, of_labels) = run(closed, labels, 0.0)
        np.testing.assert_allclose(value, -(share * labels * log_p).sum(), rtol=1e-12)
        np.testing.assert_allclose(gradient, share * (p - labels), atol=1e-12)
        np.testing.assert_allclose(of_labels[~out], (-share * log_p)[~out], atol=1e-12)
    value, gradient = jax.jit(jax.value_and_grad(nats))(closed, LABELS, 0.0)  # an array, which may be anything
    np.testing.assert_allclose(value, -(share * hard * log_p).sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient, share * (p - hard), atol=1e-12)
    assert np.isposinf(run(closed, hard, 0.1)[0])
    assert np.isposinf(nats(closed, np.argmax(out, -1), 0.0))


def test_positions_of_more_than_two_axes() -> None:
    """Frames (T, B, H, W, O): lengths and masks of steps are those of all positions in them, which all count."""
    shape = (T, B, 2, 3)
    a, b = RNG.normal(size=(2, *shape, K))
    labels = RNG.integers(0, K, shape)
    cases = (
        (training.mean_squared_error, b, ((a - b) ** 2).mean(-1)),
        (training.accuracy, labels, (a.argmax(-1) == labels).astype(float)),
    )
    weights, rows = RNG.uniform(size=(T, B)), np.array([1.0, 2.0, 0.5])
    flags: tuple[tuple[dict[str, Any], np.ndarray], ...] = (
        ({"lengths": LENGTHS}, VALID),
        ({"mask": weights, "lengths": LENGTHS}, weights * VALID),
        ({"mask": rows, "lengths": LENGTHS}, rows * VALID),
    )
    for (function, targets, values), (given, weight) in itertools.product(cases, flags):
        share = np.broadcast_to(weight[..., None, None], shape)
        swapped = {name: array.T if array.ndim == 2 else array for name, array in given.items()}
        for total in (
            function(a, targets, **given),
            function(a.swapaxes(0, 1), targets.swapaxes(0, 1), **swapped, time_major=False),
        ):
            np.testing.assert_allclose(total.value, (share * values).sum() / share.sum(), rtol=1e-12)
            np.testing.assert_allclose(total.count, share.sum(), rtol=1e-12)
    with pytest.raises(ValueError, match=r"must be \(5, 3, 2, 3\), \(5, 3\) for whole steps, or \(3,\) for whole rows"):
        training.mean_squared_error(a, b, mask=weights.T)


def test_a_class_to_ignore_does_not_count() -> None:
    """`jax.nn.one_hot` writes a class that there is not as zeros, which smoothing would make a label of."""
    ignored = np.arange(T * B).reshape(T, B) % 4 == 1
    labels = jax.nn.one_hot(np.where(ignored, -1, LABELS), K, dtype=float)
    smooth = 0.9 * np.eye(K)[LABELS] + 0.1 / K
    for own, smoothing in ((np.eye(K)[LABELS], 0.0), (smooth, 0.1)):
        expected = reference("soft", LOGITS, own)
        for lengths, counted in ((None, ~ignored), (LENGTHS, ~ignored & VALID)):
            total = training.cross_entropy(LOGITS, labels, lengths=lengths, label_smoothing=smoothing)
            np.testing.assert_allclose(total.value, expected[counted].mean(), rtol=1e-12)
            assert float(total.count) == counted.sum()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_lengths_of_few_bits(dtype: Any) -> None:
    """Steps from 128 or 256 on, counted in as few bits, would begin anew and lie inside."""
    lengths = np.array([120, 100] if dtype == np.int8 else [200, 250], dtype)
    zeros = np.zeros((300, 2, 1))
    assert float(training.mean_squared_error(zeros, zeros, lengths=lengths).count) == lengths.sum(dtype=int)


def test_numbers_of_numpy_raise_no_warning_in_32_bits() -> None:
    with jax.enable_x64(False):
        total = training.cross_entropy(LOGITS, LABELS, lengths=LENGTHS)
        assert total.total.dtype == jnp.float32
        expected = reference("cross_entropy", LOGITS, LABELS)[VALID].mean()
        np.testing.assert_allclose(total.value, expected, rtol=1e-6)


def test_huber_takes_delta() -> None:
    e = np.abs(LOGITS - TARGETS)
    expected = np.where(e <= 0.3, e**2 / 2, 0.3 * (e - 0.15)).mean()
    np.testing.assert_allclose(training.huber(LOGITS, TARGETS, delta=0.3).value, expected, rtol=1e-12)


def ctc_reference(log_p: np.ndarray, labels: list[int], blank: int) -> float:
    """−log Σ over all paths that collapse to the labels, by counting all of them: log probabilities (T, K)."""
    steps, classes = log_p.shape
    found = -np.inf
    for path in itertools.product(range(classes), repeat=steps):
        collapsed = [k for k, _ in itertools.groupby(path) if k != blank]
        if collapsed == labels:
            found = np.logaddexp(found, log_p[np.arange(steps), path].sum())
    return -found


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_counts_all_alignments(blank: int) -> None:
    classes = [k for k in range(K) if k != blank]
    rows = [[classes[0], classes[0]], [classes[1]], []]
    lengths = np.array([5, 4, 3])
    labels = np.full((B, 3), -1)
    for row, own in zip(labels, rows, strict=True):
        row[: len(own)] = own
    log_p = log_softmax(LOGITS)
    expected = [ctc_reference(log_p[:n, b], rows[b], blank) for b, n in enumerate(lengths)]
    total = training.ctc(LOGITS, labels, lengths=lengths, blank=blank)
    np.testing.assert_allclose(total.value, np.mean(expected), rtol=1e-6)
    assert int(total.impossible) == 0
    swapped = training.ctc(
        LOGITS.swapaxes(0, 1),
        np.abs(labels),
        label_lengths=np.array([2, 1, 0]),
        lengths=lengths,
        mask=np.array([1.0, 0.0, 3.0]),
        time_major=False,
        blank=blank,
    )
    np.testing.assert_allclose(swapped.value, (expected[0] + 3 * expected[2]) / 4, rtol=1e-6)


@pytest.mark.slow
def test_ctc_keeps_the_dtype_of_the_logits() -> None:
    labels = jnp.array([[1, 2], [2, -1]])
    total = training.ctc(LOGITS[:, :2].astype(jnp.float32), labels)
    assert total.total.dtype == total.count.dtype == jnp.float32
    np.testing.assert_allclose(total.value, training.ctc(LOGITS[:, :2], labels).value, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint16, jnp.int32, jnp.int64])
def test_ctc_takes_labels_of_any_integers(dtype: Any) -> None:
    """The blank may be a class that they cannot hold."""
    logits = jax.random.normal(jax.random.key(0), (5, 2, 301))
    labels = jnp.array([[1, 2], [2, 100]])
    want = training.ctc(logits, labels.astype(jnp.int64), blank=300).value
    np.testing.assert_allclose(training.ctc(logits, labels.astype(dtype), blank=300).value, want, rtol=1e-12)


def test_ctc_leaves_out_what_cannot_be_aligned() -> None:
    """Three steps are too few for 1 1 1, which needs a blank between neighbours; optax gives 1e5 and a gradient."""
    labels = np.array([[1, 1, 1], [1, 2, 3], [1, -1, -1]])
    lengths = np.array([4, 3, 5])

    def value(logits: Any) -> Any:
        total = training.ctc(logits, labels, lengths=lengths)
        return total.value, total

    (got, total), gradient = jax.value_and_grad(value, has_aux=True)(jnp.asarray(LOGITS))
    assert int(total.impossible) == 1
    assert float(total.count) == 2
    np.testing.assert_array_equal(gradient[:, 0], 0)
    log_p = log_softmax(LOGITS)
    expected = (ctc_reference(log_p[:3, 1], [1, 2, 3], 0) + ctc_reference(log_p[:, 2], [1], 0)) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("closed", [-np.inf, -1e9, -65504.0])
def test_ctc_of_classes_that_are_ruled_out(closed: float) -> None:
    """Against all paths: what needs them is impossible, and what can do without has its value and gradient. The least
    number of float16 does not rule out: several of them are beyond 10⁵, and still a loss like any other."""
    rng = np.random.default_rng(1)
    rows = [list(map(int, rng.integers(1, 3, rng.integers(0, 3)))) for _ in range(40)]
    out = rng.uniform(size=(4, 40, 3)) < 0.45
    out &= ~out.all(-1, keepdims=True)
    logits, lengths = np.where(out, closed, rng.normal(size=out.shape)), rng.integers(2, 5, 40)
    labels = np.array([row + [-1] * (2 - len(row)) for row in rows])
    logits[1, 0], logits[3, 1], lengths[:2] = -np.inf, -np.inf, 3  # nothing at a step, of which one does not count

    def nats(logits: np.ndarray) -> np.ndarray:
        log_p = log_softmax(np.where(np.isneginf(logits).all(-1, keepdims=True), 0, logits))
        log_p[np.isneginf(logits) | (log_p < -1e5)] = -np.inf
        return np.array([ctc_reference(log_p[:n, b], rows[b], 0) for b, n in enumerate(lengths)])

    def loss(logits: Any, labels: Any, lengths: Any) -> Any:
        total = training.ctc(logits, labels, lengths=lengths)
        return total.total, total

    run = jax.value_and_grad(loss, has_aux=True)
    (total, found), gradient = jax.jit(run)(jnp.asarray(logits), labels, lengths)
    with np.errstate(invalid="ignore"):
        expected = nats(logits)
    possible = np.isfinite(expected)
    assert not possible[0]
    assert possible[1]
    assert 10 < possible.sum() < 40
    assert closed > -1e5 or possible.sum() < 30
    assert closed < -1e5 or expected[possible].max() > 1.3e5
    assert int(found.impossible) == (~possible).sum()
    assert float(found.count) == possible.sum()
    np.testing.assert_allclose(total, expected[possible].sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradient[:, ~possible], 0)
    for t, k in itertools.product(range(4), range(3)):
        nudge = np.zeros(logits.shape)
        nudge[t, :, k] = 1e-5
        with np.errstate(invalid="ignore"):
            slope = (nats(logits + nudge)[possible] - nats(logits - nudge)[possible]) / 2e-5
        np.testing.assert_allclose(gradient[t, possible, k], slope, atol=1e-5)

    pairs = (logits.reshape(4, 20, 2, 3).swapaxes(0, 1), labels.reshape(20, 2, -1), lengths.reshape(20, 2))
    (apart, _), slopes = jax.jit(jax.vmap(run))(*map(jnp.asarray, pairs))
    np.testing.assert_allclose(apart, np.where(possible, expected, 0).reshape(20, 2).sum(1), rtol=1e-6)
    np.testing.assert_allclose(slopes.swapaxes(0, 1).reshape(logits.shape), gradient, atol=1e-12)


def test_ctc_has_a_tangent_of_long_labels() -> None:
    """Most places are out of reach for long, and the sums over those must not grow."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(150, 1, 3)), jnp.float32)
    along = jnp.asarray(np.random.default_rng(1).normal(size=logits.shape), jnp.float32)
    labels = np.arange(100)[None] % 2 + 1

    def loss(logits: Any) -> Any:
        return training.ctc(logits, labels).value

    tangent = jax.jit(lambda: jax.jvp(loss, (logits,), (along,))[1])()
    np.testing.assert_allclose(tangent, (jax.jit(jax.grad(loss))(logits) * along).sum(), rtol=1e-3)


CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "labels of another shape": (
        lambda: training.cross_entropy(LOGITS, LABELS[0]),
        ValueError,
        r"`labels` must be integers \(5, 3\)",
    ),
    "soft labels of another shape": (
        lambda: training.cross_entropy(LOGITS, SOFT[0]),
        ValueError,
        r"`labels` must have the shape of `logits`",
    ),
    "a single class": (
        lambda: training.cross_entropy(LOGITS[..., :1], SOFT[..., :1]),
        ValueError,
        r"`logits` \(5, 3, 1\) are of a single class, whose probability is always 1: .* take `binary_cross_entropy`",
    ),
    "classes that are no integers": (
        lambda: training.cross_entropy(LOGITS, LABELS * 1.0),
        TypeError,
        r"`labels` must be classes, integers \(5, 3\), or probabilities \(5, 3, 4\); got float64\(5, 3\): cast classes",
    ),
    "truths as classes": (
        lambda: training.accuracy(LOGITS, LABELS > 1),
        TypeError,
        r"`labels` must be classes, integers \(5, 3\), or numbers \(5, 3, 4\); got bool\(5, 3\): cast classes",
    ),
    "a label that is no class": (
        lambda: training.cross_entropy(LOGITS, LABELS + 1),
        ValueError,
        r"must lie in 0 … 3",
    ),
    "integer logits": (lambda: training.cross_entropy(LABELS, LABELS), TypeError, "`logits` must be a floating-point"),
    "a mask of another shape": (
        lambda: training.cross_entropy(LOGITS, LABELS, mask=VALID.T),
        ValueError,
        r"`mask` must be \(5, 3\), or \(3,\) for whole rows; got \(3, 5\)",
    ),
    "lengths for time first": (
        lambda: training.cross_entropy(LOGITS, LABELS, lengths=LENGTHS, time_major=False),
        ValueError,
        r"`lengths` must be \(B\) = \(5,\).*time_major=True",
    ),
    "lengths without time": (
        lambda: training.cross_entropy(LOGITS[0], LABELS[0], lengths=LENGTHS),
        ValueError,
        "`lengths` need a time axis",
    ),
    "float lengths": (
        lambda: training.cross_entropy(LOGITS, LABELS, lengths=LENGTHS * 1.0),
        TypeError,
        "`lengths` must be integers",
    ),
    "smoothing": (
        lambda: training.cross_entropy(LOGITS, LABELS, label_smoothing=1.5),
        ValueError,
        r"`label_smoothing` must lie in \[0, 1\]",
    ),
    "targets of another shape": (
        lambda: training.mean_squared_error(LOGITS, TARGETS[..., :1]),
        ValueError,
        r"`targets` must have the shape of `predictions`, \(5, 3, 4\); got \(5, 3, 1\)",
    ),
    "ctc without time": (lambda: training.ctc(LOGITS[0], LABELS), ValueError, r"`logits` must be \(T, B, K\)"),
    "ctc with float labels": (
        lambda: training.ctc(LOGITS, TARGETS[0]),
        TypeError,
        r"`labels` must be integers \(B, N\)",
    ),
    "lengths beyond the steps": (
        lambda: training.mean_squared_error(LOGITS, TARGETS, lengths=LENGTHS + 1),
        ValueError,
        "`lengths` must lie in 0 … 5, the steps that there are; got values from 1 to 6",
    ),
    "a negative weight": (
        lambda: training.accuracy(LOGITS, LABELS, mask=VALID * -1.0),
        ValueError,
        "`mask` must hold no negative weight; got -1.0",
    ),
    "labels that are not yes or no": (
        lambda: training.binary_cross_entropy(LOGITS, 3 * BINARY),
        ValueError,
        "`labels` must be 0 and 1, or probabilities between them; got values from 0.0 to 3.0",
    ),
    "soft labels that sum to 2": (
        lambda: training.cross_entropy(LOGITS, np.minimum(2 * SOFT, 1), mask=VALID),
        ValueError,
        "`labels` must be probabilities that sum to 1 over the last axis; got a sum of",
    ),
    "delta": (
        lambda: training.huber(LOGITS, TARGETS, delta=0),
        ValueError,
        "`delta` must be positive; got 0",
    ),
    "a blank that is no class": (
        lambda: training.ctc(LOGITS, LABELS.T % 3 + 1, blank=4),
        ValueError,
        "`blank` must be one of the classes 0 … 3 of `logits`; got 4",
    ),
    "ctc of a label that is no class": (
        lambda: training.ctc(LOGITS, np.array([[1], [2], [4]])),
        ValueError,
        "`labels` must be classes 0 … 3 without the blank, 0; got values from 1 to 4",
    ),
    "ctc of the blank": (
        lambda: training.ctc(LOGITS, np.array([[1, 2], [2, 0], [3, 3]])),
        ValueError,
        "`labels` must be classes 0 … 3 without the blank, 0; got values from 0 to 3",
    ),
    "ctc of labels with a gap": (
        lambda: training.ctc(LOGITS, np.array([[1, 2], [-1, 2], [3, 3]])),
        ValueError,
        r"row 1 has labels after a negative number: \[-1, 2\]",
    ),
    "totals of two kinds": (
        lambda: training.accuracy(LOGITS, LABELS) + training.perplexity(LOGITS, LABELS),
        TypeError,
        "totals of one kind add up; got Mean and Perplexity",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_input(case: str) -> None:
    call, error, message = CALLS[case]
    with pytest.raises(error, match=message):
        call()
