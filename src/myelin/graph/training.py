"""Model → TrainingGraph: the room's main verb."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from myelin.errors import BuildError
from myelin.model import DPAdamBC, Job, as_loss, initial_values
from myelin.model.adapters import is_frozen

from .adjoint import backward_function
from .dropout import Dropout, without_dropout
from .export import forward_function
from .layers import Layer
from .loss import label_dtype, seed_of
from .optimizer import released_results, state_shapes, update_function
from .reader import parametric_layers
from .relax_ir import bindings_of, op_name, shape_of
from .taps import insert_taps

__all__ = ["TrainingGraph", "differentiate"]


@dataclass(frozen=True)
class TrainingGraph:
    """A training step before it is private.

    Attributes:
        module: Relax functions of static shapes, one dataflow block each:

            - ``forward``: ``(features, *parameters, *frozen) → outputs``, its batch that of :attr:`examples`;
            - ``masked_forward``, where there is dropout: ``(features, *parameters, *frozen, *masks) →
              outputs``, what is trained; ``forward`` is without;
            - ``backward``: ``(features, labels, *parameters, *frozen, *masks) → (*inputs,
              *output_gradients)``, the data of those uses of ``layers`` that have one, then the gradients at
              the outputs of all uses, summed loss, not averaged;
            - ``update``: ``(step_number, *parameters, *state, *noisy_gradients) → (*parameters, *state)``.
        layers: one per trained parameter, in order.
        parameter_names: as in the model.
        parameter_values: initial, float32.
        state_shapes: of the optimizer's state, which starts at zero.
        released: for each parameter, which result of ``update`` the released model has: its value or its
            average.
        noise_deviation: of a coordinate's noise, where the update counts on it; else None.
        microbatch: records of a physical batch.
        frozen_names: of the parameters that are constants.
        frozen_values: float32.
        dropout: the model's dropout layers, in the order of their masks.
        views: of a record, one after the other along the first axis; above 1, the loss of a record is the
            mean of its views'.
    """

    module: tvm.IRModule
    layers: tuple[Layer, ...]
    parameter_names: tuple[str, ...]
    parameter_values: tuple[npt.NDArray[np.float32], ...]
    state_shapes: tuple[tuple[int, ...], ...]
    released: tuple[int, ...]
    noise_deviation: float | None
    microbatch: int
    frozen_names: tuple[str, ...] = ()
    frozen_values: tuple[npt.NDArray[np.float32], ...] = ()
    dropout: tuple[Dropout, ...] = ()
    views: int = 1

    @property
    def examples(self) -> int:
        """The static batch size: views of a physical batch's records."""
        return self.microbatch * self.views

    @property
    def trained_forward(self) -> relax.Function:
        """``(features, *parameters, *frozen, *masks) → outputs``: what ``backward`` is the derivative of."""
        return self.module["masked_forward" if self.dropout else "forward"]


def differentiate(job: Job) -> TrainingGraph:
    """Trace the job's model, check that it can be made private, differentiate it, add the optimizer.

    Raises:
        BuildError: the model cannot be traced, mixes examples, or has an operator or a parameter without a
            rule.
        InputError: the plan's augmentations are not for such records.
    """
    shape = tuple(int(size) for size in job.schema.shape)
    views = getattr(job.plan, "views", 1)
    for augmentation in getattr(job.plan, "augment", ()):
        augmentation.check(shape)
    batch = job.plan.microbatch * views
    model = job.model()
    traced, names = forward_function(model, batch, shape, job.outputs)
    served, forward, dropout = without_dropout(traced)
    every = parametric_layers(forward, names)
    given = dict(model.named_parameters())
    layers = tuple(layer for layer in every if not is_frozen(given[layer.name]))
    count = len(layers)
    if not layers:
        raise BuildError(f"model {type(model).__name__} has no parameters to train")
    shapes = tuple(layer.shape for layer in layers)
    kept = {"forward": served, **({"masked_forward": forward} if dropout else {})}
    builder = relax.BlockBuilder(
        tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in kept.items()})
    )
    loss = as_loss(job.loss)
    backward_function(
        builder, "backward", insert_taps(forward, layers), layers, seed_of(loss, views), label_dtype(loss)
    )
    deviation = _noise_deviation(job, shapes)
    update_function(builder, "update", job.optimizer, names[:count], shapes, job.average, deviation)
    module = relax.transform.DeadCodeElimination([*kept, "backward", "update"])(builder.finalize())
    values = _beginning(
        model,
        names,
        initial_values(
            [layer.shape for layer in every],
            _gains(forward, every),
            job.seed,
            {layer.parameter for layer in every if layer.uses[0].kind == "scale"},
        ),
    )
    return TrainingGraph(
        module=module,
        layers=layers,
        parameter_names=names[:count],
        parameter_values=values[:count],
        state_shapes=state_shapes(job.optimizer, shapes, job.average),
        released=released_results(job.optimizer, shapes, job.average),
        noise_deviation=deviation,
        microbatch=job.plan.microbatch,
        frozen_names=names[count:],
        frozen_values=values[count:],
        dropout=dropout,
        views=views,
    )


def _noise_deviation(job: Job, shapes: Sequence[tuple[int, ...]]) -> float | None:
    """Of a coordinate's noise, for an optimizer that needs it; None for the others."""
    if not isinstance(job.optimizer, DPAdamBC) or not hasattr(job.plan, "noise_deviation"):
        return None
    return job.plan.noise_deviation(sum(math.prod(shape) for shape in shapes))


def _beginning(
    model: Any, names: Sequence[str], drawn: Sequence[npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.float32], ...]:
    """The values that the model's parameters came with; those drawn where they came without."""
    given = {name: parameter.data for name, parameter in model.named_parameters()}
    values = tuple(
        value if given[name] is None else given[name].numpy()
        for name, value in zip(names, drawn, strict=True)
    )
    for name, value in zip(names, values, strict=True):
        if not np.isfinite(value).all():
            raise BuildError(f"parameter {name}: its initial value is not finite")
    return values


def _gains(forward: relax.Function, layers: tuple[Layer, ...]) -> list[float]:
    """sqrt(2) for a layer whose output, through biases, goes into a ReLU only; 1 for any other."""
    users: dict[relax.Var, list[relax.VarBinding]] = {}
    for binding in bindings_of(forward):
        for argument in getattr(binding.value, "args", ()):
            if isinstance(argument, relax.Var):
                users.setdefault(argument, []).append(binding)

    def gain(var: relax.Var) -> float:
        after = users.get(var, [])
        if len(after) == 1 and op_name(after[0].value) == "add" and shape_of(after[0].var) == shape_of(var):
            return gain(after[0].var)
        return math.sqrt(2.0) if after and all(op_name(b.value) == "nn.relu" for b in after) else 1.0

    return [gain(layer.uses[0].output) * _fan_in_factor(layer) for layer in layers]


def _fan_in_factor(layer: Layer) -> float:
    """What a weight [in, out] is drawn with besides: values are drawn for one whose first axis is outputs."""
    if layer.uses[0].kind != "product":
        return 1.0
    inputs, outputs = layer.shape
    return math.sqrt(outputs / inputs)
