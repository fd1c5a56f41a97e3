"""Arrays out of a message that somebody else wrote: read without trust in what they say of themselves.

Flower sends an array in numpy's ``.npy`` format, whose header announces type and shape. numpy would set memory aside
for whatever is announced and parse more kinds of header than this protocol needs; here the announced size must be the
size of the bytes that came, and the type one of those that this protocol uses.
"""

import io
import math

import numpy as np
from flwr.app import Array

_STYPE = "numpy.ndarray"
_TYPES = ("float16", "float32", "float64", "int32", "int64")
_LONGEST_HEADER = 4096
_MOST_DIMENSIONS = 8


class ArrayError(ValueError):
    """The bytes are not an array of this protocol; the text says what they are."""


def read_array(array: Array) -> np.ndarray:
    """The array in a message: at most 8 dimensions, of floats or integers (``_TYPES``); ``ArrayError`` otherwise."""
    if array.stype != _STYPE:
        raise ArrayError(f"serialised as {array.stype!r}, expected {_STYPE}")
    stream = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ArrayError(f"format version {version}, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_LONGEST_HEADER)
    except ArrayError:
        raise
    except Exception as error:  # numpy parses the header as Python, and says so in many types of error
        raise ArrayError(f"header is unreadable: {type(error).__name__}") from None
    if dtype.name not in _TYPES or not dtype.isnative:
        raise ArrayError(f"dtype is {dtype}, expected one of {', '.join(_TYPES)}")
    if len(shape) > _MOST_DIMENSIONS or any(extent < 0 for extent in shape):
        raise ArrayError(f"shape is {shape}")
    body = array.data[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ArrayError(f"shape {shape} of {dtype} does not fit {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").copy()
