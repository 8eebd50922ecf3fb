"""Initial parameters: drawn once, at build, by NumPy, and measured with the image."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["initial_values"]

_WEIGHT_RANKS = {
    2: "linear [out, in], embedding and position [place, width]",
    4: "convolution [out, in / groups, height, width]",
}


def initial_values(
    shapes: Sequence[Sequence[int]], gains: Sequence[float], seed: int, ones: Collection[int] = ()
) -> tuple[npt.NDArray[np.float32], ...]:
    """Draw each parameter: zeros for vectors (biases), uniform in ±``gain·sqrt(3 / fan_in)`` for weights,
    ones for scales.

    A weight's first axis is its outputs, the rest its fan-in. The gain says what follows the layer: sqrt(2)
    for ReLU (He et al. 2015, equation 10), 1 for anything else (LeCun, for logits and tanh).
    Parameter i has its own stream, ``PCG64(SeedSequence([seed, i]))``: values depend on seed, place, shape
    and gain only, and NumPy guarantees PCG64's stream across versions.

    Args:
        shapes: of each parameter, in the model's order.
        gains: of each parameter; not looked at for vectors.
        seed: of the job.
        ones: which parameters, counted from 0, are scales.

    Returns:
        float32 arrays, in the order of ``shapes``.
    """
    values = []
    for index, (shape, gain) in enumerate(zip(shapes, gains, strict=True)):
        if len(shape) not in _WEIGHT_RANKS:
            values.append(np.full(shape, 1.0 if index in ones else 0.0, np.float32))
            continue
        bits = np.random.PCG64(np.random.SeedSequence([seed, index]))
        raw = bits.random_raw(math.prod(shape)) >> np.uint64(11)
        uniform = raw.astype(np.float64) * 2.0**-52 - 1.0
        bound = gain * math.sqrt(3.0 / math.prod(shape[1:]))
        values.append((uniform * bound).astype(np.float32).reshape(shape))
    return tuple(values)
