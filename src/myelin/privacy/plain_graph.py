"""TrainingGraph → PlainGraph: the same step without privacy, to measure what privacy costs.

*No guarantee*: nothing is clipped, and one example moves a sum by any amount. It is another type than
:class:`~myelin.privacy.PrivateGraph`, without a sensitivity, and no image is built from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, te, tirx

from myelin.errors import BuildError
from myelin.graph import Dropout, TrainingGraph
from myelin.graph.relax_ir import (
    FAMILY,
    bindings_of,
    call_family,
    copy_bindings,
    emit_function,
    family,
    op_name,
    shape_of,
    substitute,
    tensor,
)

from .private_graph import sites_of, with_masks, without_backward
from .rules import rule_of

__all__ = ["PlainGraph", "make_plain"]


@dataclass(frozen=True)
class PlainGraph:
    """A training step whose sums are the batch's ordinary gradients, for the scheduler.

    Attributes:
        module: as of a :class:`~myelin.privacy.PrivateGraph`, with the same signatures: ``step`` gives the
            sums of the unmasked examples' gradients, norms that are all zero, and contributing as the mask
            has it. Rows of padding must be finite: they are multiplied by zero.
        parameter_names: as in the model.
        parameter_values: initial, float32.
        state_shapes: of the optimizer's state, which starts at zero.
        released: for each parameter, which result of ``update`` is the trained model's.
        microbatch: records of one ``step``.
        frozen_names: of the parameters that are constants.
        frozen_values: float32.
        dropout: the model's dropout layers, in the order of their masks.
        views: of a record, over whose gradients the mean is taken.
    """

    module: tvm.IRModule
    parameter_names: tuple[str, ...]
    parameter_values: tuple[npt.NDArray[np.float32], ...]
    state_shapes: tuple[tuple[int, ...], ...]
    released: tuple[int, ...]
    microbatch: int
    frozen_names: tuple[str, ...] = ()
    frozen_values: tuple[npt.NDArray[np.float32], ...] = ()
    dropout: tuple[Dropout, ...] = ()
    views: int = 1

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""
        return sum(math.prod(value.shape) for value in self.parameter_values)

    @property
    def sensitivity_e9(self) -> int:
        """There is none: whoever asks, to put the step into an image, is refused.

        Raises:
            BuildError: always.
        """
        raise BuildError(
            "a plain step has no sensitivity, so no image can be built from it; use make_private"
        )


def make_plain(graph: TrainingGraph) -> PlainGraph:
    """Sum the gradients of a batch, each layer by one contraction, as training without privacy does.

    Raises:
        BuildError: a layer has no rule, or the optimizer takes off noise.
    """
    if graph.noise_deviation is not None:
        raise BuildError(
            "the job's optimizer takes the noise's variance off its moments, and a plain step has no noise; "
            "compare with Adam"
        )
    if graph.views > 1 and graph.microbatch != 1:
        raise BuildError(
            f"views: expected a microbatch of 1 with {graph.views} views, got {graph.microbatch}"
        )
    builder = relax.BlockBuilder(without_backward(graph.module))
    backward = graph.module["backward"]
    parameters = [relax.Var(var.name, var.ty) for var in backward.params]
    mask = relax.Var("mask", tensor((graph.microbatch,)))

    def body() -> list[relax.Expr]:
        new: dict[relax.Var, relax.Expr] = dict(zip(backward.params, parameters, strict=True))
        *bindings, output = bindings_of(backward)
        norms, contributing = _counted(builder, mask)
        for binding in bindings:
            copy_bindings(builder, [binding], new)
            if _is_seed(graph.module, binding.value):
                new[binding.var] = _unmasked(builder, new[binding.var], mask)
        sites = sites_of(graph, [substitute(field, new) for field in output.value.fields])
        sums = [rule_of(site).batch_gradient(builder, site) for site in sites]
        return [*sums, norms, contributing]

    emit_function(builder, "step", [*parameters[:2], mask, *parameters[2:]], body)
    module = with_masks(
        relax.transform.DeadCodeElimination(["step", "update"])(builder.finalize()), len(graph.dropout)
    )
    return PlainGraph(
        module=module,
        parameter_names=graph.parameter_names,
        parameter_values=graph.parameter_values,
        state_shapes=graph.state_shapes,
        released=graph.released,
        microbatch=graph.microbatch,
        frozen_names=graph.frozen_names,
        frozen_values=graph.frozen_values,
        dropout=graph.dropout,
        views=graph.views,
    )


def _is_seed(module: tvm.IRModule, value: relax.Expr) -> bool:
    """Whether the backward pass starts from ``value``: it is the gradient of a loss."""
    if op_name(value) != "call_tir":
        return False
    return str((module[value.args[0]].attrs or {}).get(FAMILY, "")).startswith("loss.")


def _unmasked(builder: relax.BlockBuilder, seed: relax.Expr, mask: relax.Expr) -> relax.Expr:
    """The gradient that the backward pass starts from, zero for padding: all that follows is zero then."""
    column = builder.emit(relax.op.reshape(mask, (shape_of(mask)[0], 1)), name_hint="column")
    return builder.emit(relax.op.multiply(seed, column), name_hint="unmasked")


def _counted(builder: relax.BlockBuilder, mask: relax.Expr) -> tuple[relax.Expr, ...]:
    """Norms, all zero, and who is counted: everyone that the mask has."""
    shape = shape_of(mask)
    real = te.placeholder(shape, "float32", name="mask")
    half, zero = tirx.const(0.5, "float32"), tirx.const(0.0, "float32")
    one, none = tirx.const(1, "int32"), tirx.const(0, "int32")
    norms = te.compute(shape, lambda i: real[i] * zero, name="norms")
    contributing = te.compute(shape, lambda i: tirx.Select(real[i] > half, one, none), name="contributing")
    function = family("plain.counted", [real, norms, contributing])
    return call_family(builder, function, [mask], [tensor(shape), tensor(shape, "int32")], "counted")
