"""Patterns as arrays; the library that the patterns node has as a submodule."""

import numpy as np

VERSION = "0.1.0"


def checkerboard(height, width, square):
    """[height, width, 3] in 0..1, black at the top left."""
    rows, columns = np.mgrid[0:height, 0:width] // square
    return ((rows + columns) % 2)[:, :, None].repeat(3, axis=2).astype(np.float32)
