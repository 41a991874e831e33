"""Fills the README's tables: cells × implementations and layers from the code, the rest from `benchmarks/results`.

With `--check` nothing is changed, and the exit code is 1 where the README is out of date.
"""

from __future__ import annotations

import argparse
import inspect
import json
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

import rnnjax as rj
from rnnjax._unroll import table
from rnnjax._wrapper import kernel

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
SPEED = {
    "gradient_mean": "forward pass and gradients: speed over the best peer's, geometric mean of the rows",
    "gradient_least": "the same, least row",
    "forward_mean": "forward pass: speed over the best peer's, geometric mean of the rows",
    "forward_least": "the same, least row",
    "peak_share": "share of the machine's peak with gradients, B ≥ 32 and H ≥ 256, least row",
    "linear_in_t": "time a step at T 100,000 over that at T 1,000; 1 is linear",
    "vmap32_vs_serial": "32 models under `vmap`: speed over that of 32 calls",
    "vmap32_vs_flax": "the same, over Flax's under `vmap`",
    "step_one_layer": "a step of one LSTM(128), B 1: speed over the best of Flax, Equinox and PyTorch, which train",
    "step_four_layers": "the same of four",
}
CORE = {
    "memory_nnx": "memory of the gradient of an LSTM in T·B·H·4 bytes, Flax nnx; less is better",
    "memory_default": "the same, ours",
    "memory_state": 'with `remat="state"`',
    "memory_sqrt": 'with `remat="sqrt"`; outputs and their cotangents alone are 2',
    "memory_sqrt_streamed": "the same in pieces, whose outputs are used at once",
    "import_seconds": "seconds of `import rnnjax` beyond `import jax`",
    "compile_vs_nnx": "time to compile the gradient of two LSTMs, a CPU's `cpu`, over nnx's; less is better",
    "compile_fused_vs_nnx": "the same by `fused`",
    "fused_vs_nnx_gradient": "`fused`: speed over nnx's with gradients, geometric mean of the rows",
    "fused_vs_nnx_gradient_least": "the same, least row",
    "fused_vs_nnx_forward": "`fused`: speed over nnx's, forward pass, geometric mean of the rows",
    "fused_vs_nnx_forward_least": "the same, least row",
    "quickstart_elman_accuracy": "% of digits right, quickstart's Elman network, constant rate, mean of 20 seeds",
    "quickstart_elman_accuracy_falling_rate": "% of digits right, that network, falling rate, mean of 5 seeds",
    "quickstart_keras_accuracy": "% of digits right, that network in Keras, constant rate, mean of 20 seeds",
    "quickstart_keras_accuracy_falling_rate": "% of digits right, that network in Keras, falling rate, mean of 5 seeds",
    "quickstart_difference_standard_error": "standard error of ours minus Keras's at a constant rate, in %",
    "quickstart_seconds_vs_keras": "time to train that network, compilation included, over Keras's; less is better",
}
# each has a table in Markdown and figures in JSON, under the name of the file
FIGURES = {"figures": ("core", CORE), "speed": ("speed", SPEED)}
# files of benchmarks and of their results, and what their figures say
TRAINING = {
    "fit": {
        "fit_vs_keras": "samples a second of `fit` on the model above, times those of Keras",
        "fit_vs_torch": "the same, times those of a loop in PyTorch",
        "fit_overhead": "what `fit` adds to the time of its compiled steps",
    },
    "sweep": {
        "sweep_h8": "speed of 32 LSTM(8) at once, times that of one training after another",
        "sweep_h32": "the same of LSTM(32), which one program trains one by one",
        "sweep_h64": "the same of LSTM(64)",
        "sweep_compile": "first epoch of a sweep of LSTM(8), compilation included, in those of one training",
    },
    "charlm": {
        "charlm_nats": "nats a character, last tenth of tinyshakespeare, 2 × LSTM(256)",
    },
    "adding": {
        "adding_gru_200": "squared error of the adding problem, 200 steps, GRU",
        "adding_chrono_lstm_200": "the same, LSTM with chrono initialisation",
        "adding_elman_200": "the same, plain network; the mean gives 0.167",
    },
    "kill_resume": {
        "kill_resume": "runs of 50 that end with the same bits after `kill -9`",
    },
}
PARALLEL = {
    "parallel": {
        "mingru_time": "minGRU, 4,096 steps, forward and gradients, as chosen: speed, times that of the best of "
        "`lax.scan` with the products inside, with those of the inputs outside, and `associative_scan`",
        "mingru_memory": "the same: memory over the least of theirs; less is better",
        "lru_time": "the same of an LRU",
        "lru_memory": "its memory",
        "mlstm_time": "mLSTM, 8,192 steps, as chosen: speed, times that of the better of the two loops",
        "mlstm_memory": "its memory",
        "gated_delta_net_time": "the same of a gated DeltaNet",
        "gated_delta_net_memory": "its memory",
        "forms_agree_f64": "largest relative difference of any form from the loop, float64",
        "forms_agree_f32": "the same in float32 over 16,384 steps",
        "newton_iterations": "iterations of Newton's method for a GRU of 32 units, 10,000 steps, to 1e-10",
        "rtrl_error": "exact RTRL against back-propagation through 1,000 steps, relative",
    },
    "psmnist": {
        "psmnist_accuracy": "digits from their 784 pixels in a shuffled order, 51,000 weights",
    },
}
# figure, the file that has it, what it says, the command that writes it
TASKS = [
    ("dates_exact", "dates_exact", "dates right to the last digit, in forms never seen", "examples/translation.py"),
    (
        "spa_eng_bleu",
        "spa_eng_bleu",
        "BLEU of Spanish to English in lower case on both sides, sentences of at most ten words",
        "examples/translation.py --data TATOEBA --columns 1 0",
    ),
    (
        "translation_time_vs_torch",
        "translation_torch",
        "training time of a PyTorch twin over ours after six epochs, compilation included; equal within the noise: one "
        "epoch takes up to a half longer than another",
        "benchmarks/translation_torch.py",
    ),
    (
        "summaries_rouge_l_over_lead1",
        "summarisation",
        "ROUGE-L minus that of the first sentence",
        "examples/summarisation.py",
    ),
    ("morse_cer_5db", "speech_morse", "character error rate of Morse code in noise, at 5 dB", "examples/speech.py"),
    (
        "digits_wer",
        "speech_digits",
        "word error rate of spoken digits, joined into strings",
        "examples/speech.py --data FSDD",
    ),
    (
        "digits_wer_new_speaker",
        "speech_new_speaker",
        "the same, of a speaker who is not in the training",
        "examples/speech.py --data FSDD --hold-out theo",
    ),
    ("snips_intent", "dialogue_snips", "share of requests whose intent is right", "examples/dialogue.py --data SNIPS"),
    ("snips_slot_f1", "dialogue_snips", "F1 of the slots", "examples/dialogue.py --data SNIPS"),
    (
        "camrest_perplexity",
        "dialogue_camrest",
        "perplexity of answers in conversations, in lower case: digits are 0, words seen once are one, turns end at 40 "
        "words",
        "examples/dialogue.py respond --data CAMREST",
    ),
    ("beam_vs_torch", "beam", "speed of beam search, times a PyTorch twin's", "benchmarks/beam.py"),
    (
        "polarity_accuracy",
        "sentiment_polarity",
        "accuracy on film reviews (chance: 0.5; bag of words: 0.760)",
        "examples/sentiment.py --data POLARITY",
    ),
]


