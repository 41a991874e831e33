"""Readers of texts: whole documents, lines, and lines with a label."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

from ._reading import Found, PathLike, Place, Problem, Reading, filled_lines, lines, read_files, stem


class Document(NamedTuple):
    """A text and the name of its file."""

    name: str
    text: str


class Labelled(NamedTuple):
    """A text and what it is."""

    text: str
    label: str


def read_documents(path: PathLike, *, encoding: str = "utf-8") -> Reading[Document]:
    """Whole texts, for language models.

    Args:
        path: a text file, gzipped or not, or a zip file or folder of `.txt` files. Sets in this form: tinyshakespeare
            (github.com/karpathy/char-rnn, public-domain text, 1,115,394 characters) and the State of the Union
            addresses of NLTK (public domain, 65 speeches, of which six have lines that are not UTF-8).
        encoding: of the files.

    Returns:
        a `Reading` of one `Document` a file, lines ended by "\\n". Lines that are not in this encoding are left out.
    """

    def read(name: str, raw: bytes) -> Iterator[Found[Document]]:
        kept = []
        for one in lines(name, raw, encoding):
            if isinstance(one, Problem):
                yield one
            else:
                kept.append(one[1])
        text = "\n".join(kept) + "\n" * raw.endswith((b"\n", b"\r"))
        yield (Place(name), Document(stem(name), text)) if text.strip() else Problem(Place(name), "left out: empty")

    return read_files(path, (".txt",), read)


def read_lines(path: PathLike, *, encoding: str = "utf-8") -> Reading[str]:
    """The lines of texts, as they stand.

    Args:
        path: a text file, gzipped or not, or a zip file or folder of `.txt` files.
        encoding: of the files.

    Returns:
        a `Reading` of lines. A line that is empty or not in this encoding is left out.
    """

    return read_files(path, (".txt",), lambda name, raw: filled_lines(name, raw, encoding))


def read_names(folder: PathLike, *, encoding: str = "utf-8") -> Reading[Labelled]:
    """Lines labelled by their file: `French.txt` holds texts whose label is "French".

    A set in this form is that of 20,050 names in 18 languages from github.com/spro/practical-pytorch (MIT). 47 % of
    them are Russian: report the macro accuracy.

    Args:
        folder: a folder or zip file of `.txt` files with one text a line.
        encoding: of the files.
    """
    return read_files(folder, (".txt",), lambda name, raw: _labelled(filled_lines(name, raw, encoding), stem(name)))


def read_sentence_polarity(path: PathLike, *, encoding: str = "utf-8") -> Reading[Labelled]:
    """Sentences of film reviews, labelled "negative" or "positive".

    The sentence polarity data set 1.0 (Pang, Lee 2005, arXiv:cs/0506075) as NLTK has it, 5,331 of each, CC BY 4.0 as
    NLTK states. They are in lower case, with a space around every sign. There is no given split.

    Args:
        path: `sentence_polarity.zip`, or a folder with `rt-polarity.neg` and `rt-polarity.pos`.
        encoding: of the files; those of the authors' own release are "latin-1".

    Returns:
        a `Reading` of sentences. A line that is empty or not in this encoding is left out, and so is a file whose name
        has neither `.neg` nor `.pos`.
    """

    def read(name: str, raw: bytes) -> Iterator[Found[Labelled]]:
        own = PurePath(name).name.lower()
        label = "negative" if ".neg" in own else "positive" if ".pos" in own else None
        if label is None:
            yield Problem(Place(name), "left out: its name must have `.neg` or `.pos`, which is the label of its lines")
        else:
            yield from _labelled(filled_lines(name, raw, encoding), label)

    return read_files(path, (".neg", ".pos"), read)


def python_documentation() -> list[Document]:
    """The topics of Python's own `help`, half a megabyte of English that every CPython carries; PSF licence."""
    topics: dict[str, str] = pydoc_data.topics.topics
    return [Document(name, text) for name, text in sorted(topics.items())]


def _labelled(found: Iterator[Found[str]], label: str) -> Iterator[Found[Any]]:
    for one in found:
        yield one if isinstance(one, Problem) else (one[0], Labelled(one[1].strip(), label))
