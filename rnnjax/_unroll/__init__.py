"""A cell over time: the driver, masks and resets, and one file for each implementation."""

from .driver import explain as explain
from .driver import newton_report as newton_report
from .driver import unroll as unroll
from .newton import Newton as Newton
from .newton import NewtonReport as NewtonReport
