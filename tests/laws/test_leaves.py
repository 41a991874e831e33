"""The gradient of each of the cell's numbers is right by finite differences, and `vmap` runs over each of them."""

from __future__ import annotations

import numpy as np
from descriptors import Descriptor

from rnnjax import testing

from . import Subject


def test_leaves(subject: Subject) -> None:
    testing.leaves(*subject)


def test_live_leaves_have_a_gradient(pair: tuple[Descriptor, str], subject: Subject) -> None:
    grads = testing.Trial.of(*subject).patterned().pull().grads.cell
    for name in pair[0].live_leaves:
        assert np.all(getattr(grads, name) != 0), name