def cells() -> list[str]:
    """One row for each class of cell, wrappers last: what any cell of the class can be run by."""
    rows: dict[type, list[Any]] = {}
    for descriptor in descriptors().CELLS:
        rows.setdefault(type(descriptor.cell), []).append(descriptor)
    missing = sorted(cls.__name__ for cls in exported() - set(rows))
    if missing:
        raise SystemExit(f"tests/descriptors.py has no row for {', '.join(missing)}")
    names = table.names()
    lines = [f"| cell | what it is | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (2 + len(names)) + "|"]
    for cls in sorted(rows, key=lambda cls: issubclass(cls, rj.Wrapper)):
        marks = [best([mark(row.subject, row.event_shape, name) for row in rows[cls]]) for name in names]
        shown = f"{cls.__name__}(cell)" if issubclass(cls, rj.Wrapper) else cls.__name__
        lines.append(f"| `{shown}` | {first_sentence(cls)} | {' | '.join(marks)} |")
    return lines


def layers() -> list[str]:
    """One row for each layer."""
    named = [value for value in vars(rj).values() if isinstance(value, type) and issubclass(value, rj.Layer)]
    shown = [cls for cls in named if not inspect.isabstract(cls)]
    return ["| layer | what it is |", "|---|---|", *(f"| `{cls.__name__}` | {first_sentence(cls)} |" for cls in shown)]


def descriptors() -> ModuleType:
    """The tests' table of all cells."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        import descriptors
    finally:
        sys.path.pop(0)
    return descriptors


def exported() -> set[type]:
    """Every cell that users can name."""
    cells = {value for value in vars(rj).values() if isinstance(value, type) and issubclass(value, rj.Cell)}
    return {cls for cls in cells if not inspect.isabstract(cls) and cls is not rj.Wrapper}


def mark(cell: Any, event_shape: tuple[int, ...], implementation: str) -> str:
    """What `unroll` says to this cell and implementation, with kernels or without. Nothing is computed."""
    if implementation == "cpu":
        return "–" if kernel(cell) is None else "✓"
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), event_shape[-1]))
    xs = jnp.ones((3, 2, *event_shape))
    try:
        jax.eval_shape(lambda p: rj.unroll(cell, p, xs, implementation=implementation), params)
    except ValueError as error:
        if "cannot run this call" not in str(error):
            raise
        return "–"
    generic = implementation == "fused" and cell.update_vjp() is None
    return "✓ generic" if generic else "✓"


def best(marks: list[str]) -> str:
    """The mark that promises the most."""
    return next(one for one in ("✓", "✓ generic", "–") if one in marks)


def first_sentence(cls: type) -> str:
    """What the docstring says up to its first full stop."""
    paragraph = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return paragraph.replace("\n", " ").replace("*", r"\*").split(". ")[0].rstrip(".")


def of_benchmarks(files: dict[str, dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """The rows of figures whose command is the benchmark of the name of their file."""
    return [
        (figure, file, what, f"benchmarks/{file}.py")
        for file, figures in files.items()
        for figure, what in figures.items()
    ]


def saved(figures: list[tuple[str, str, str, str]]) -> list[str]:
    """One row for each of these figures that was saved."""
    lines = ["| figure | value | what it is | command |", "|---|---|---|---|"]
    for figure, file, what, command in figures:
        path = RESULTS / f"{file}.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            value, more = record["figures"][figure], of_morse(record) if figure == "morse_cer_5db" else ""
            lines.append(f"| {figure} | {value:.4g} | {what}{more} | `python {command}` |")
    return lines


def of_morse(record: dict[str, Any]) -> str:
    """Of how many characters the error of Morse code is, and what it is in other noise."""
    sys.path.insert(0, str(ROOT / "examples"))  # for what the examples share
    speech = runpy.run_path(str(ROOT / "examples" / "speech.py"))
    args = speech["arguments"]().parse_args(shlex.split(record["command"])[1:])
    tests = rj.data.morse_set(args.tests, seed=10_000 * args.seed + 1, snr_db=(5, 5))  # the first of its `morse`
    count = sum(len(one.text) for one in tests)
    others = ", ".join(f"{record['errors'][f'{db} dB, beam']['cer']:.2g} at {db} dB" for db in (0, 10, 20))
    return f": {record['figures']['morse_cer_5db'] * count:.0f} of {count:,} characters in one run; {others}"


def measured(file: str, meanings: dict[str, str]) -> list[str]:
    """A benchmark's own tables, and behind them its figures."""
    tables = (RESULTS / f"{file}.md").read_text(encoding="utf-8").splitlines()
    figures = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))["figures"]
    lines = [f"| {name} | {value:.3g} | {meanings[name]} |" for name, value in figures.items()]
    return [*tables, "", "| figure | value | what it is |", "|---|---|---|", *lines]


def fill(text: str, name: str, lines: list[str]) -> str:
    """The document with these lines between the markers of that name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return before + begin + "".join(f"{line}\n" for line in lines) + end + after


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when the README is, or now is, up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    old = README.read_text(encoding="utf-8")
    tables = {
        "cells": cells(),
        "layers": layers(),
        "training": saved(of_benchmarks(TRAINING)),
        "parallel": saved(of_benchmarks(PARALLEL)),
        "tasks": saved(TASKS),
    }
    new = old
    for name, lines in tables.items():
        new = fill(new, name, lines)
    for name, (file, meanings) in FIGURES.items():
        if (RESULTS / f"{file}.md").exists():
            new = fill(new, name, measured(file, meanings))
    if new == old:
        return 0
    if check:
        print("README.md is out of date: run `python tools/readme.py`")
        return 1
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
