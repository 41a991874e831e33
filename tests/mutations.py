"""Breaks a copy of the package in one place at a time and shows which test notices.

    python tests/mutations.py [--only NAME …]

A mutation that every chosen test survives is a hole in the tests. The working tree is never touched.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 2


class Mutation(NamedTuple):
    """`old`, found exactly once in `rnnjax/<file>`, becomes `new`; `tests` are the ones that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def law(name: str, pair: str) -> tuple[str, ...]:
    return (f"tests/laws/test_{name}.py::test_{name}[{pair}]",)


def equation(pair: str) -> tuple[str, ...]:
    return (f"tests/test_equations.py::test_cell_follows_its_equations[{pair}]",)


MUTATIONS = (
    Mutation(
        "lstm swaps input and forget gate",
        "cells/lstm.py",
        "c = f * state.c + i * g",
        "c = i * state.c + f * g",
        equation("lstm-scan"),
    ),
    Mutation(
        "lstm adds the forget bias in the forward pass",
        "cells/lstm.py",
        "f = gate(gx[1] + gh[1])",
        "f = gate(gx[1] + gh[1] + 1)",
        equation("lstm-scan"),
    ),
    Mutation(
        "lstm's derivative takes g for c",
        "cells/lstm.py",
        "dc * c_prev * gate_slope(f)",
        "dc * g * gate_slope(f)",
        law("derivatives", "lstm-fused"),
    ),
    Mutation(
        "gru swaps reset and update gate",
        "cells/gru.py",
        "r = gate(gx[0] + gh[0])\n        z = gate(gx[1] + gh[1])",
        "z = gate(gx[0] + gh[0])\n        r = gate(gx[1] + gh[1])",
        equation("gru-scan"),
    ),
    Mutation(
        "gru drops b_n",
        "cells/gru.py",
        "(None, None, params.b_n)",
        "(None, None, 0 * params.b_n)",
        equation("gru-scan"),
    ),
    Mutation(
        "elman transposes u",
        "cells/elman.py",
        "return params.u, None",
        "return params.u.T, None",
        equation("elman-scan"),
    ),
    Mutation(
        "slope of tanh without the square",
        "activations.py",
        "lambda y: 1 - y * y",
        "lambda y: 1 - y",
        law("derivatives", "elman-fused"),
    ),
    Mutation(
        "reset acts one step late",
        "_unroll/lift.py",
        "if reset is None or not reverse:\n        return reset",
        "if reset is None:\n        return reset\n    if not reverse:\n"
        "        return jnp.concatenate([jnp.zeros_like(reset[:1]), reset[:-1]])",
        law("reset_splits", "elman-scan"),
    ),
    Mutation(
        "reset is not moved when time runs backwards",
        "_unroll/lift.py",
        "return shift(reset, reverse=True)",
        "return reset",
        law("mask_with_reset", "elman-scan"),
    ),
    Mutation(
        "reset goes back to the state that was passed",
        "_unroll/driver.py",
        "boundary=None if reset is None else start",
        "boundary=None if reset is None else start if state is None else state",
        law("reset_splits", "elman-scan"),
    ),
    Mutation(
        "masked inputs reach the product",
        "_unroll/driver.py",
        "xs = zero_where_masked(mask, dtypes.inputs(xs, 1 + len(batch_shape)))",
        "xs = dtypes.inputs(xs, 1 + len(batch_shape))",
        law("padding", "elman-scan"),
    ),
    Mutation(
        "a product for where",
        "_unroll/lift.py",
        "jnp.where(over(condition, b), a, b)",
        "over(condition, b).astype(b.dtype) * a + (~over(condition, b)).astype(b.dtype) * b",
        law("padding", "elman-scan"),
    ),
    Mutation(
        "masked steps change the state",
        "_unroll/lift.py",
        "return new if mask is None else where(mask, new, old)",
        "return new",
        law("masked_hole", "elman-scan"),
    ),
    Mutation(
        "masked outputs are not zero",
        "_unroll/driver.py",
        "return zero_where_masked(call.flow.mask, ys), state",
        "return ys, state",
        law("no_valid_step", "elman-scan"),
    ),
    Mutation(
        "lengths are one too long",
        "_unroll/lift.py",
        "jnp.broadcast_to(times, shape) < ",
        "jnp.broadcast_to(times, shape) <= ",
        law("masked_tail", "elman-scan"),
    ),
    Mutation(
        "the state that was passed is ignored",
        "_unroll/driver.py",
        "state=start if state is None else state,",
        "state=start,",
        law("chunks", "elman-scan"),
    ),
    Mutation(
        "reverse runs forwards",
        "_unroll/scan.py",
        "(z, flow.noise, flow.mask, flow.reset), reverse=call.reverse)",
        "(z, flow.noise, flow.mask, flow.reset))",
        law("direction", "elman-scan"),
    ),
    Mutation(
        "chunks are joined in the wrong order backwards",
        "_unroll/chunks.py",
        "(chunks.rest, whole) if reverse else (whole, chunks.rest)",
        "(whole, chunks.rest)",
        law("same_as_scan", "elman-scan"),
    ),
    Mutation(
        "weight gradient of the last chunk alone",
        "_unroll/fused.py",
        "weights=_add(totals.weights, _Weights(_of_weights(hidden, dgh, *weights.recurrent), d_input)),",
        "weights=_Weights(_of_weights(hidden, dgh, *weights.recurrent), d_input),",
        law("same_as_scan", "elman-fused"),
    ),
    Mutation(
        "candidate takes the gradient of its recurrent half",
        "_unroll/fused.py",
        "    if all(gate is None for gate in apart):\n        return dgh",
        "    return dgh",
        law("same_as_scan", "gru-fused"),
    ),
    Mutation(
        "a changed map keeps its shortcut",
        "_wrapper.py",
        "return shortcut in vars(own)",
        "return True",
        ("tests/test_shortcuts.py",),
    ),
    Mutation(
        "gradient of held states is lost",
        "_unroll/fused.py",
        "d_old = _add(d_old, where(inputs.mask, zeros, d_state))",
        "d_old = _add(d_old, zeros)",
        law("no_valid_step", "elman-fused"),
    ),
    Mutation(
        "gradient of the state behind a reset is lost",
        "_unroll/fused.py",
        "return d_cell, d_params, d_flow, d_state, totals.boundary, None",
        "return d_cell, d_params, d_flow, d_state, jax.tree.map(jnp.zeros_like, totals.boundary), None",
        law("reset_splits", "learned_initial_state-fused"),
    ),
    Mutation(
        "gradient of the cell's numbers is lost",
        "_unroll/fused.py",
        "return d_cell, d_params, d_flow, d_state, totals.boundary, None",
        "return jax.tree.map(jnp.zeros_like, d_cell), d_params, d_flow, d_state, totals.boundary, None",
        law("leaves", "leaky_elman-fused"),
    ),
    Mutation(
        "no rows are divided by",
        "_unroll/fused.py",
        "rows = max(1, math.prod(call.batch_shape))",
        "rows = math.prod(call.batch_shape)",
        law("nothing_to_do", "elman-fused"),
    ),
    Mutation(
        "forward mode fails without a hint",
        "_unroll/driver.py",
        'if "forward-mode" not in str(error) or implementation == "scan":',
        "if True:",
        law("derivatives", "elman-fused"),
    ),
    Mutation(
        "every step has the noise of its chunk's first one",
        "_unroll/scan.py",
        "merge_noise(noise_t, constant)",
        "merge_noise(at_step(flow.noise), constant)",
        law("steps_in_a_loop", "nested-scan"),
    ),
    Mutation(
        "updates that are formed again have no noise",
        "_unroll/fused.py",
        "_update(fixed.cell, maps.params, old, gx_t, gh_t, merge_noise(noise_t, maps.noise))",
        "_update(fixed.cell, maps.params, old, gx_t, gh_t, None)",
        law("noise", "nested-fused"),
    ),
    Mutation(
        "a reset's state has no gradient where the first one's is not asked for",
        "_unroll/cpu.py",
        "        return _Inputs(params, d_xs, state, self.state(boundary) if self.resets else None)\n",
        "        boundary = [self.plan.wants_state * leaf for leaf in boundary]\n"
        "        return _Inputs(params, d_xs, state, self.state(boundary) if self.resets else None)\n",
        law("parameters_alone", "learned_initial_state-cpu"),
    ),
    Mutation(
        "noise without a key",
        "_unroll/driver.py",
        "noise = None if noise_key is None else cell.noise(noise_key,",
        "noise = cell.noise(jax.random.key(0) if noise_key is None else noise_key,",
        law("noise", "nested-scan"),
    ),
    Mutation(
        "outputs keep the dtype of the state",
        "_unroll/driver.py",
        "y.astype(call.dtypes.compute)",
        "y.astype(call.dtypes.state)",
        law("dtypes", "elman-scan"),
    ),
    Mutation(
        "every call is traced anew",
        "_unroll/driver.py",
        '@partial(jax.jit, static_argnames=("reverse", "remat", "implementation"), inline=True)\n',
        "",
        law("traces", "elman-scan"),
    ),
    Mutation(
        "cells with different numbers are equal",
        "_struct.py",
        "return type(a) is type(b) and a == b",
        "return type(a) is type(b)",
        law("value", "leaky_elman-scan"),
    ),
    Mutation(
        "an implementation is no longer chosen",
        "_unroll/fused.py",
        'return "a single step has no loop to speed up" if call.steps == 1 else None',
        'return "a single step has no loop to speed up"',
        ("tests/test_matrix.py::test_one_implementation_is_chosen[mgu]",),
    ),
    Mutation(
        "an implementation no longer runs",
        "_unroll/fused.py",
        'if call.cell.capability != "gated":',
        "if True:",
        ("tests/test_matrix.py::test_exactly_the_named_implementations_run[mgu]",),
    ),
    Mutation(
        "the kernel's gradient of the inputs is left out",
        "_unroll/cpu.py",
        "wants_dx=inputs.xs.perturbed",
        "wants_dx=False",
        law("same_as_scan", "lstm-cpu"),
    ),
    Mutation(
        "the kernel's gradient of the state behind resets is left out",
        "_unroll/cpu.py",
        "self.state(boundary) if self.resets else None",
        "jax.tree.map(jnp.zeros_like, self.state(boundary)) if self.resets else None",
        law("derivatives", "learned_initial_state-cpu"),
    ),
    Mutation(
        "a kernel stands for a subclass with another update",
        "_wrapper.py",
        'stands_for = ("step", "update", "update_vjp", "recurrent", "hidden", "emit", "project", "input_weights")',
        'stands_for = ("step",)',
        ("tests/kernels/test_kernels.py::test_a_subclass_that_changes_the_update_has_no_kernel",),
    ),
    Mutation(
        "models under vmap share the first one's data",
        "_unroll/cpu.py",
        "leaf = jnp.moveaxis(leaf, 0, axis)",
        "leaf = jnp.moveaxis(jnp.broadcast_to(leaf[:1], leaf.shape), 0, axis)",
        ("tests/kernels/test_kernels.py::test_vmap_is_a_loop[None-data-lstm]",),
    ),
    Mutation(
        "a gradient crosses a reset",
        "_unroll/recurrence.py",
        "return where(cut_t, _zeros(g), times(plan.numbers, a, g)), g",
        "return times(plan.numbers, a, g), g",
        law("reset_splits", "min_gru-chunked"),
    ),
    Mutation(
        "the derivative multiplies with a lost state",
        "_unroll/recurrence.py",
        "before = where(cut, _zeros(out), shift(out, plan.reverse, first=start))",
        "before = shift(out, plan.reverse, first=start)",
        ("tests/test_associative.py::test_a_state_that_is_lost_ends_at_a_reset[associative]",),
    ),
    Mutation(
        "a complex recurrence is derived without conjugation",
        "_unroll/recurrence.py",
        "adjoint = conjugate(plan.numbers, a)",
        "adjoint = a",
        law("derivatives", "learned_initial_lru-associative"),
    ),
    Mutation(
        "a parallel recurrence is derived one step off",
        "_unroll/recurrence.py",
        "a, cut = shift((adjoint, cut), back)",
        "a = adjoint",
        law("derivatives", "min_gru-associative"),
    ),
    Mutation(
        "masked transitions forget",
        "_unroll/transitions.py",
        "where(flow.mask, z.a, one_like(numbers, z.a))",
        "where(flow.mask, z.a, jax.tree.map(jnp.zeros_like, z.a))",
        law("masked_hole", "min_gru-chunked"),
    ),
    Mutation(
        "a recurrence restarts from zero",
        "_unroll/transitions.py",
        "where(flow.reset, plus(times(numbers, z.a, tuple(jax.tree.leaves(boundary))), z.b), z.b)",
        "z.b",
        law("reset_splits", "learned_initial_lru-associative"),
    ),
    Mutation(
        "composed transitions pass a reset",
        "_unroll/transitions.py",
        "counts = first.moves & ~then.resets",
        "counts = first.moves",
        ("tests/test_associative.py::test_transitions_of_any_kind[associative]",),
    ),
    Mutation(
        "chunks of transitions keep what they formed",
        "_unroll/chunks.py",
        "piece = jax.checkpoint(piece, prevent_cse=False)",
        "pass",
        ("tests/test_associative.py::test_the_backward_pass_keeps_no_states",),
    ),
    Mutation(
        "eigenvalues stay off the mesh",
        "_unroll/transitions.py",
        "return a if spec is None else jax.sharding.reshard(a, spec)",
        "return a",
        ("tests/test_associative.py::test_eigenvalues_follow_the_inputs_onto_a_mesh[chunked]",),
    ),
    Mutation(
        "a wrapper that changes steps still composes them",
        "_wrapper.py",
        'return "plain" if type(self).finish is not Wrapper.finish else self.cell.capability',
        "return self.cell.capability",
        (
            "tests/test_associative.py::test_steps_that_changed_run_one_by_one"
            "[Zoneout(MinGRU(hidden_size=3))-Zoneout is not an associative cell]",
        ),
    ),
    Mutation(
        "lru forgets its normalisation",
        "cells/lru.py",
        "gain = jnp.exp(params.gamma)",
        "gain = jnp.ones_like(params.gamma)",
        equation("lru-chunked"),
    ),
    Mutation(
        "a matrix memory decays by the step that writes, too",
        "cells/_memory.py",
        "later = jnp.tril(jnp.broadcast_to(g[..., :, None], square), -1)",
        "later = jnp.tril(jnp.broadcast_to(g[..., :, None], square))",
        equation("mlstm-chunked"),
    ),
    Mutation(
        "gated linear attention forgets decays in the half that writes",
        "cells/gla.py",
        "writes = _pair(k, size)[0] * jnp.exp(first.suffix)",
        "writes = _pair(k, size)[0]",
        equation("gla-chunked"),
    ),
    Mutation(
        "the delta rule's system forgets the decays",
        "cells/_delta.py",
        'overlaps = jnp.tril(beta * exact("...td,...jd->...tj", k, k) * between, -1)',
        'overlaps = jnp.tril(beta * exact("...td,...jd->...tj", k, k), -1)',
        equation("gated_delta_net-chunked"),
    ),
    Mutation(
        "slstm's heads read each other's gates",
        "cells/slstm.py",
        "product = head_product(state.h, params.u)",
        "product = head_product(state.h[..., ::-1], params.u)",
        equation("slstm-scan"),
    ),
    Mutation(
        "an elapsed time is forgotten",
        "cells/cfc.py",
        "elapsed = rate if dt is None else",
        "elapsed = rate if True else",
        ("tests/test_equations.py::test_elapsed_times",),
    ),
    Mutation(
        "stack forgets the resets",
        "layers/stack.py",
        "lengths=lengths, mask=mask, reset=reset, key=fold(key, i)",
        "lengths=lengths, mask=mask, key=fold(key, i)",
        ("tests/laws/test_layers.py::test_resets_separate_sequences[causal_stack]",),
    ),
    Mutation(
        "both directions run forwards",
        "layers/bidirectional.py",
        "run(backward, params.backward",
        "run(backward.reversed(), params.backward",
        ("tests/laws/test_layers.py::test_causal_layers_see_no_later_step[bidirectional]",),
    ),
    Mutation(
        "mean counts masked steps",
        "layers/pooling.py",
        "count = jnp.maximum(jnp.sum(valid, axis=0), 1)",
        "count = jnp.full(valid.shape[1:], valid.shape[0])",
        ("tests/laws/test_layers.py::test_masked_tail_is_shorter[pooled]",),
    ),
    Mutation(
        "unroll knows the cells",
        "_unroll/lift.py",
        "from .._types import Array, State, over\n",
        "from .._types import Array, State, over\nfrom ..cells.elman import ElmanState as ElmanState\n",
        ("tests/test_imports.py::test_imports_point_one_way",),
    ),
    Mutation(
        "gradient of the sum, not of the mean",
        "training/_step.py",
        "scale = 1 / jnp.where(every > 0, every, 1)",
        "scale = jnp.ones_like(every) / rows_of(batch)",
        ("--all", "tests/training/test_fit.py::test_trains_as_the_loop_that_is_written_out[False-layer]"),
    ),
    Mutation(
        "rows that fill up a batch count",
        "training/_batches.py",
        "[(0, missing)] + [(0, 0)] * (weights.ndim - 1))",
        "[(0, missing)] + [(0, 0)] * (weights.ndim - 1), constant_values=1)",
        ("tests/training/test_fit.py::test_evaluation_does_not_depend_on_the_batches",),
    ),
    Mutation(
        "a gradient that is not finite reaches the moments",
        "training/optimizers.py",
        "kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), inner_state, state.inner)",
        "kept = inner_state",
        ("tests/training/test_optimizers.py::test_nonfinite_gradient_touches_nothing",),
    ),
    Mutation(
        "the next window starts from the end of the last",
        "training/truncation.py",
        "tail, _, rest = model.stream(",
        "tail, middle, rest = model.stream(",
        (
            "--all",
            "tests/training/test_truncation.py::test_windows_train_as_the_loop_that_is_written_out[5-2]",
        ),
    ),
    Mutation(
        "units that are left out feed back",
        "cells/active_units.py",
        "return jax.tree.map(self._masked, new)",
        "return new",
        ("tests/test_wrappers.py::test_active_units_are_a_smaller_cell",),
    ),
    Mutation(
        "a checkpoint forgets where in the epoch it was",
        "training/_loop.py",
        "place = np.array([epoch, done, judge.waited, judge.stopped], np.int64)",
        "place = np.array([epoch, 0, judge.waited, judge.stopped], np.int64)",
        ("--all", "tests/training/test_checkpoint.py::test_sigterm_saves_in_the_middle_of_an_epoch_and_stops"),
    ),
    Mutation(
        "gradients of other devices left out",
        "training/_parallel.py",
        "jax.lax.psum(tree, self.axes)",
        "tree",
        ("--all", "tests/training/test_parallel.py::test_eight_devices_train_as_one[check_all_kinds]"),
    ),
    Mutation(
        "the same noise on all devices",
        "training/_parallel.py",
        "jax.random.fold_in(key, jax.lax.axis_index(self.axes))",
        "key",
        ("--all", "tests/training/test_parallel.py::test_eight_devices_train_as_one[check_noise_and_statistics]"),
    ),
    Mutation(
        "states that narrow from window to window",
        "training/_precision.py",
        "high(outputs), _like(streamed.state, state)",
        "high(outputs), state",
        ("tests/training/test_precision.py::test_states_stay_wide_between_windows",),
    ),
    Mutation(
        "a loss in the dtype of the products",
        "training/_precision.py",
        "return high(outputs), _like(rest, changed)",
        "return outputs, _like(rest, changed)",
        ("tests/training/test_precision.py::test_the_optimizer_and_the_products",),
    ),
    Mutation(
        "views written as they lie",
        "training/_params.py",
        'np.asarray(leaf, order="C")',
        "np.asarray(leaf)",
        ("tests/training/test_params.py::test_views_are_written_as_they_read",),
    ),
    Mutation(
        "labels in windows unseen",
        "training/_checks.py",
        "(1, *np.shape(first.targets)[1:2], *outputs.shape[2:])",
        "(1, *np.shape(first.targets)[1:2], 2**30)",
        ("tests/training/test_truncation.py::test_bad_input",),
    ),
    Mutation(
        "a mean over no row is NaN",
        "training/_measure.py",
        "jnp.where(count > 0, batch.weights, jnp.ones_like(batch.weights))",
        "batch.weights",
        ("tests/training/test_fit.py::test_own_mean_over_no_row_is_not_nan",),
    ),
    Mutation(
        "a step that is left out spoils the carried state",
        "training/_step.py",
        "jnp.where(skipped & ~finite, b, a)",
        "jnp.where(skipped & finite, b, a)",
        ("tests/training/test_truncation.py::test_window_that_is_left_out_leaves_the_state_alone",),
    ),
    Mutation(
        "streams of nnx draw alike on all devices",
        "training/_parallel.py",
        "model.apply(params, parallel.own_keys(rest), batch, own(key), train)",
        "model.apply(params, rest, batch, own(key), train)",
        ("--all", "tests/training/test_parallel.py::test_eight_devices_train_as_one[check_noise_of_nnx]"),
    ),
    Mutation(
        "a function that takes any keyword is given no options",
        "training/_model.py",
        "if name in accepted.names}",
        "if name in accepted.names and not accepted.others}",
        ("tests/training/test_fit.py::test_options_reach_a_function_that_takes_others_too",),
    ),
    Mutation(
        "lengths of the inputs cut other axes",
        "training/_measure.py",
        "outputs.ndim < 3 or own not in (*steps, *others)",
        "outputs.ndim < 3",
        ("tests/training/test_fit.py::test_lengths_are_of_the_steps_of_the_inputs",),
    ),
    Mutation(
        "only the first batch is checked",
        "training/_runs.py",
        "enumerate(self.stream.read(epoch, done), done + 1):\n            self.check(batch)\n",
        "enumerate(self.stream.read(epoch, done), done + 1):\n",
        ("tests/training/test_fit.py::test_bad_input",),
    ),
    Mutation(
        "a name says what is better",
        "training/_measure.py",
        "if self.inner in SHARES:",
        'if self.inner in SHARES or self.name == "accuracy":',
        ("tests/training/test_fit.py::test_direction_of_an_own_metric",),
    ),
    Mutation(
        "weights of steps are multiplied with those of other rows",
        "training/_batches.py",
        "batch.weights * weights.reshape(weights.shape + (1,) * (batch.weights.ndim - 1))",
        "batch.weights * weights",
        (
            "--all",
            "tests/training/test_fit.py::test_weights_of_steps",
        ),
    ),
    Mutation(
        "some recurrent weights decay with the others",
        "training/optimizers.py",
        'RECURRENT = ("u", "u_h")',
        'RECURRENT = ("u",)',
        ("tests/training/test_optimizers.py::test_recurrent_weights_of_other_cells",),
    ),
    Mutation(
        "attention leaves weight on masked steps",
        "layers/attention/memory.py",
        "        weights = jnp.where(mask, weights, 0)",
        "        weights = weights * 1",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "attention exponentiates masked scores",
        "layers/attention/memory.py",
        "jnp.exp(shifted if mask is None else jnp.where(mask, shifted, 0))",
        "jnp.exp(shifted)",
        ("tests/layers/test_attention.py::test_softmax_of_huge_scores",),
    ),
    Mutation(
        "attention divides by no weight",
        "layers/attention/memory.py",
        "jnp.where(total > 0, total, 1)",
        "total",
        ("tests/layers/test_attention.py::test_nothing_to_read",),
    ),
    Mutation(
        "attention reads padding of the memory",
        "layers/attention/memory.py",
        "zero_where_masked(valid, jnp.asarray(source.values))",
        "jnp.asarray(source.values)",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "location filters are flipped",
        "layers/attention/additive.py",
        "params.f[:, None])",
        "params.f[::-1, None])",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "coverage score sees the alignment",
        "layers/attention/additive.py",
        "attended.coverage[..., None]",
        "attended.alignment[..., None]",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "attention's overlap counts the present",
        "layers/attention/cell.py",
        "jnp.minimum(alignment, before.coverage)",
        "jnp.minimum(alignment, before.coverage + alignment)",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "attention's inner noise keeps its shape",
        "layers/attention/cell.py",
        "leaf[None], given)",
        "leaf[:1], given)",
        ("tests/layers/test_attention.py::test_noise_of_the_inner_cell",),
    ),
    Mutation(
        "luong's query is the old state",
        "layers/attention/luong.py",
        "self.attend(params, inner, state.attention)",
        "self.attend(params, state.cell, state.attention)",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "luong feeds always",
        "layers/attention/luong.py",
        "state.output[..., :0]",
        "state.output",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "multi-head reports its first head",
        "layers/attention/score.py",
        "jnp.mean(alignment, axis=0)",
        "alignment[0]",
        ("tests/layers/test_attention.py::test_equations",),
    ),
    Mutation(
        "alignments keep masked steps",
        "layers/attention/alignments.py",
        "return zero_where_masked(valid, lax.scan(step, state, (xs, valid, reset))[1])",
        "return lax.scan(step, state, (xs, valid, reset))[1]",
        ("tests/layers/test_attention.py::test_alignments_of_a_stack",),
    ),
    Mutation(
        "pointer points where nothing is",
        "layers/attention/pointer.py",
        "jnp.where(over_time(readable.any(-1, keepdims=True)), jax.nn.log_sigmoid(gate), 0)",
        "jax.nn.log_sigmoid(gate)",
        ("tests/layers/test_pointer.py::test_mixture",),
    ),
    Mutation(
        "pointer reaches log 0 by rounding",
        "layers/attention/pointer.py",
        "jnp.finfo(alignment.dtype).tiny",
        "0",
        ("tests/layers/test_pointer.py::test_extremes",),
    ),
    Mutation(
        "pointer copies negative ids",
        "layers/attention/pointer.py",
        "readable = (ids >= 0) & (ids < size)",
        "readable = ids < size",
        ("tests/layers/test_pointer.py::test_ids_outside_are_not_copied",),
    ),
    Mutation(
        "pointer reads padding's ids",
        "layers/attention/pointer.py",
        "readable = readable if mask is None else readable & mask",
        "readable = readable",
        ("tests/layers/test_pointer.py::test_mixture",),
    ),
    Mutation(
        "a state is checked against parameters that are not prepared",
        "_unroll/check.py",
        "cell.initial_state(cell.prepare(params, context=context), batch_shape)",
        "cell.initial_state(params, batch_shape)",
        ("tests/layers/test_attention.py::test_a_remembered_memory_step_by_step",),
    ),
    Mutation(
        "modules ask for noise in their own layout",
        "flax/nnx.py",
        "inputs.context, self.time_major):",
        "inputs.context):",
        ("tests/layers/test_attention.py::test_modules",),
    ),
    Mutation(
        "SnAp-1 adds up rows of the Jacobian",
        "training/online/_units.py",
        "if alone:",
        "if row is not None:",
        ("tests/training/test_online.py::test_snap1_keeps_the_blocks_of_the_jacobian",),
    ),
    Mutation(
        "SnAp-1 of gated cells takes the whole Jacobian",
        "training/online/_units.py",
        "return decoupled(row.cell), True",
        "return decoupled(row.cell), False",
        ("tests/training/test_online.py::test_traces_of_gated_cells_need_no_jacobian",),
    ),
    Mutation(
        "online gradients add up in the dtype of the parameters",
        "training/online/_gradient.py",
        "exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtypes.state), params)",
        "exact = params",
        ("tests/training/test_online.py::test_sums_of_a_stream_do_not_stall_in_bfloat16",),
    ),
    Mutation(
        "UORO forgets that the initial state is learned",
        "training/online/_uoro.py",
        "return _balanced(signs, direct)",
        "return _balanced(0 * signs, direct)",
        ("tests/training/test_online.py::test_uoro_is_right_in_the_mean",),
    ),
    Mutation(
        "elapsed times in the compute dtype",
        "_unroll/call.py",
        "leaf.astype(self.compute if leaf.ndim > axes else self.state)",
        "leaf.astype(self.compute)",
        ("tests/test_elapsed.py::test_elapsed_times_are_not_rounded_to_the_compute_dtype",),
    ),
    Mutation(
        "a learned matrix in the compute dtype",
        "_unroll/driver.py",
        "cell.initial_state(params, batch_shape, dtypes.state)",
        "cell.initial_state(dtypes.cast(params), batch_shape, dtypes.state)",
        ("tests/test_wrappers.py::test_a_learned_matrix_is_not_rounded_to_the_compute_dtype",),
    ),
    Mutation(
        "an overridden step leaves a cell gated",
        "_cell.py",
        'cls.capability = "plain"',
        'cls.capability = "gated"',
        ("tests/test_shortcuts.py::test_wrapped_step_is_the_inner_one",),
    ),
    Mutation(
        "the kernel ignores an overridden recurrent",
        "_wrapper.py",
        '"update_vjp", "recurrent", "hidden"',
        '"update_vjp", "hidden"',
        ("tests/test_shortcuts.py::test_changed_step_is_what_runs",),
    ),
    Mutation(
        "fused runs what is not linear",
        "_unroll/theta.py",
        "return not _reads(lambda at, pulled",
        "return True or _reads(lambda at, pulled",
        ("tests/test_shortcuts.py::test_changed_methods_are_named",),
    ),
    Mutation(
        "states share an array",
        "_cell.py",
        "if id(leaf) in taken and not",
        "if id(leaf) not in taken and not",
        ("tests/layers/test_stepper.py::test_states_share_no_array",),
    ),
    Mutation(
        "a stack reads the axes of whatever layer",
        "layers/stack.py",
        "self.layers[: same + 1])",
        "self.layers)",
        ("tests/layers/test_stack.py::test_the_axes_behind_a_layer_that_adds_one_are_its_own",),
    ),
    Mutation(
        "a single step of layers never reads its mask",
        "layers/stack.py",
        "bare = lengths is None and mask is None and",
        "bare = lengths is None and",
        ("tests/layers/test_stepper.py::test_a_marked_step_of_layers[mask]",),
    ),
    Mutation(
        "a single step of layers leaves out what a cell reads out",
        "_unroll/driver.py",
        "cpu.as_they_lie(call)) or reads_out(cell):",
        "cpu.as_they_lie(call)):",
        ("tests/layers/test_stepper.py::test_layers_that_are_no_single_call[readout]",),
    ),
    Mutation(
        "layers of other dtypes are one call",
        "_unroll/driver.py",
        "and (not calls or call.dtypes == calls[0].dtypes)",
        "and True",
        ("tests/layers/test_stepper.py::test_layers_that_are_no_single_call[wider]",),
    ),
    Mutation(
        "what is compiled for a model that is a function is kept",
        "training/_runs.py",
        "not (self.model.kept and all_known(self.used))",
        "not all_known(self.used)",
        ("tests/training/test_fit.py::test_what_is_kept_of_a_model_holds_no_arrays[function]",),
    ),
    Mutation(
        "of a product that overflows the derivative is lost",
        "_unroll/recurrence.py",
        "(own == 0) & jnp.isinf(one)",
        "own == 0",
        ("tests/test_associative.py::test_second_derivatives_where_first_ones_are_zero",),
    ),
    Mutation(
        "the gradient of a broken sequence looks sound",
        "_unroll/memories.py",
        "jnp.where(leaf == 0, leaf, jnp.nan), cotangents)",
        "0 * leaf, cotangents)",
        ("tests/test_memories.py::test_a_loss_that_reads_a_broken_sequence_has_no_finite_gradient[0]",),
    ),
    Mutation(
        "layers whose step is differentiated read their inputs twice",
        "_unroll/cpu.py",
        "out: Any = _unroll(plan, own._replace(xs=xs), _Flags(None, None))",
        "out: Any = _unroll(plan, own._replace(xs=2 * xs), _Flags(None, None))",
        ("tests/layers/test_stepper.py::test_the_gradient_of_a_step_of_layers",),
    ),
    Mutation(
        "the backward layer starts from the forward state",
        "layers/bidirectional.py",
        "run(backward, params.backward, state.backward",
        "run(backward, params.backward, state.forward",
        ("tests/layers/test_bidirectional.py::test_starts_from_what_is_given",),
    ),
    Mutation(
        "beams are compared by the whole of log P",
        "decoding/_beam.py",
        "base = jnp.where(base > -jnp.inf, base, 0)",
        "base = jnp.zeros_like(base)",
        ("tests/decoding/test_beam_search.py::test_one_beam_is_greedy_however_long",),
    ),
    Mutation(
        "a prompt does not count as repetition",
        "decoding/_sample.py",
        "if remember and rule.history is not None:\n        seen =",
        "if False:\n        seen =",
        ("tests/decoding/test_sampling.py::test_frequencies_are_the_exact_distribution",),
    ),
    Mutation(
        "newton ends by the residual of a step",
        "_unroll/newton.py",
        'rounded | (rate == "at once")',
        "True",
        ("tests/test_newton.py::test_slow_units_are_solved_for",),
    ),
    Mutation(
        "layers drop elapsed times",
        "layers/_layer.py",
        "return (xs, dt) if dt is not None and layer.elapsed else xs",
        "return xs",
        ("tests/test_elapsed.py::test_layers_hand_elapsed_times_on",),
    ),
    Mutation(
        "uoro draws the same signs in every piece",
        "training/online/_gradient.py",
        "times = count + jnp",
        "times = jnp",
        ("--all", "tests/training/test_online.py::test_uoro_in_pieces_with_one_key_is_the_whole"),
    ),
    Mutation(
        "online learning moves on at masked steps",
        "training/online/_gradient.py",
        "hold(valid, advance(params, before[1], before[0], x, keys), before)",
        "advance(params, before[1], before[0], x, keys)",
        ("tests/training/test_online.py::test_masked_steps_are_passed_over[rows]",),
    ),
    Mutation(
        "a sweep's initial scale is of biases too",
        "training/_sweep.py",
        "if weight else leaf",
        "if leaf.size else leaf",
        ("tests/training/test_sweep.py::test_initial_scale_multiplies_the_weights_that_were_drawn",),
    ),
    Mutation(
        "the members of a sweep stay on one device",
        "training/_sweep.py",
        "    if len(devices) == 1:\n",
        "    if devices:\n",
        ("--all", "tests/training/test_sweep.py::test_members_are_spread_over_devices"),
    ),
    Mutation(
        "a group of a sweep lies on a few devices",
        "training/_sweep.py",
        "        if busy == 1:\n",
        "        if busy:\n",
        ("--all", "tests/training/test_sweep.py::test_members_are_spread_over_devices[groups_lie_on_all_devices]"),
    ),
    Mutation(
        "the first window's state has no gradient",
        "training/truncation.py",
        "state = jax.lax.cond(begins.any(), initial, lambda: state)",
        "state = jax.lax.stop_gradient(jax.lax.cond(begins.any(), initial, lambda: state))",
        (
            "--all",
            "tests/training/test_truncation.py::test_learned_initial_state_is_trained_by_the_first_window[layer]",
        ),
    ),
    Mutation(
        "every window starts from the initial state",
        "training/truncation.py",
        "jnp.full(mask.shape[:1], index == 0)",
        "jnp.full(mask.shape[:1], index >= 0)",
        (
            "--all",
            "tests/training/test_truncation.py::test_learned_initial_state_is_trained_by_the_first_window[layer]",
        ),
    ),
    Mutation(
        "a killed run does an epoch again",
        "training/_loop.py",
        "place = np.array([epoch, done,",
        "place = np.array([max(epoch - 1, 0), done,",
        ("--all", "tests/training/test_checkpoint.py::test_killed_run_ends_with_the_same_bits"),
    ),
    Mutation(
        "full batches of an iterable have no weights",
        "training/_batches.py",
        "yield weighed(fill_up(batch, self._rows)) if self._weighted else batch",
        "yield fill_up(batch, self._rows)",
        ("tests/training/test_fit.py::test_iterables_with_a_ragged_end_are_one_program",),
    ),
    Mutation(
        "epochs of so many steps begin anew",
        "training/_batches.py",
        "        if self._going is None:\n",
        "        if epoch >= 0:\n",
        ("tests/training/test_fit.py::test_epochs_of_so_many_steps",),
    ),
    Mutation(
        "a run goes on with the first batches",
        "training/_batches.py",
        "islice(whole, epoch * self.steps + done, None)",
        "islice(whole, done, None)",
        ("tests/training/test_checkpoint.py::test_epochs_of_so_many_steps_resume",),
    ),
    Mutation(
        "equal labels need no blank between",
        "training/_ctc.py",
        "(places != blank) & (places != ",
        "(places != blank) | (places != ",
        ("tests/training/test_losses.py::test_ctc_of_classes_that_are_ruled_out[-inf]",),
    ),
    Mutation(
        "recurrent decay of nothing is silent",
        "training/optimizers.py",
        "    if not partial and not any(jax.tree.leaves(marks)):\n",
        "    if marks is None:\n",
        ("tests/training/test_optimizers.py::test_recurrent_decay_without_recurrent_weights_is_refused",),
    ),
    Mutation(
        "a perplexity is a mean of exponentials",
        "training/totals.py",
        "        return jnp.exp(ratio(self.total, self.count))",
        "        return ratio(jnp.exp(self.total), self.count)",
        ("tests/training/test_metrics.py::test_perplexity_and_bits_of_two_batches",),
    ),
    Mutation(
        "the torn array is not named",
        "training/_checkpoint.py",
        "    error = _origin(error)\n",
        "",
        ("tests/training/test_checkpoint.py::test_array_that_is_torn_is_named",),
    ),
    Mutation(
        "a checkpoint after every epoch",
        "training/_loop.py",
        "self.epoch % self.checkpoint_every == 0",
        "self.epoch > 0",
        ("tests/training/test_checkpoint.py::test_a_checkpoint_every_so_many_epochs",),
    ),
    Mutation(
        "an error takes what was trained along",
        "training/_fit.py",
        "    model.publish(*chosen)\n",
        "",
        ("tests/training/test_fit.py::test_an_error_leaves_a_module_with_what_it_has_learnt[False-error]",),
    ),
    Mutation(
        "Ctrl-C loses the state that a loop has made",
        "training/_runs.py",
        "        if self._holds:\n            signal.signal(signal.SIGINT, self._note)\n",
        "",
        ("tests/training/test_fit.py::test_ctrl_c_within_a_loop_leaves_a_module_with_what_it_has_learnt",),
    ),
    Mutation(
        "a filter begins at 0 Hz whatever is asked",
        "data/_mel.py",
        "np.linspace(hz_to_mel(fmin, scale), ",
        "np.linspace(hz_to_mel(0.0, scale), ",
        ("tests/data/test_sound.py::test_filters_are_librosas[filters_htk_None]",),
    ),
    Mutation(
        "the lifter begins with its second weight",
        "data/_mel.py",
        "np.sin(np.pi * (k + 1) / self.lifter)",
        "np.sin(np.pi * (k + 2) / self.lifter)",
        ("tests/data/test_sound.py::test_features_are_librosas[mfcc_lifter]",),
    ),
    Mutation(
        "a bucket begins one row early",
        "data/_padding.py",
        "cuts = np.flatnonzero(np.diff(ordered[:, axis])) + 1",
        "cuts = np.flatnonzero(np.diff(ordered[:, axis]))",
        ("tests/data/test_padding.py::test_one_division_is_the_best_of_all",),
    ),
    Mutation(
        "slopes reach over the end of a row",
        "data/_features.py",
        "steps - 1, jnp.int32) if lengths is None else jnp.maximum(lengths - 1, 0)",
        "steps - 1, jnp.int32)",
        ("tests/data/test_sound.py::test_slopes_and_standard_scores_of_padded_rows",),
    ),
    Mutation(
        "gates of a GRU stay in the order of Keras",
        "interop/_keras.py",
        "own = [reordered(one, (1, 0, 2)) for one in own]",
        "own = [reordered(one, (0, 1, 2)) for one in own]",
        ("tests/test_interop.py::test_a_whole_keras_model",),
    ),
    Mutation(
        "the second direction of ONNX has the weights of the first",
        "interop/_onnx.py",
        "gates(take(arrays, name)[direction].T)",
        "gates(take(arrays, name)[0].T)",
        ("tests/test_interop.py::test_second_direction_of_onnx",),
    ),
    Mutation(
        "gates of Flax's GRU swap their names",
        "interop/_flax.py",
        'cells.GRU: tuple("rzn")',
        'cells.GRU: tuple("zrn")',
        ("tests/test_interop.py::test_linen[GRUCell]",),
    ),
    Mutation(
        "a module that runs backwards returns the output at the last step",
        "flax/_shared.py",
        "return end(isinstance(top, RNN) and top.reverse, ys)",
        "return end(False, ys)",
        ("tests/flax/test_nnx.py::test_last_outputs",),
    ),
    Mutation(
        "attributions lead from the inputs to the baseline",
        "diagnostics/_attribution.py",
        "values = jax.tree.map(lambda x, b, t: (x - b) * t, xs, baseline, total)",
        "values = jax.tree.map(lambda x, b, t: (b - x) * t, xs, baseline, total)",
        ("tests/diagnostics/test_attribution.py::test_pytrees_scalars_and_baselines",),
    ),
    Mutation(
        "Lyapunov's directions do not turn with the state",
        "diagnostics/_lyapunov.py",
        "return (s, q), local",
        "return (s, carry[1]), local",
        ("tests/diagnostics/test_dynamics.py::test_lyapunov_spectrum_of_a_nonlinear_network",),
    ),
    Mutation(
        "a hypothesis that ends is a token shorter to its length penalty",
        "decoding/_beam.py",
        "_close(closed, history, t + 1, ending, task.divisor[t], ",
        "_close(closed, history, t + 1, ending, task.divisor[jnp.maximum(t - 1, 0)], ",
        ("tests/decoding/test_beam_search.py::test_a_full_beam_is_an_exhaustive_search[gnmt-True]",),
    ),
    Mutation(
        "a prefix repeats its last label without a blank between",
        "decoding/_prefix.py",
        "jnp.where(ids == last[..., None], state.blank[..., None], total[..., None])",
        "jnp.where(ids == blank, state.blank[..., None], total[..., None])",
        ("tests/decoding/test_ctc_decoding.py::test_enough_beams_are_the_sum_over_all_alignments[0]",),
    ),
)


