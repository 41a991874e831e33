"""Each named mutation of the package makes a test fail."""

from __future__ import annotations

import mutations
import pytest
from mutations import MUTATIONS, Mutation


def test_mutations_fit_the_source() -> None:
    for mutation in MUTATIONS:
        text = (mutations.ROOT / "rnnjax" / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1, mutation.name
        assert mutation.old != mutation.new
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


SHARES = 12


@pytest.mark.slow
def test_unmutated_copies_pass(pytestconfig: pytest.Config) -> None:
    """One in twelve of the tests, others at another turn, to see that a copy is all that they need; `python
    tests/mutations.py` runs all."""
    verdict = mutations.unmutated(MUTATIONS[pytestconfig.getoption("--turn") % SHARES :: SHARES])
    assert verdict.failed is None, verdict.output


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "_"))
def test_mutation_is_noticed(mutation: Mutation) -> None:
    verdict = mutations.survives(mutation)
    assert verdict.failed is not None, verdict.output
