"""The tests that mutations name, which their own files do not know of, are there."""

from __future__ import annotations

import subprocess
import sys

import mutations
import pytest


@pytest.mark.slow
def test_named_tests_exist() -> None:
    names = {test for mutation in mutations.MUTATIONS for test in mutation.tests if test != "--all"}
    command = [sys.executable, "-m", "pytest", "-q", "--all", "--collect-only", "-p", "no:xdist", *sorted(names)]
    done = subprocess.run(command, cwd=mutations.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
