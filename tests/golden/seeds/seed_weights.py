"""Weights that need no file: the same numbers wherever NumPy is, for both sides of a comparison."""

from collections.abc import Mapping

import numpy as np


def seed_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An array for each shape, in the order given; a matrix keeps the variance of its inputs, roughly.

    From `RandomState`, whose streams NumPy has promised never to change.
    """
    rng = np.random.RandomState(0)
    arrays = {}
    for name, shape in shapes.items():
        drawn = rng.normal(size=shape)
        drawn = 0.5 + drawn / 5 if len(shape) < 2 else drawn / np.sqrt(shape[-1])
        arrays[name] = drawn.astype(np.float32)
    return arrays
