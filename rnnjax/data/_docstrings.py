"""Docstrings of installed packages: a body of text and the line that sums it up."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ._reading import Found, Place, Problem, Reading, collected

PACKAGES = ("jax", "flax", "optax", "numpy", "scipy", "sklearn", "python")
# the tests of a package, and what is not its own
NOT_ITS_OWN = {"tests", "test", "testing", "site-packages", "dist-packages", "lib2to3", "idlelib", "__pycache__"}
Definition: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Docstring(NamedTuple):
    """What a docstring says after its summary line, in one line, the summary, and the package and name it is from."""

    body: str
    summary: str
    package: str
    name: str


def docstring_pairs(
    packages: Sequence[str] = PACKAGES,
    *,
    body_words: tuple[int, int] = (10, 200),
    summary_words: tuple[int, int] = (3, 25),
) -> Reading[Docstring]:
    """Summaries that people wrote for texts of theirs, without a download.

    Files are parsed, never run. A docstring counts if its first paragraph is a summary of the wanted length and the
    rest, without doctests and the lines that underline headings, is a body of the wanted length. A body that comes
    twice counts once. Each package has its own licence; nothing is stored.

    Args:
        packages: importable names, in the order in which they are read, and "python" for the standard library. Hold out
            whole packages for validation, because a package repeats itself.
        body_words: the fewest and the most words of a body.
        summary_words: the same of a summary.

    Returns:
        a `Reading` of docstrings. The line of a place is where the definition begins. A package that is not installed
        and a file that does not parse are left out.

    >>> import rnnjax as rj
    >>> pairs = rj.data.docstring_pairs(["rnnjax"])
    >>> next(pair.summary for pair in pairs if pair.name == "pair_buckets")[:39]
    'Batches of pairs of about the same leng'
    """

    def found() -> Iterator[Found[Docstring]]:
        seen = set()
        for package in packages:
            root = _root(package)
            if root is None:
                yield Problem(Place(package), "left out: not installed")
                continue
            for path in _sources(root):
                for one in _documented(path, package):
                    if isinstance(one, Problem):
                        yield one
                    elif one[1].body not in seen and _fits(one[1], body_words, summary_words):
                        seen.add(one[1].body)
                        yield one

    return collected(", ".join(packages), found())


def _root(package: str) -> Path | None:
    """The folder or file of a package, which is not imported."""
    if package == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    if "." in package:
        raise ValueError(f"`packages` must be top-level names; got {package!r}")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


def _sources(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        if not NOT_ITS_OWN.intersection(folders):
            yield path


def _documented(path: Path, package: str) -> Iterator[Found[Docstring]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escapes
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        yield Problem(Place(str(path), getattr(error, "lineno", None)), f"left out: does not parse ({error})")
        return
    for node in _definitions(tree):
        text = ast.get_docstring(node)
        if text:
            name = path.stem if isinstance(node, ast.Module) else node.name
            yield Place(str(path), getattr(node, "lineno", 1)), Docstring(*_parts(text), package, name)


def _definitions(node: ast.AST) -> Iterator[Definition]:
    """Definitions at any depth; statements alone are searched, which takes a fraction of the time of all nodes."""
    if isinstance(node, Definition):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from _definitions(child)


def _parts(text: str) -> tuple[str, str]:
    """Body and summary, each in one line."""
    summary, _, body = inspect.cleandoc(text).partition("\n\n")
    lines = []
    doctest = False
    for line in body.split("\n"):
        bare = line.strip()
        # a doctest ends at an empty line
        doctest = bare.startswith(">>>") or (doctest and bool(bare))
        if not doctest and not re.fullmatch(r"([-=~^*+#`.])\1*", bare):
            lines.append(bare)
    return " ".join(" ".join(lines).split()), " ".join(summary.split())


def _fits(pair: Docstring, body_words: tuple[int, int], summary_words: tuple[int, int]) -> bool:
    def within(text: str, ends: tuple[int, int]) -> bool:
        return ends[0] <= len(text.split()) <= ends[1]

    return within(pair.body, body_words) and within(pair.summary, summary_words) and ">>>" not in pair.summary
