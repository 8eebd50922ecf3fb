"""Where a logical step's time goes, by what its kernels are for: what a report shows beside a ratio.

Kernels are timed as in :mod:`benchmarks.product_rate`, one by one on one thread, each call's least of several
runs, on one microbatch; a logical step has several of those, and once what depends on the weights alone.
"""

from __future__ import annotations

import re

from myelin.schedule import NativeProgram

from .product_rate import PRODUCTS, least_seconds, measure

KINDS = {
    "products": PRODUCTS,
    "norms": re.compile(r"k\d+_(conv2d_ghost\w*|\w*_norm\d*)$"),
    "sums": re.compile(r"k\d+_(clip_\w+|plain_counted|\w*sum(_kept)?\d*)$"),
    "other": re.compile(""),
}
"""The first that matches a kernel's name: convolutions and products; per-example norms; coefficients, and
sums over examples that are not a product's; activations, loss, normalisation and changes of order."""


def kind_of(kernel: str) -> str:
    """One of :data:`KINDS`."""
    return next(kind for kind, names in KINDS.items() if names.match(kernel.removeprefix("__tvm_ffi_")))


def phases(program: NativeProgram, batches: int, seconds: list[float] | None = None) -> dict[str, float]:
    """Milliseconds of a logical step of so many microbatches: by kind, and ``once`` for weights and update.

    ``program`` has run a step; ``seconds`` are of each of its calls, if they were measured before.
    """
    scheduled = program.scheduled
    spent = dict.fromkeys(KINDS, 0.0)
    for call, took in zip(scheduled.step, seconds or measure(program), strict=True):
        spent[kind_of(scheduled.kernels[call.kernel])] += batches * took
    spent["once"] = sum(least_seconds(program.once_calls()))
    return {f"{kind}_ms": round(1e3 * took, 3) for kind, took in spent.items()}
