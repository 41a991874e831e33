"""Byte-pair vocabularies, through the package `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from .._errors import check_size
from ._extras import required
from ._reading import PathLike
from ._vocabulary import REPLACEMENT, SPECIALS, Specials, read_json, write_json

BYTES = 256


class BytePairs(Specials):
    """Frequent pieces of text with their numbers, learnt by byte-pair encoding.

    The interface is that of `Vocabulary` for texts that are strings: words of a list have to be joined. Every byte is a
    piece, so that `decode(encode(text))` is the text for every text. Special ids have no spelling.
    The package `tokenizers` does the work: `pip install 'rnnjax[text]'`.

    References:
        Sennrich, Haddow, Birch 2016, Neural machine translation of rare words with subword units, arXiv:1508.07909.

    >>> import rnnjax as rj
    >>> pieces = rj.data.BytePairs.train(["low lower lowest"] * 9, size=270)
    >>> pieces.tokens(pieces.encode("low lowest"))
    ['low', ' lowest']
    """

    specials = SPECIALS

    def __init__(self, tokenizer: Any) -> None:
        """Wraps a `tokenizers.Tokenizer`; its own ids follow the special ones. `train` and `load` make one."""
        self.tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], size: int, *, min_count: int = 2) -> BytePairs:
        """Learns pieces from texts.

        Args:
            texts: strings.
            size: the most entries: special ids, 256 bytes and pieces.
            min_count: how often a pair must be there to become a piece.
        """
        check_size("size", size)
        if size < len(SPECIALS) + BYTES:
            raise ValueError(f"`size` must be at least {len(SPECIALS) + BYTES}, the special ids and bytes; got {size}")
        if isinstance(texts, str):
            raise TypeError("`texts` must be several texts; got one string: pass [text]")
        package = required("tokenizers", "text")
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size - len(SPECIALS),
            min_frequency=min_count,
            initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def __len__(self) -> int:
        return len(self.specials) + self.tokenizer.get_vocab_size()

    def __contains__(self, piece: object) -> bool:
        """Whether a text is one piece; part of a character is no text."""
        return piece in self._spelt

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BytePairs):
            return NotImplemented
        return self.tokenizer.to_str() == other.tokenizer.to_str()

    def __hash__(self) -> int:
        return hash(self.tokenizer.to_str())

    @cached_property
    def _spelt(self) -> frozenset[str]:
        texts = (self.tokenizer.decode([number]) for number in range(self.tokenizer.get_vocab_size()))
        return frozenset(text for text in texts if REPLACEMENT not in text)

    def __repr__(self) -> str:
        return f"BytePairs({len(self)} entries)"

    def encode(self, text: str, *, start: bool = False, end: bool = False) -> np.ndarray:
        """The numbers of a text, int32 (T), with `start` before and `end` after it where asked for."""
        first = len(self.specials)
        return self._framed([first + number for number in self.tokenizer.encode(text).ids], start, end)

    def tokens(self, ids: Any) -> list[str]:
        """The pieces of one row of numbers, up to `end`, without `start` and `pad`; part of a character is U+FFFD."""
        return [self.tokenizer.decode([number]) for number in self._pieces(ids)]

    def decode(self, ids: Any) -> str:
        """The text of one row of numbers."""
        return self.tokenizer.decode(self._pieces(ids))

    def _pieces(self, ids: Any) -> list[int]:
        # `unknown` has no use here and no spelling
        return [number - len(self.specials) for number in self._content(ids) if number >= len(self.specials)]

    def complaint(self, text: str) -> None:
        """Nothing: no symbol is unknown."""

    def save(self, path: PathLike) -> None:
        """Writes a JSON file that `load` reads."""
        write_json(path, "byte pairs", {"tokenizer": json.loads(self.tokenizer.to_str())})

    @classmethod
    def load(cls, path: PathLike) -> BytePairs:
        """Reads what `save` wrote; ValueError, naming the file, if it is something else."""
        package = required("tokenizers", "text")
        fields = read_json(path, "byte pairs", {"tokenizer": dict})
        try:
            return cls(package.Tokenizer.from_str(json.dumps(fields["tokenizer"])))
        except Exception as error:  # the package raises bare ones
            raise ValueError(f"{path} holds no byte pairs: {error}") from error
