"""Parameters go to a safetensors file and back with their bits; what does not fit is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax.training import load_params, save_params

LAYER = rj.Stack([rj.RNN(rj.LSTM(3)), rj.Last(), rj.Dense(2)])


def header_and_bytes(path: Path) -> tuple[dict[str, Any], bytes]:
    """The file by the format's definition: the header's length in 8 bytes, the header in JSON, the arrays."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def params() -> Any:
    return LAYER.init(jax.random.key(0), 4)


def test_bits_survive(tmp_path, params):
    save_params(tmp_path / "new" / "a.safetensors", params, metadata={"epoch": "3"})
    again = load_params(tmp_path / "new" / "a.safetensors", jax.eval_shape(lambda: LAYER.init(jax.random.key(1), 4)))
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]
    header, data = header_and_bytes(tmp_path / "new" / "a.safetensors")
    assert header.pop("__metadata__") == {"epoch": "3"}
    assert set(header) == {"0.w", "0.u", "0.b", "2.w", "2.b"}
    assert header["0.u"]["shape"] == [3, 12]
    first, last = header["0.u"]["data_offsets"]
    assert data[first:last] == np.asarray(params[0].u).tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int32", "uint8", "bool"])
def test_every_dtype(tmp_path, dtype):
    tree = {
        "a": jnp.arange(6).reshape(2, 3).astype(dtype),
        "none": jnp.zeros((0, 2), dtype),
        "one": jnp.ones((), dtype),
    }
    save_params(tmp_path / "a", tree)
    again = load_params(tmp_path / "a", tree)
    for name, leaf in tree.items():
        assert again[name].dtype == leaf.dtype
        assert again[name].shape == leaf.shape
        assert (np.asarray(again[name]) == np.asarray(leaf)).all()


def test_views_are_written_as_they_read(tmp_path):
    whole = np.arange(16.0).reshape(4, 4)
    tree = {"columns": whole[:, ::2], "transposed": whole.T, "big": np.arange(3, dtype=">f4")}
    save_params(tmp_path / "a", tree)
    again = load_params(tmp_path / "a", tree)
    for name, leaf in tree.items():
        np.testing.assert_array_equal(again[name], leaf)


def test_nnx_and_linen(tmp_path):
    from flax import linen as nn
    from flax import nnx

    # Flax's initialisers mix dtypes
    with jax.numpy_dtype_promotion("standard"):
        first, second = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(2, 3, rngs=nnx.Rngs(1))
        variables = nn.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))
    save_params(tmp_path / "nnx", nnx.state(first, nnx.Param))
    nnx.update(second, load_params(tmp_path / "nnx", nnx.state(second, nnx.Param)))
    assert (second.kernel[...] == first.kernel[...]).all()
    save_params(tmp_path / "linen", variables)
    assert set(header_and_bytes(tmp_path / "linen")[0]) == {"params.kernel", "params.bias"}


def test_what_does_not_fit_is_named(tmp_path, params):
    path = tmp_path / "a.safetensors"
    save_params(path, {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)})
    like = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"lacks `u`; it has b, w"):
        load_params(path, {**like, "u": np.ones(3)})
    with pytest.raises(ValueError, match="has `b`, for which `like` has no place: w"):
        load_params(path, {"w": like["w"]})
    with pytest.raises(ValueError, match=r"`w` must be float32\[3, 2\], as in `like`; .* has float32\[2, 3\]"):
        load_params(path, {**like, "w": like["w"].T})
    with pytest.raises(ValueError, match=r"`w` must be float64\[2, 3\], as in `like`; .* has float32\[2, 3\]"):
        load_params(path, {**like, "w": like["w"].astype(np.float64)})
    with pytest.raises(FileNotFoundError):
        load_params(tmp_path / "other", like)
    with pytest.raises(TypeError, match="got key<fry> at `key`"):
        save_params(tmp_path / "b", {"key": jax.random.key(0)})
    with pytest.raises(TypeError, match="got float at `rate`"):
        save_params(tmp_path / "b", {"rate": 0.5})
    with pytest.raises(ValueError, match="paths read the same"):
        save_params(tmp_path / "b", {"a": {"b": np.ones(1)}, "a.b": np.ones(1)})
    assert not (tmp_path / "b").exists()


def test_a_huge_shape_is_refused_before_memory_is_taken(tmp_path):
    path, like = tmp_path / "a", {"w": np.ones((2, 3), np.float32)}
    save_params(path, like)
    header, data = header_and_bytes(path)
    header["w"]["shape"] = [2**40, 3]
    write(path, header, data)
    with pytest.raises(ValueError, match=r"a is no whole safetensors file|must be float32"):
        load_params(path, like)


def test_damaged_files(tmp_path):
    path, like = tmp_path / "a", {"w": np.ones((2, 3), np.float32)}
    save_params(path, like)
    content = path.read_bytes()
    for damaged in (b"", content[:5], content[:30], content[:-3], b"\x80\x04pickle" + content):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="a is no whole safetensors file"):
            load_params(path, like)


def test_a_failing_write_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    import safetensors.numpy

    path, like = tmp_path / "a", {"w": np.ones(3, np.float32)}
    save_params(path, like)

    def fail(arrays, filename, metadata):
        Path(filename).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_params(path, {"w": np.zeros(3, np.float32)})
    assert (load_params(path, like)["w"] == 1).all()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
