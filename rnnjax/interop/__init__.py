"""Parameters from PyTorch, Keras, Flax and ONNX, in the layout of this library's layers.

====================  ===============================================================
PyTorch               weights (O, I), two biases, an array for each layer and direction
Keras                 weights (I, O), a GRU with gates z, r, n, a flat list of arrays
Flax                  weights (I, O), an array for each gate, or for all of them in nnx
ONNX                  weights (O, I), gates i, o, f, c and z, r, h, two biases in one
here                  weights (I, O), gates i, f, g, o and r, z, n, one bias
====================  ===============================================================

Nothing of those libraries is needed: arrays are anything that NumPy reads, so that a tensor on a GPU has to be moved to
the CPU first. They keep their dtype, and conversions can be differentiated.
"""

from ._flax import from_flax as from_flax
from ._keras import from_keras as from_keras
from ._onnx import from_onnx as from_onnx
from ._torch import from_torch as from_torch
