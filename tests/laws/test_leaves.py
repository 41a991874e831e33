"""The gradient of each of the cell's numbers is right by finite differences, and `vmap` runs over each of them."""

from __future__ import annotations

import jax
import numpy as np
from descriptors import Descriptor
from jax.tree_util import keystr, tree_flatten_with_path

from rnnjax import testing

from . import Subject


def test_leaves(subject: Subject) -> None:
    testing.leaves(*subject)


def test_live_leaves_have_a_gradient(pair: tuple[Descriptor, str], subject: Subject) -> None:
    """The others have none, as rates do without a key. Most cells have no numbers at all."""
    live = pair[0].live_leaves
    if not jax.tree.leaves(subject.cell):
        assert live == ()
        return
    grads = testing.Trial.of(*subject).patterned().pull().grads.cell
    found = {keystr(path, simple=True, separator="."): leaf for path, leaf in tree_flatten_with_path(grads)[0]}
    assert {name for name, leaf in found.items() if np.any(leaf)} == set(live)
    assert all(np.all(found[name] != 0) for name in live)
