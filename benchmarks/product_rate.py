"""How fast the convolutions and products of a step run: useful arithmetic over the time of their kernels.

Useful is what the model asks for, forward and backward: two operations for each multiply-add, none for
zeros beyond a convolution's border, nothing for norms. A gradient that nothing needs (of a first layer's
input) does not count. Kernels are timed one by one on one thread, each call's least of several runs.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from myelin.graph import TrainingGraph
from myelin.graph.relax_ir import bindings_of, op_name, shape_of
from myelin.model import Job
from myelin.schedule import NativeProgram

REPEATS = 15
SECONDS = 3.0
"""Calls are timed so often, and for so long: what disturbs a machine mostly passes within."""

PRODUCTS = re.compile(r"k\d+_(gemm|conv2d(?!_ghost)|winograd_(?!weight\d*$)|lstm_sequence)")
"""What the kernels of convolutions and products are called."""


def fill(program: NativeProgram, job: Job) -> None:
    """Run one step on random records, so that every tensor holds what it does in training.

    Features are in [0, 1], or, where the model takes them as they are (tokens), whole numbers below their
    upper bound.
    """
    tensors, roles = program.scheduled.tensors, program.scheduled.roles
    shape = tensors[roles.features].shape
    random = np.random.default_rng(7)
    schema: Any = job.schema
    features = random.uniform(0, schema.upper if schema.normalize == "none" else 1, shape)
    program.run_step(
        (np.floor(features) if schema.normalize == "none" else features).astype(np.float32),
        random.integers(0, len(schema.label.classes), shape[0]).astype(np.int32),
        np.ones(tensors[roles.mask].shape, np.float32),
    )


def measure(program: NativeProgram) -> list[float]:
    """Seconds of each call of a step, the least of several runs."""
    return least_seconds(program.step_calls())


def least_seconds(calls: Sequence[tuple[Callable[..., object], Sequence[object]]]) -> list[float]:
    """Seconds of each call, a function and its arguments: the least of several runs of all in order."""
    least = [math.inf] * len(calls)
    end = time.perf_counter() + SECONDS
    done = 0
    while done < REPEATS or time.perf_counter() < end:
        done += 1
        for index, (function, arguments) in enumerate(calls):
            start = time.perf_counter()
            function(*arguments)
            least[index] = min(least[index], time.perf_counter() - start)
    return least


def product_gflops(graph: TrainingGraph, program: NativeProgram, seconds: list[float] | None = None) -> float:
    """10⁹ useful operations a second within the products of one step of ``program``."""
    seconds = measure(program) if seconds is None else seconds
    spent = 0.0
    for call, took in zip(program.scheduled.step, seconds, strict=True):
        kernel = program.scheduled.kernels[call.kernel].removeprefix("__tvm_ffi_")
        if PRODUCTS.match(kernel):
            spent += took
    return step_flops(graph) / spent / 1e9


def step_flops(graph: TrainingGraph) -> int:
    """Useful operations of one forward and backward pass over a microbatch."""
    forward = graph.module["forward"]
    weights: set[Any] = set(forward.params[1:])
    trained: set[Any] = set()
    total = 0
    for binding in bindings_of(forward):
        value, var = binding.value, binding.var
        read = list(getattr(value, "args", ())) or _fields(value)
        if read and all(argument in weights for argument in read):
            weights.add(var)
            continue
        once = _flops(value, var)
        # Forward, the gradient by each factor that is trained or comes from what is.
        total += once * (1 + sum(argument in weights or argument in trained for argument in read[:2]))
        if any(argument in weights or argument in trained for argument in read):
            trained.add(var)
    return total


def _fields(value: Any) -> list[Any]:
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    return list(value.fields) if isinstance(value, relax.Tuple) else [value]


def _flops(value: Any, var: Any) -> int:
    name = op_name(value)
    if name == "matmul":
        return 2 * math.prod(shape_of(var)) * shape_of(value.args[0])[-1]
    if name == "nn.conv2d":
        return 2 * _convolution(value, shape_of(var))
    if name == "myelin.lstm":
        gates, recurrent = value.args[0], value.args[1]
        return 2 * math.prod(shape_of(gates)) * min(shape_of(recurrent))
    return 0


def _convolution(call: Any, output: tuple[int, ...]) -> int:
    """Multiply-adds that meet no border."""
    batch, outputs, *places = output
    inputs, *kernel = shape_of(call.args[1])[1:]
    data = shape_of(call.args[0])[2:]
    top, left = (int(size) for size in call.attrs.padding[:2])
    met = 1
    for count, taps, size, stride, before in zip(
        places, kernel, data, call.attrs.strides, (top, left), strict=True
    ):
        at = np.arange(count)[:, None] * int(stride) + np.arange(taps)[None, :] - before
        met *= int(((at >= 0) & (at < size)).sum())
    return batch * outputs * inputs * met
