"""The laws that every cell obeys, one function each: `law(cell, event_shape, implementation)` raises AssertionError.

They compare `unroll` with something that is not derived from it, in float64: a loop of the cell's `step` in Python, a
shorter or flipped sequence, finite differences.
"""
