"""The strictest JAX that there is, and what the tests share."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import numpy as np
import pytest

# programs, not tests; what they import comes with the extra `peers`
collect_ignore_glob = ["**/generate*.py"]

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")


SLOW_DOCTESTS = {"MLSTMBlock", "SLSTMBlock", "compare", "gradient_cosine", "online_gradient"}

# Most of the tests' time is XLA compiling small programs; without these passes it takes half as long or less.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if jaxlib.version.__version_info__ < (0, 11):  # later ones end at the flag
    QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--optimized", action="store_true", help="let XLA optimize as it does for users; takes longer")
    parser.addoption(
        "--sample",
        type=_share,
        action="append",
        default=[],
        metavar="[PATH=]K",
        help="run one in K of the cases of each test, everywhere or in one folder, file or test; may be given again",
    )
    parser.addoption(
        "--turn", type=int, default=0, metavar="N", help="which of the K shares --sample takes, N modulo K"
    )


def _share(text: str) -> tuple[str, int]:
    """Where, "" for everywhere, and the K."""
    path, _, shares = text.rpartition("=")
    if int(shares) < 1:
        raise ValueError(shares)
    return path.rstrip("/"), int(shares)


def pytest_configure(config: pytest.Config) -> None:
    """Before the first array is made and before workers start, which inherit it."""
    if not config.getoption("--optimized"):
        os.environ["XLA_FLAGS"] = f"{QUICK_TO_COMPILE} {os.environ.get('XLA_FLAGS', '')}"
    if os.environ.get("RNNJAX_REQUIRE_PACKAGES") == "1":
        pytest.importorskip = _require


_importorskip = pytest.importorskip


def _require(package: str, *args: Any, **options: Any) -> Any:
    """`pytest.importorskip`, but only PyTorch may be missing."""
    try:
        return _importorskip(package, *args, **options)
    except pytest.skip.Exception as missing:
        if package == "torch":
            raise
        pytest.fail(f"{missing}; RNNJAX_REQUIRE_PACKAGES=1 asks for it")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:  # an example in a docstring cannot be marked where it stands
        if item.name.startswith("rnnjax.") and item.name.rpartition(".")[2] in SLOW_DOCTESTS:
            item.add_marker("slow")
    yield  # `-m` and `-k` choose
    if not config.getoption("--all"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: runs with --all"))
    if config.getoption("--sample"):
        _sample(config, items)


def _sample(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out cases by the names of their parameters, so that the laws of a cell stay together; no test whole: where
    it is no case's turn, those that come next are taken."""
    waits: dict[str, dict[str, int]] = defaultdict(dict)
    for item in items:
        if item.get_closest_marker("skip") is None:
            test, _, case = item.nodeid.partition("[")
            waits[test][item.nodeid] = (zlib.crc32(case.encode()) - config.getoption("--turn")) % _shares(config, test)
    chosen: set[str] = set()
    for cases in waits.values():
        first = min(cases.values())
        chosen |= {case for case, turns in cases.items() if turns == first}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = [item for item in items if item.nodeid in chosen]


def _shares(config: pytest.Config, test: str) -> int:
    """The K of a test, that of the longest path that holds it."""
    given = [
        (len(path), shares)
        for path, shares in config.getoption("--sample")
        if path in ("", test) or test.startswith((f"{path}/", f"{path}::"))
    ]
    return max(given, default=(0, 1))[1]


@pytest.fixture(autouse=True)
def draws_of_its_own(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test draws from its file's RNG does not hang on which tests ran before it."""
    module = getattr(request.node, "module", None)
    if not hasattr(module, "RNG"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RNG", np.random.default_rng(zlib.crc32(request.node.name.encode())))
        yield


@pytest.fixture(scope="session")
def data_path() -> Callable[[str], Path]:
    """`data_path("tinyshakespeare")` is that folder or file in RNNJAX_DATA. Where it is missing the test is skipped, or
    fails with RNNJAX_REQUIRE_DATA=1."""

    def find(name: str) -> Path:
        root = os.environ.get("RNNJAX_DATA")
        path = Path(root or "$RNNJAX_DATA") / name
        if root and path.exists():
            return path
        missing = f"no data at {path}; RNNJAX_DATA names the folder that holds it"
        if os.environ.get("RNNJAX_REQUIRE_DATA") == "1":
            pytest.fail(missing)
        pytest.skip(missing)

    return find
