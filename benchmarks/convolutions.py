"""Rate of every convolution kernel of the image workloads: ``python benchmarks/convolutions.py [TARGET …]``.

One core (set ``TVM_NUM_THREADS=1``). Counts useful multiply-adds only, none with zeros beyond a border, and
gives the share of the rate that a loop of fused multiply-adds in registers reaches in the same run; above it
where Winograd's kernels do with fewer. With ``--direct``, none of those. Passes:
``forward`` (with bias and ReLU), ``data`` and ``weight`` gradients, ``normed`` (each example's weight
gradient with its norm), ``sum`` over the batch, and ``weighted`` sum, the second half of the ghost norm.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import numpy as np
import tvm
from tvm import tirx

from myelin.schedule import kernels
from myelin.schedule.kernels import emit, taps
from myelin.schedule.objects import llvm_target

EXAMPLES = 4
SECONDS = 0.15
PASSES = ("forward", "data", "weight", "normed", "sum", "weighted")

# name: size, inputs, outputs, kernel, stride, padding; square images and kernels.
LAYERS = {
    "mnist conv1": (28, 1, 16, 8, 2, 3),
    "mnist conv2": (13, 16, 32, 4, 2, 0),
    "vgg 3-64": (32, 3, 64, 3, 1, 1),
    "vgg 64-64": (32, 64, 64, 3, 1, 1),
    "vgg 64-128": (16, 64, 128, 3, 1, 1),
    "vgg 128-128": (16, 128, 128, 3, 1, 1),
    "vgg 128-256": (8, 128, 256, 3, 1, 1),
    "vgg 256-256": (8, 256, 256, 3, 1, 1),
    "resnet 3-16": (32, 3, 16, 3, 1, 1),
    "resnet 16-16": (32, 16, 16, 3, 1, 1),
    "resnet 16-32 /2": (32, 16, 32, 3, 2, 1),
    "resnet 32-32": (16, 32, 32, 3, 1, 1),
    "resnet 32-64 /2": (16, 32, 64, 3, 2, 1),
    "resnet 64-64": (8, 64, 64, 3, 1, 1),
    "shortcut 16-32": (32, 16, 32, 1, 2, 0),
    "shortcut 32-64": (16, 32, 64, 1, 2, 0),
}


def compiled(function: tirx.PrimFunc, target: str) -> Callable[..., None]:
    """A kernel as a function of tensors."""
    module = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        return tirx.build(module, target=llvm_target(target), pipeline="s_tir")["kernel"]


def seconds(function: tirx.PrimFunc, target: str) -> float:
    """The least processor time of many runs on random numbers, so that other programs disturb less."""
    shapes = [tuple(int(extent) for extent in parameter.shape) for parameter in function.params]
    rng = np.random.default_rng(0)
    tensors = [tvm.runtime.tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
    run, best, begin = compiled(function, target), math.inf, time.perf_counter()
    while time.perf_counter() - begin < SECONDS or best is math.inf:
        start = time.thread_time()
        run(*tensors)
        best = min(best, time.thread_time() - start)
    return best


def fma_rate(target: str) -> float:
    """FLOP/s of fused multiply-adds on registers alone."""
    lanes, count, length = kernels.MACHINES[target].lanes, 12, 200_000

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        sums = [emit.cleared(lanes) for _ in range(count)]
        a, b = emit.load(x, 0, lanes), emit.load(x, lanes, lanes)
        with emit.loop(length):
            for register in sums:
                register.set(emit.fma(register.value, a, b, lanes))
        for number, register in enumerate(sums):
            emit.store(y, number * lanes, register.value, lanes)

    shapes = [((2 * lanes,), "float32")], [((count * lanes,), "float32")]
    return 2 * lanes * count * length / seconds(emit.kernel("fma", *shapes, body), target)


def winograd_of(name: str, layer: tuple[int, ...], target: str) -> tirx.PrimFunc | None:
    """One pass of one layer with fewer products, where a step would take that."""
    size, c, o, k, stride, pad = layer
    machine, places = kernels.MACHINES[target], (size + 2 * pad - k) // stride + 1
    data, gradient = (EXAMPLES, size, size, c), (EXAMPLES, places, places, o)
    shapes, padding = (data, gradient, (k, k), (stride, stride)), (pad, pad)
    if c <= 3:
        return None
    if name == "forward" and kernels.winograd_pays(*shapes):
        finish = kernels.Finish(bias=True, relu=True)
        return kernels.winograd_conv2d(machine, data, gradient, padding, finish)
    if name == "data" and kernels.winograd_pays(gradient, data, *shapes[2:]):
        return kernels.winograd_conv2d(machine, gradient, data, (k - 1 - pad,) * 2)
    if name == "sum" and kernels.winograd_sum_pays(*shapes):
        return kernels.winograd_weight_gradient_sum(machine, data, gradient, padding)
    if name in ("weight", "normed") and kernels.winograd_gradient_pays(*shapes):
        return kernels.winograd_weight_gradient(machine, data, gradient, padding, bound_of(name))
    return None


def bound_of(name: str) -> Callable[[tirx.PrimExpr], tirx.PrimExpr] | None:
    """What a pass makes of a gradient's squares."""
    return (lambda squares: tirx.sqrt(squares).astype("float32")) if name == "normed" else None


