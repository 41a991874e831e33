"""Data: vocabularies, padding, sound features in JAX, augmentation, readers of plain files and of known sets, and sets
that need no download.

Every reader of items returns a `Reading`: bad input is left out or mended, and named with its file and line, while the
rest is used. Arrays are batch-major, as `rnnjax.training.fit` takes them.
"""

from ._augment import add_noise as add_noise
from ._augment import mix as mix
from ._augment import spec_augment as spec_augment
from ._byte_pairs import BytePairs as BytePairs
from ._corpora import Document as Document
from ._corpora import Labelled as Labelled
from ._corpora import python_documentation as python_documentation
from ._corpora import read_documents as read_documents
from ._corpora import read_lines as read_lines
from ._corpora import read_names as read_names
from ._corpora import read_sentence_polarity as read_sentence_polarity
from ._dates import DatePair as DatePair
from ._dates import date_pairs as date_pairs
from ._dates import vary_date as vary_date
from ._dialogue import Dialogue as Dialogue
from ._dialogue import Query as Query
from ._dialogue import Turn as Turn
from ._dialogue import read_camrest as read_camrest
from ._dialogue import read_snips as read_snips
from ._docstrings import Docstring as Docstring
from ._docstrings import docstring_pairs as docstring_pairs
from ._features import deltas as deltas
from ._features import standardize as standardize
from ._house import house_dialogues as house_dialogues
from ._house import house_queries as house_queries
from ._mel import MFCC as MFCC
from ._mel import LogMel as LogMel
from ._mel import MelSpectrogram as MelSpectrogram
from ._mel import hz_to_mel as hz_to_mel
from ._mel import mel_filters as mel_filters
from ._mel import mel_to_hz as mel_to_hz
from ._mel import power_to_db as power_to_db
from ._morse import MORSE as MORSE
from ._morse import Keyed as Keyed
from ._morse import morse_audio as morse_audio
from ._morse import morse_set as morse_set
from ._padding import Pairs as Pairs
from ._padding import pad as pad
from ._padding import pad_pairs as pad_pairs
from ._padding import pair_buckets as pair_buckets
from ._pairs import read_json_lines as read_json_lines
from ._pairs import read_pairs as read_pairs
from ._reading import Place as Place
from ._reading import Problem as Problem
from ._reading import Reading as Reading
from ._resample import change_speed as change_speed
from ._resample import perturb_speed as perturb_speed
from ._resample import resample as resample
from ._series import Series as Series
from ._series import read_idx as read_idx
from ._series import read_ts as read_ts
from ._spans import Span as Span
from ._spans import SpanScores as SpanScores
from ._spans import span_scores as span_scores
from ._spans import spans as spans
from ._speech import Clip as Clip
from ._speech import Recording as Recording
from ._speech import Utterance as Utterance
from ._speech import ctc_complaint as ctc_complaint
from ._speech import digit_strings as digit_strings
from ._speech import read_fsdd as read_fsdd
from ._speech import read_transcribed as read_transcribed
from ._speech import read_wavs as read_wavs
from ._stft import STFT as STFT
from ._text import split as split
from ._text import words as words
from ._vocabulary import Vocabulary as Vocabulary
from ._wav import Sound as Sound
from ._wav import read_wav as read_wav
from ._wav import write_wav as write_wav
