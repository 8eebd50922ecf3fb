"""Activations, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from . import vectors
from .emit import PARALLEL_WORK, Expr, Machine, constant, cuts, fma, hold, kernel, load, loop, pieces, store

_TANH_SCALE, _TANH_CUBE = math.sqrt(2.0 / math.pi), 0.044715
_DENSITY = 1.0 / math.sqrt(2.0 * math.pi)

#: Elements of one task of a thread.
_TASK = 4096

Function = Callable[..., Expr]
"""``(*inputs, lanes)`` to the result, all vectors."""


def elementwise(
    machine: Machine, name: str, shape: tuple[int, ...], inputs: int, function: Function, outputs: int = 1
) -> tirx.PrimFunc:
    """A kernel of ``inputs`` tensors of one shape; with several outputs, ``function`` gives a tuple."""

    def body(*buffers: tirx.Buffer) -> None:
        sources, targets = buffers[:inputs], buffers[inputs:]
        count = math.prod(shape)
        for task in cuts(count, _TASK):
            with loop(task.count, parallel=task.count > 1 and count >= PARALLEL_WORK) as number:
                for cut in cuts(task.length, machine.lanes):
                    with loop(cut.count) as i:
                        for piece in pieces(cut.length, machine.lanes):
                            at = task.start + number * task.length + cut.start + i * cut.length + piece.offset
                            given = [load(source, at, piece.lanes) for source in sources]
                            made = function(*given, piece.lanes)
                            for out, value in zip(targets, made if outputs > 1 else [made], strict=True):
                                store(out, at, value, piece.lanes)

    return kernel(name, [(shape, "float32")] * inputs, [(shape, "float32")] * outputs, body)


def _tanh_of_cubic(x: Expr, lanes: int) -> Expr:
    """``tanh(√(2/π)·(x + 0.044715·x³))``."""
    inner = fma(
        hold(x * x, lanes), constant(_TANH_SCALE * _TANH_CUBE, lanes), constant(_TANH_SCALE, lanes), lanes
    )
    return vectors.tanh(hold(x * inner, lanes), lanes)


def _gelu(x: Expr, lanes: int) -> Expr:
    return x * vectors.normal_below(x, lanes)


def _gelu_tanh(x: Expr, lanes: int) -> Expr:
    return _shared_by_tanh(x, _tanh_of_cubic(x, lanes), lanes)


def _shared_by_tanh(x: Expr, t: Expr, lanes: int) -> Expr:
    half = constant(0.5, lanes)
    return x * fma(t, half, half, lanes)


def _gelu_and_slope(x: Expr, lanes: int) -> tuple[Expr, Expr]:
    below = vectors.normal_below(x, lanes)
    return x * below, _slope(x, below, lanes)


def _gelu_tanh_and_slope(x: Expr, lanes: int) -> tuple[Expr, Expr]:
    t = _tanh_of_cubic(x, lanes)
    return _shared_by_tanh(x, t, lanes), _slope_of_tanh(x, t, lanes)


def _gelu_gradient(gradient: Expr, x: Expr, lanes: int) -> Expr:
    return gradient * _slope(x, vectors.normal_below(x, lanes), lanes)


def _gelu_tanh_gradient(gradient: Expr, x: Expr, lanes: int) -> Expr:
    return gradient * _slope_of_tanh(x, _tanh_of_cubic(x, lanes), lanes)


def _slope(x: Expr, below: Expr, lanes: int) -> Expr:
    # Where x² overflows, e**(−x²/2) is 0, and so is what it is multiplied by.
    exponent = hold(hold(x * constant(-0.5, lanes), lanes) * x, lanes)
    density = hold(vectors.exp_nonpositive(exponent, lanes) * constant(_DENSITY, lanes), lanes)
    return hold(fma(x, density, below, lanes), lanes)


def _slope_of_tanh(x: Expr, t: Expr, lanes: int) -> Expr:
    half, one = constant(0.5, lanes), constant(1.0, lanes)
    cube = constant(3.0 * _TANH_SCALE * _TANH_CUBE, lanes)
    slope = hold(fma(hold(x * x, lanes), cube, constant(_TANH_SCALE, lanes), lanes), lanes)
    bent = hold(hold(one - t * t, lanes) * hold(x * slope, lanes), lanes)
    return hold(half * (hold(one + t, lanes) + bent), lanes)


def gelu(machine: Machine, shape: tuple[int, ...], approximate: str) -> tirx.PrimFunc:
    """``x·Φ(x)`` (``"none"``), or its approximation by a hyperbolic tangent (``"tanh"``)."""
    function = {"none": _gelu, "tanh": _gelu_tanh}[approximate]
    return elementwise(machine, "gelu", shape, 1, function)


def gelu_and_slope(machine: Machine, shape: tuple[int, ...], approximate: str) -> tirx.PrimFunc:
    """The same, and its derivative: :func:`gelu_gradient` is the gradient at the result times this."""
    function = {"none": _gelu_and_slope, "tanh": _gelu_tanh_and_slope}[approximate]
    return elementwise(machine, "gelu_and_slope", shape, 1, function, outputs=2)


def gelu_gradient(machine: Machine, shape: tuple[int, ...], approximate: str) -> tirx.PrimFunc:
    """The gradient at x, from that at the result, and x."""
    function = {"none": _gelu_gradient, "tanh": _gelu_tanh_gradient}[approximate]
    return elementwise(machine, "gelu_gradient", shape, 2, function)
