"""One subject a file. Layers made of layers are layers."""

from ._layer import Layer as Layer
from ._layer import Stateless as Stateless
from .bidirectional import Bidirectional as Bidirectional
from .bidirectional import BidirectionalParams as BidirectionalParams
from .bidirectional import BidirectionalState as BidirectionalState
from .dense import Dense as Dense
from .dense import DenseParams as DenseParams
from .dropout import Dropout as Dropout
from .dropout import VariationalDropout as VariationalDropout
from .embedding import Embedding as Embedding
from .embedding import EmbeddingParams as EmbeddingParams
from .pooling import First as First
from .pooling import Last as Last
from .pooling import Max as Max
from .pooling import Mean as Mean
from .pooling import Pooling as Pooling
from .residual import Residual as Residual
from .rnn import RNN as RNN
from .stack import Stack as Stack
from .stepper import Stepper as Stepper
from .stepper import stepper as stepper
from .summary import summary as summary
