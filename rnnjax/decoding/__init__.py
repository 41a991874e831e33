"""Decoding: sampling, greedy and beam search over any carry, and CTC. Everything is batched and made for `jax.jit`."""

from ._beam import Beams as Beams
from ._beam import beam_search as beam_search
from ._ctc import Labels as Labels
from ._ctc import ctc_greedy as ctc_greedy
from ._fusion import Fusion as Fusion
from ._fusion import character_fusion as character_fusion
from ._fusion import word_fusion as word_fusion
from ._prefix import ctc_prefix_beam as ctc_prefix_beam
from ._sample import Decoded as Decoded
from ._sample import greedy as greedy
from ._sample import sample as sample
from ._step import NextToken as NextToken
from ._step import Step as Step
from ._step import next_token as next_token
from .filters import repetition_penalty as repetition_penalty
from .filters import temperature as temperature
from .filters import top_k as top_k
from .filters import top_p as top_p
from .scores import GNMT as GNMT
from .scores import PerToken as PerToken
from .scores import coverage_penalty as coverage_penalty
