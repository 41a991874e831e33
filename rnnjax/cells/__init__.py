"""One file a cell."""

from .elman import Elman as Elman
from .elman import ElmanParams as ElmanParams
from .elman import ElmanState as ElmanState
from .gru import GRU as GRU
from .gru import GRUParams as GRUParams
from .gru import GRUState as GRUState
from .lstm import LSTM as LSTM
from .lstm import LSTMParams as LSTMParams
from .lstm import LSTMState as LSTMState
