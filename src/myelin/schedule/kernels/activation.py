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
    machine: Machine, name: str, shape: tuple[int, ...], inputs: int, function: Function
) -> tirx.PrimFunc:
    """A kernel of ``inputs`` tensors of one shape."""

    def body(*buffers: tirx.Buffer) -> None:
        *sources, out = buffers
        count = math.prod(shape)
        for task in cuts(count, _TASK):
            with loop(task.count, parallel=task.count > 1 and count >= PARALLEL_WORK) as number:
                for cut in cuts(task.length, machine.lanes):
                    with loop(cut.count) as i:
                        for piece in pieces(cut.length, machine.lanes):
                            at = task.start + number * task.length + cut.start + i * cut.length + piece.offset
                            given = [load(source, at, piece.lanes) for source in sources]
                            store(out, at, function(*given, piece.lanes), piece.lanes)

    return kernel(name, [(shape, "float32")] * inputs, [(shape, "float32")], body)


def _tanh_of_cubic(x: Expr, lanes: int) -> Expr:
    """``tanh(√(2/π)·(x + 0.044715·x³))``."""
    inner = fma(
        hold(x * x, lanes), constant(_TANH_SCALE * _TANH_CUBE, lanes), constant(_TANH_SCALE, lanes), lanes
    )
    return vectors.tanh(hold(x * inner, lanes), lanes)


def _gelu(x: Expr, lanes: int) -> Expr:
    return x * vectors.normal_below(x, lanes)


def _gelu_tanh(x: Expr, lanes: int) -> Expr:
    half = constant(0.5, lanes)
    return x * fma(_tanh_of_cubic(x, lanes), half, half, lanes)


def _gelu_gradient(gradient: Expr, x: Expr, lanes: int) -> Expr:
    below = vectors.normal_below(x, lanes)
    # Where x² overflows, e**(−x²/2) is 0, and so is what it is multiplied by.
    exponent = hold(hold(x * constant(-0.5, lanes), lanes) * x, lanes)
    density = hold(vectors.exp_nonpositive(exponent, lanes) * constant(_DENSITY, lanes), lanes)
    return gradient * fma(x, density, below, lanes)


def _gelu_tanh_gradient(gradient: Expr, x: Expr, lanes: int) -> Expr:
    half, one = constant(0.5, lanes), constant(1.0, lanes)
    t = _tanh_of_cubic(x, lanes)
    cube = constant(3.0 * _TANH_SCALE * _TANH_CUBE, lanes)
    slope = hold(fma(hold(x * x, lanes), cube, constant(_TANH_SCALE, lanes), lanes), lanes)
    bent = hold(hold(one - t * t, lanes) * hold(x * slope, lanes), lanes)
    return gradient * hold(half * (hold(one + t, lanes) + bent), lanes)


def gelu(machine: Machine, shape: tuple[int, ...], approximate: str) -> tirx.PrimFunc:
    """``x·Φ(x)`` (``"none"``), or its approximation by a hyperbolic tangent (``"tanh"``)."""
    function = {"none": _gelu, "tanh": _gelu_tanh}[approximate]
    return elementwise(machine, "gelu", shape, 1, function)


def gelu_gradient(machine: Machine, shape: tuple[int, ...], approximate: str) -> tirx.PrimFunc:
    """The gradient at x, from that at the result, and x."""
    function = {"none": _gelu_gradient, "tanh": _gelu_tanh_gradient}[approximate]
    return elementwise(machine, "gelu_gradient", shape, 2, function)
