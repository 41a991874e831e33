"""The Elman network of examples/quickstart.py and the same one in Keras 3: accuracy and seconds to train.

    python benchmarks/quickstart_vs_keras.py [--seeds 5]

Both train on the same split of each seed with the same recipe: Adam, gradients clipped to global norm 1, batches of 32,
10 epochs. Accuracy is measured with a constant rate of 1e-3, over four times as many seeds, because means over five
differ by half a per cent by chance alone; seconds with the quickstart's own rate, which falls to zero along a cosine,
and whose accuracy is given beside. For its seconds a training runs in a fresh process, the two libraries taking turns;
they begin after the imports and include building and compiling the network, not the test.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

EPOCHS, BATCH = 10, 32


def rnnjax_run(seed: int, constant: bool) -> dict:
    """Trains ours once."""
    quickstart = _quickstart()
    if constant:
        optax = quickstart.optax
        vars(quickstart)["recipe"] = lambda steps: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    data = quickstart.load_data(seed)
    model = quickstart.build(quickstart.rj.Elman)
    result = quickstart.train(model, data, epochs=EPOCHS, batch=BATCH, seed=seed, progress=False)
    return {"accuracy": result.test_accuracy, "seconds": result.seconds}


def keras_run(seed: int, constant: bool) -> dict:
    """Trains the same network in Keras, on its JAX backend."""
    import keras

    data = _quickstart().load_data(seed)
    keras.utils.set_random_seed(seed)
    began = time.perf_counter()
    layers = keras.layers
    rate = keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS * -(-len(data.x_train) // BATCH))
    rate = 1e-3 if constant else rate
    model = keras.Sequential([layers.SimpleRNN(128, return_sequences=True), layers.SimpleRNN(64), layers.Dense(10)])
    model.compile(
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data.x_train, data.y_train, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    seconds = time.perf_counter() - began
    accuracy = float((model.predict(data.x_test, verbose=0).argmax(-1) == data.y_test).mean())
    return {"accuracy": accuracy, "seconds": seconds}


RUNS = {"rnnjax": rnnjax_run, "keras": keras_run}


def measure(seeds: int = 5) -> dict:
    """Trains both once for each seed and prints the figures.

    Args:
        seeds: how many; each is that of the split, the initial weights and the order of the scans.

    Returns:
        the figures by name: accuracies in percent, means over the seeds, and the standard error of their difference;
        the ratio of the median seconds, ours to Keras's. Without Keras, only ours and the median seconds.
    """
    libraries = [name for name in RUNS if name != "keras" or importlib.util.find_spec("keras")]
    falling = {name: [] for name in libraries}
    for seed in range(seeds):
        for name, own in falling.items():
            own += _fresh(name, [seed], constant=False)
            print(f"seed {seed}  {name:<7} {own[-1]['accuracy']:.2%}  {own[-1]['seconds']:.2f} s", flush=True)
    constant = {name: _fresh(name, range(4 * seeds), constant=True) for name in libraries}

    def mean(runs: list) -> float:
        return round(100 * statistics.fmean(run["accuracy"] for run in runs), 2)

    seconds = {name: statistics.median(run["seconds"] for run in own) for name, own in falling.items()}
    figures = {"quickstart_elman_accuracy": mean(constant["rnnjax"])}
    figures["quickstart_elman_accuracy_falling_rate"] = mean(falling["rnnjax"])
    if "keras" in libraries:
        pairs = zip(constant["rnnjax"], constant["keras"], strict=True)
        differences = [100 * (own["accuracy"] - other["accuracy"]) for own, other in pairs]
        figures["quickstart_keras_accuracy"] = mean(constant["keras"])
        figures["quickstart_keras_accuracy_falling_rate"] = mean(falling["keras"])
        error = statistics.stdev(differences) / len(differences) ** 0.5
        figures["quickstart_difference_standard_error"] = round(error, 2)
        figures["quickstart_seconds_vs_keras"] = round(seconds["rnnjax"] / seconds["keras"], 3)
    else:
        print("keras is not installed, so there is nothing to compare with: pip install keras")
        figures["quickstart_seconds"] = round(seconds["rnnjax"], 2)
    for name, value in figures.items():
        print(f"figure: {name} {value}")
    return figures


def _fresh(name: str, seeds, constant: bool) -> list:
    """Trains once for each of these seeds, in one fresh process."""
    chosen = [str(seed) for seed in seeds]
    command = [sys.executable, __file__, "--run", name, "--each", *chosen, *["--constant"] * constant]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _quickstart():
    path = Path(__file__).parents[1] / "examples" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run", choices=RUNS, help="train with one library and print the results as JSON")
    parser.add_argument("--each", type=int, nargs="+", default=[0], help="the seeds of --run")
    parser.add_argument("--constant", action="store_true", help="the rate of --run does not fall")
    args = parser.parse_args()
    if args.run:
        print(json.dumps([RUNS[args.run](seed, args.constant) for seed in args.each]))
    else:
        measure(args.seeds)
