"""A cell over time: the driver, masks and resets, and one file for each implementation."""

from .driver import explain as explain
from .driver import unroll as unroll
