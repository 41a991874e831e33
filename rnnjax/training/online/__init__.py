"""Online learning: gradients of a stream from what is carried forwards, in memory that does not grow with time."""

from ._dense import DenseRTRL as DenseRTRL
from ._gradient import OnlineCarry as OnlineCarry
from ._gradient import OnlineGradient as OnlineGradient
from ._gradient import gradient_cosine as gradient_cosine
from ._gradient import online_gradient as online_gradient
from ._units import RTRL as RTRL
from ._units import EProp as EProp
from ._units import SnAp1 as SnAp1
from ._uoro import UORO as UORO
