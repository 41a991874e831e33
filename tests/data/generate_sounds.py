"""Regenerates the golden values of sound features. The tests themselves need NumPy alone.

    python tests/data/generate_sounds.py

needs librosa and torchaudio. Signals are random; everything is float64, in the layout of the library that computed it.
Entries are named "case/array": `x` goes in, `y` comes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RATE, N = 8000, 700

Arrays = dict[str, np.ndarray]


def signal(seed: int, samples: int = N) -> np.ndarray:
    """Coloured noise, rounded to what compresses, so that bands differ in loudness."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal(samples + 3)
    return np.round(64 * np.convolve(white, [0.5, 1.0, 0.6, -0.2], "valid")) / 256


def save(name: str, cases: dict[str, Arrays]) -> None:
    """Writes one file."""
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **{f"{case}/{key}": np.asarray(v) for case, a in cases.items() for key, v in a.items()})
    print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB, {', '.join(cases)}")


def librosa_cases() -> dict[str, Arrays]:
    import librosa

    x = signal(0)
    cases: dict[str, Arrays] = {}
    frame = {"n_fft": 64, "hop_length": 24}
    for case, options in {
        "stft": {},
        "stft_window": {"win_length": 50, "window": "hamming"},
        "stft_stream": {"center": False},
        "stft_reflect": {"pad_mode": "reflect"},
        "stft_odd": {"n_fft": 63, "win_length": 40},
    }.items():
        cases[case] = {"x": x[:300], "y": librosa.stft(x[:300], **{**frame, **options})}
    # of an odd number of samples a frame is not put around the end, where the hop divides the length
    whole = {"n_fft": 63, "hop_length": 24, "pad_mode": "reflect"}
    cases["stft_odd_whole"] = {"x": x[:288], "y": librosa.stft(x[:288], **whole)}
    for scale, htk in (("slaney", False), ("htk", True)):
        for norm in ("slaney", None):
            filters = librosa.filters.mel(
                sr=RATE, n_fft=512, n_mels=20, fmin=50.0, fmax=3500.0, htk=htk, norm=norm, dtype=np.float64
            )
            cases[f"filters_{scale}_{norm}"] = {"y": filters}
    mel = {"sr": RATE, "n_fft": 256, "hop_length": 80, "n_mels": 16, "dtype": np.float64}
    cases["mel"] = {"x": x, "y": librosa.feature.melspectrogram(y=x, **mel)}
    cases["mel_magnitude"] = {"x": x, "y": librosa.feature.melspectrogram(y=x, power=1.0, htk=True, **mel)}
    # a silent end, so that the bound below the loudest band is met
    quiet = np.where(np.arange(N) < 400, x, 0)
    power = librosa.feature.melspectrogram(y=quiet, **mel)
    cases["decibels"] = {"x": power, "y": librosa.power_to_db(power, ref=0.5, top_db=60.0)}
    cases["mfcc"] = {"x": quiet, "y": librosa.feature.mfcc(y=quiet, n_mfcc=13, **mel)}
    cases["mfcc_lifter"] = {"x": x, "y": librosa.feature.mfcc(y=x, n_mfcc=10, lifter=22, **mel)}
    features = np.round(256 * np.random.default_rng(1).standard_normal((5, 17))) / 256
    for order in (1, 2):
        slopes = librosa.feature.delta(features, width=7, order=order, mode="nearest")
        cases[f"delta_{order}"] = {"x": features, "y": slopes}
    return cases


def torchaudio_cases() -> dict[str, Arrays]:
    import torch
    import torchaudio

    def tensor(x: np.ndarray) -> Any:
        return torch.tensor(x, dtype=torch.float64)

    transforms, x = torchaudio.transforms, signal(2)
    frame = {"n_fft": 256, "win_length": 200, "hop_length": 80, "n_mels": 16}
    mel = transforms.MelSpectrogram(RATE, **frame).double()
    mfcc = transforms.MFCC(RATE, n_mfcc=12, melkwargs=frame).double()
    cases = {
        "mel": {"x": x, "y": mel(tensor(x)).numpy()},
        "mfcc": {"x": x, "y": mfcc(tensor(x)).numpy()},
    }
    features = np.round(256 * np.random.default_rng(3).standard_normal((5, 17))) / 256
    cases["delta"] = {"x": features, "y": torchaudio.functional.compute_deltas(tensor(features), win_length=5).numpy()}
    for old, new in ((8000, 11025), (8000, 6000), (44100, 16000)):
        short = signal(4, 211)
        resampler = transforms.Resample(old, new, dtype=torch.float64)
        cases[f"resample_{old}_{new}"] = {"x": short, "y": resampler(tensor(short)).numpy()}
    wide = transforms.Resample(3, 2, lowpass_filter_width=12, rolloff=0.9, dtype=torch.float64)
    cases["resample_wide"] = {"x": signal(5, 100), "y": wide(tensor(signal(5, 100))).numpy()}
    return cases


if __name__ == "__main__":
    save("librosa", librosa_cases())
    save("torchaudio", torchaudio_cases())
