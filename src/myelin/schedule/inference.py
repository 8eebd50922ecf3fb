"""A model's forward pass alone, compiled as a training step is: for serving, and for what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx
from tvm.ir import IRModule

from ..graph.composites import LoweredCopy
from ..graph.relax_ir import bindings_of, emit_function, substitute, tensor
from .arena import Lifetime, place
from .flatten import FlatCall, FlatFunction, flatten
from .lower import lower
from .objects import llvm_target
from .program import ELEMENT_BYTES, Call, Tensor
from .rewrite import DATA_PARAMETERS
from .scheduler import compile_kernels, split_fixed

if TYPE_CHECKING:
    from ..graph import TrainingGraph

__all__ = ["InferenceModule", "schedule_inference"]

_NAME = "inference"


@dataclass(frozen=True)
class InferenceModule:
    """A compiled forward pass over one batch.

    ``object`` is one relocatable ELF file for the target and ``kernels`` its entry symbols. ``prepare`` runs
    once for given parameters, ``forward`` for each batch, both over one arena of ``arena_bytes``.
    ``features``, ``logits`` and ``parameters`` are indices of ``tensors``; ``parameter_values`` the initial
    values of the parameters, in order.
    """

    object: bytes
    kernels: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    arena_bytes: int
    prepare: tuple[Call, ...]
    forward: tuple[Call, ...]
    features: int
    logits: int
    parameters: tuple[int, ...]
    parameter_values: tuple[NDArray[np.float32], ...]
    target: str


def schedule_inference(graph: TrainingGraph, target: str) -> InferenceModule:
    """Compile the forward function of ``graph``, whose batch is its examples, for ``target``.

    Raises :class:`~myelin.errors.BuildError`. The same graph gives the same bytes.
    """
    machine = llvm_target(target)
    module = lower(_as_step(graph), machine, [_NAME])
    flat = flatten(module, _NAME)
    features, parameters = flat.parameters[0], flat.parameters[DATA_PARAMETERS:]
    prepare, forward = split_fixed(flat, parameters)
    code, symbols, order = compile_kernels(module, flat.calls, machine)
    fixed = {features, *parameters, *flat.results, *(v for call in prepare for v in call.outputs)}
    spans: dict[int, tuple[int, int]] = {}
    for time, call in enumerate(forward):
        for value in (*call.inputs, *call.outputs):
            spans[value] = (spans.get(value, (time, time))[0], time)
    used = sorted({*fixed, *spans}, key=lambda value: (value not in fixed, value))
    offsets, arena_bytes = place(
        [Lifetime(_size_bytes(flat, v), *spans.get(v, (0, 0)), pinned=v in fixed) for v in used]
    )
    number = {value: index for index, value in enumerate(used)}

    def calls(kept: Sequence[FlatCall]) -> tuple[Call, ...]:
        return tuple(
            Call(
                order.index(call.kernel),
                tuple(number[v] for v in call.inputs),
                tuple(number[v] for v in call.outputs),
            )
            for call in kept
        )

    return InferenceModule(
        object=code,
        kernels=symbols,
        tensors=tuple(
            Tensor(offset, flat.values[v].dtype, flat.values[v].shape)
            for v, offset in zip(used, offsets, strict=True)
        ),
        arena_bytes=arena_bytes,
        prepare=calls(prepare),
        forward=calls(forward),
        features=number[features],
        logits=number[flat.results[0]],
        parameters=tuple(number[v] for v in parameters),
        parameter_values=(*graph.parameter_values, *graph.frozen_values),
        target=target,
    )


def _as_step(graph: TrainingGraph) -> IRModule:
    """The forward function alone, with the signature that rewriting expects; only features are read."""
    forward = graph.module["forward"]
    kernels = {v: f for v, f in graph.module.functions.items() if isinstance(f, tirx.PrimFunc)}
    builder = relax.BlockBuilder(IRModule(kernels))
    features, *parameters = [relax.Var(var.name, var.ty) for var in forward.params]
    labels = relax.Var("labels", tensor((graph.examples,), "int32"))
    mask = relax.Var("mask", tensor((graph.examples,)))

    def body() -> list[relax.Expr]:
        new: dict[relax.Var, relax.Expr] = dict(zip(forward.params, [features, *parameters], strict=True))
        copied = LoweredCopy(builder, new)
        for binding in bindings_of(forward):
            copied.copy(binding)
        return [substitute(forward.body.body, new)]

    emit_function(builder, _NAME, [features, labels, mask, *parameters], body)
    return builder.finalize()


def _size_bytes(flat: FlatFunction, value: int) -> int:
    return flat.values[value].elements * ELEMENT_BYTES[flat.values[value].dtype]
