"""Regenerates `captum.npz`, the attributions that `test_captum.py` compares with. The test itself needs NumPy alone.

    python tests/diagnostics/generate_captum.py

needs PyTorch and Captum. The model is an LSTM and a linear layer on its last output, once more behind an embedding of
tokens; weights, inputs and baselines are random. Everything is float64, and stays in PyTorch's layout, with time as
axis 0 of inputs and attributions. SmoothGrad and expected gradients (Captum's GradientShap) are means over many draws.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from captum.attr import (
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    LayerIntegratedGradients,
    NoiseTunnel,
    Occlusion,
    Saliency,
)

T, B, I, H = 7, 3, 2, 4  # noqa: E741
CLASSES, TARGET, NODES = 3, 1, 20
TOKENS, BACKGROUND, DEVIATION, DRAWS = 6, 5, 0.3, 20_000
OCCLUSIONS = {"single": (1, 1), "overlapping": (3, 1), "strided": (2, 2)}
"""Steps of a window, and from one window to the next."""


class Classifier(torch.nn.Module):
    """Logits (B, K) of inputs (B, T, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True)
        self.out = torch.nn.Linear(H, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x)[0][:, -1])


class Reader(torch.nn.Module):
    """The same of tokens (B, T)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.embedding, self.classifier = torch.nn.Embedding(TOKENS, I), classifier

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.embedding(ids))


def classifier_case(seed: int) -> dict[str, np.ndarray]:
    """Weights, inputs, baselines and what Captum makes of them."""
    rng, model = np.random.default_rng(seed), Classifier().double()

    def draw(*shape: int) -> np.ndarray:
        return np.round(90 * rng.standard_normal(shape)) / 128

    for weight in model.parameters():
        weight.data = torch.tensor(draw(*weight.shape))
    x, baseline = torch.tensor(draw(B, T, I)), torch.tensor(draw(B, T, I))
    integrated = IntegratedGradients(model).attribute(x, baseline, target=TARGET, n_steps=NODES, method="gausslegendre")
    found = {
        "integrated": integrated,
        "times_input": InputXGradient(model).attribute(x.clone().requires_grad_(), target=TARGET),
        "saliency": Saliency(model).attribute(x.clone().requires_grad_(), target=TARGET, abs=False),
    }
    for name, (window, stride) in OCCLUSIONS.items():
        found[f"occlusion_{name}"] = Occlusion(model).attribute(
            x, sliding_window_shapes=(window, I), strides=(stride, I), baselines=baseline, target=TARGET
        )
    torch.manual_seed(seed)
    background = torch.tensor(draw(BACKGROUND, T, I))
    smooth = NoiseTunnel(Saliency(model))
    found["smooth"] = smooth.attribute(
        x, nt_type="smoothgrad", nt_samples=DRAWS, nt_samples_batch_size=500, stdevs=DEVIATION, target=TARGET, abs=False
    )
    parts = [GradientShap(model).attribute(x, background, n_samples=500, target=TARGET) for _ in range(DRAWS // 500)]
    found["expected"] = torch.stack(parts).mean(0)
    reader = Reader(model).double()
    reader.embedding.weight.data = torch.tensor(draw(TOKENS, I))
    ids = torch.tensor(rng.integers(0, TOKENS, (B, T)))
    tokens = LayerIntegratedGradients(reader, reader.embedding)
    found["tokens"] = tokens.attribute(ids, torch.zeros_like(ids), target=TARGET, n_steps=NODES, method="gausslegendre")
    inputs = {**dict(model.named_parameters()), "x": x, "baseline": baseline, "ids": ids}
    inputs |= {"embedding": reader.embedding.weight, "background": background.swapaxes(0, 1)}
    arrays = {name: np.asarray(value.detach(), np.float64) for name, value in (inputs | found).items()}
    sequences = ("x", "baseline", "ids", "background", *found)
    return {name: value.swapaxes(0, 1) if name in sequences else value for name, value in arrays.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("captum.npz"), **classifier_case(0))