class Verdict(NamedTuple):
    """The first test that failed, or None; `output` is what pytest said."""

    failed: str | None
    output: str


def apply(mutation: Mutation, copy: Path) -> None:
    """Makes the replacement in a copy of the package."""
    path = copy / "rnnjax" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(
            f"{mutation.name!r}: found {text.count(mutation.old)} times in {mutation.file}: {mutation.old}"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def make_copy(where: Path) -> Path:
    """Package and tests as they are."""
    for folder in ("rnnjax", "tests"):
        shutil.copytree(ROOT / folder, where / folder, ignore=shutil.ignore_patterns("__pycache__", "goldens"))
    shutil.copy(ROOT / "pyproject.toml", where)
    return where


def run_tests(copy: Path, tests: tuple[str, ...]) -> Verdict:
    """Runs tests against a copy.

    Raises:
        RuntimeError: if pytest does not come as far as running them.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--all", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env={**inherited, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    failed = re.search(r"^FAILED (\S+)", output, re.MULTILINE)
    if done.returncode != (0 if failed is None else 1):
        raise RuntimeError(output)
    return Verdict(failed and failed[1], output)


def survives(mutation: Mutation) -> Verdict:
    """What the mutation's tests say of a mutated copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = make_copy(Path(folder))
        apply(mutation, copy)
        return run_tests(copy, mutation.tests)


def unmutated(mutations: tuple[Mutation, ...]) -> Verdict:
    """What the same tests say of an unchanged copy: unless they pass, their failing shows nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return run_tests(make_copy(Path(folder)), tuple({test: None for m in mutations for test in m.tests}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutations whose name contains one of these")
    only = parser.parse_args().only
    chosen = tuple(m for m in MUTATIONS if only is None or any(part in m.name for part in only))
    width = max(len(mutation.name) for mutation in chosen)
    survivors = 0
    with ThreadPoolExecutor(PROCESSES) as pool:
        plain = pool.submit(unmutated, chosen)
        for mutation, verdict in zip(chosen, pool.map(survives, chosen), strict=True):
            survivors += verdict.failed is None
            print(f"{mutation.name:<{width}}  {verdict.failed or 'SURVIVES'}", flush=True)
    if plain.result().failed:
        print(f"without a mutation, {plain.result().failed} fails\n{plain.result().output}")
    return int(survivors > 0 or plain.result().failed is not None)


if __name__ == "__main__":
    sys.exit(main())