def kernel_of(name: str, layer: tuple[int, ...], target: str) -> tirx.PrimFunc | None:
    """One pass of one layer; None for the data gradient of a first layer, which is never computed."""
    size, c, o, k, stride, pad = layer
    machine, strides, padding = kernels.MACHINES[target], (stride, stride), (pad,) * 4
    places = (size + 2 * pad - k) // stride + 1
    data, gradient = (EXAMPLES, size, size, c), (EXAMPLES, places, places, o)
    first = c <= 3
    source = kernels.channel_first((EXAMPLES, c, size, size)) if first else None
    if name == "forward":
        finish = kernels.Finish(bias=True, relu=True)
        return kernels.conv2d(machine, data, (k, k, c, o), strides, padding, source, finish)
    if name == "data":
        if first:
            return None
        return kernels.conv2d_data_gradient(machine, gradient, (k, k, o, c), data, strides, padding)
    shapes = (machine, data, gradient, (k, k), strides, padding, source)
    if name in ("sum", "weighted"):
        return kernels.conv2d_weight_gradient_sum(*shapes, weighted=name == "weighted")
    return kernels.conv2d_weight_gradient(*shapes, bound_of(name))


def useful_flops(layer: tuple[int, ...]) -> int:
    """Twice the multiply-adds whose tap is inside the image."""
    size, c, o, k, stride, pad = layer
    axis = taps.forward_axis(size, k, stride, pad, (size + 2 * pad - k) // stride + 1)
    met = sum(axis.meets(place, tap) for place in range(axis.places) for tap in range(k))
    return 2 * EXAMPLES * met * met * c * o


def main() -> None:
    direct = "--direct" in sys.argv
    for target in [word for word in sys.argv[1:] if not word.startswith("-")] or kernels.MACHINES:
        rate = fma_rate(target)
        print(f"{target}: {rate / 1e9:.1f} GFLOP/s of fused multiply-adds in registers, {EXAMPLES} examples")
        print(f"{'layer':16}" + "".join(f"{name:>16}" for name in PASSES))
        for name, layer in LAYERS.items():
            cells = []
            for each in PASSES:
                function = None if direct else winograd_of(each, layer, target)
                function = function or kernel_of(each, layer, target)
                if function is None:
                    cells.append(f"{'–':>16}")
                    continue
                reached = useful_flops(layer) / seconds(function, target)
                cells.append(f"{reached / 1e9:8.1f} ({reached / rate:4.0%})")
            print(f"{name:16}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
