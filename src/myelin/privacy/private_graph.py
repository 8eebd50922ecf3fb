"""TrainingGraph + DpPlan → PrivateGraph: the room's main verb."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from myelin.errors import BuildError
from myelin.graph import Dropout, TrainingGraph
from myelin.graph.relax_ir import MASKS, bindings_of, copy_bindings, emit_function, substitute, tensor
from myelin.model import Plan

from .adaptive import with_clipping_norm
from .clipping_kernels import clipped
from .clipping_rule import Executed
from .cost import Choice
from .noise import SIGMA_UNITS
from .rules import rule_of, strategies
from .sensitivity import noise_deviation, sensitivity_e9
from .strategy import Site, Strategy
from .views import of_all_views

__all__ = ["PrivateGraph", "make_private", "sites_of", "with_masks", "without_backward"]


@dataclass(frozen=True)
class PrivateGraph:
    """A training step whose sums are clipped, ready for noise.

    Attributes:
        module: Relax functions of static shapes, one dataflow block each, and the PrimFuncs that they call,
            which carry the attribute ``myelin.family``:

            - ``step``: ``(features, labels, mask, *parameters, *frozen, *masks) → (*clipped sums, norms,
              contributing)``; features float32 ``[microbatch, …]``, labels int32 or, for numbers, float32,
              mask float32 (1 real, 0 padding), norms float32 (upper bounds) and contributing int32 (1 where a
              real example's gradient was finite and so counted), all ``[microbatch]``, but for views, of
              which features, labels and masks have a row each, ``[microbatch · views, …]``; where layers'
              norms are asked for, ``norms`` is ``[1 + parameters, microbatch]``: under those of the whole
              gradient each parameter's; masks are those of dropout layers, float32 ``[microbatch, …]``;
            - ``update``: ``(step_number, *parameters, *state, *noisy_gradients) → (*new parameters, *new
              state)``.
        parameter_names: of those that are trained, as in the model; behind them the clipping norm, where it
            adapts.
        parameter_values: initial, float32.
        state_shapes: of the optimizer's state, which starts at zero.
        released: for each parameter, which result of ``update`` the released model has.
        microbatch: records of one ``step``.
        sensitivity_e9: L2 sensitivity of the sum on the noise's grid, units of 1e-9.
        table: how each layer is clipped, and what the alternatives cost.
        clipping: the rule, with the numbers that the step has compiled in, as plan and event carry it.
        frozen_names: of the parameters that are constants.
        frozen_values: float32.
        dropout: the model's dropout layers, in the order of their masks.
        views: of a record; its gradient, the mean of theirs, is what is clipped, and "example" below is all
            of them together (:mod:`myelin.privacy.views`).

    *Guarantee*: each example's part of the clipped sums has, in exact arithmetic on the float32 values that
    are added, a norm of at most the plan's clipping norm (:mod:`myelin.privacy.clipping`); what the float
    arithmetic adds to that is in :func:`myelin.privacy.sensitivity_bound`. An example whose gradient is not
    finite, and a padded row, contribute exactly nothing. Both rest on kernels whose result for one example
    depends on that example, and on the masks drawn for it, which no data is in
    (:mod:`myelin.privacy.dropout`).
    """

    module: tvm.IRModule
    parameter_names: tuple[str, ...]
    parameter_values: tuple[npt.NDArray[np.float32], ...]
    state_shapes: tuple[tuple[int, ...], ...]
    released: tuple[int, ...]
    microbatch: int
    sensitivity_e9: int
    table: tuple[Choice, ...]
    clipping: Executed
    frozen_names: tuple[str, ...] = ()
    frozen_values: tuple[npt.NDArray[np.float32], ...] = ()
    dropout: tuple[Dropout, ...] = ()
    views: int = 1

    @property
    def frozen_count(self) -> int:
        """Numbers in the image that are not trained."""
        return sum(math.prod(value.shape) for value in self.frozen_values)

    @property
    def parameter_count(self) -> int:
        """Coordinates noised per step."""
        return sum(math.prod(value.shape) for value in self.parameter_values)


Chooser = Callable[[Site, Sequence[Strategy]], Strategy]
"""Which of the strategies that fit a site is taken."""


def cheapest(site: Site, fitting: Sequence[Strategy]) -> Strategy:
    """The one that costs least by the model of :mod:`myelin.privacy.cost`."""
    return min(fitting, key=lambda strategy: strategy.cost(site).seconds)


def make_private(
    graph: TrainingGraph, plan: Plan, layer_norms: bool = False, choose: Chooser = cheapest
) -> PrivateGraph:
    """Clip every example of ``graph``'s backward pass and sum, by the cheapest strategy of each layer.

    Args:
        graph: of the model.
        plan: the mechanism.
        layer_norms: whether ``step`` gives each parameter's norms too: for tests and audits, not for images.
        choose: another choice than the cheapest, to measure it. Every choice is exact.

    Raises:
        BuildError: the plan is for another microbatch or adds other noise than the update counts on, a layer
            has no rule, or the sensitivity cannot be bounded.
    """
    if plan.microbatch != graph.microbatch:
        raise BuildError(
            f"plan of microbatch {plan.microbatch}, graph of microbatch {graph.microbatch}: they must agree"
        )
    if graph.views > 1 and graph.microbatch != 1:
        raise BuildError(
            f"views: {graph.views} of each record, and a microbatch of {graph.microbatch} records; their "
            "gradients become one record's before it is clipped, so the microbatch must be 1"
        )
    graph = with_clipping_norm(graph, plan)
    parameters = sum(math.prod(value.shape) for value in graph.parameter_values)
    bound = sensitivity_e9(plan, parameters, graph.microbatch, SIGMA_UNITS)
    if graph.noise_deviation is not None and graph.noise_deviation != noise_deviation(plan, bound):
        raise BuildError(
            f"the update takes off noise of standard deviation {graph.noise_deviation!r}, the plan adds "
            f"{noise_deviation(plan, bound)!r}; differentiate and make private with one plan"
        )
    if graph.noise_deviation is not None and plan.correlation is not None:
        raise BuildError(
            "the job's optimizer takes the variance of independent noise off its moments, and the plan's "
            "noise is correlated; use Adam"
        )
    clipping = plan.clipping.executed(plan, graph.parameter_names)
    builder = relax.BlockBuilder(without_backward(graph.module))
    table = _step_function(builder, graph, plan, layer_norms, choose)
    module = with_masks(
        relax.transform.DeadCodeElimination(["step", "update"])(builder.finalize()), len(graph.dropout)
    )
    return PrivateGraph(
        module=module,
        parameter_names=graph.parameter_names,
        parameter_values=graph.parameter_values,
        state_shapes=graph.state_shapes,
        released=graph.released,
        microbatch=graph.microbatch,
        frozen_names=graph.frozen_names,
        frozen_values=graph.frozen_values,
        sensitivity_e9=bound,
        table=table,
        clipping=clipping,
        dropout=graph.dropout,
        views=graph.views,
    )


_REPLACED = ("forward", "masked_forward", "backward")


def without_backward(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` without the functions that a step takes the place of."""
    kept = {v: f for v, f in module.functions.items() if v.name_hint not in _REPLACED}
    return tvm.IRModule(kept)


def with_masks(module: tvm.IRModule, count: int) -> tvm.IRModule:
    """Say of ``step`` that its last ``count`` inputs are masks: data, and not the same for all batches."""
    if count:
        step = next(v for v in module.functions if v.name_hint == "step")
        module.update_func(step, module[step].with_attr(MASKS, count))
    return module


def _step_function(
    builder: relax.BlockBuilder, graph: TrainingGraph, plan: Plan, layer_norms: bool, choose: Chooser
) -> tuple[Choice, ...]:
    """Add ``step``: the backward function, with the rules of its layers at its end."""
    backward = graph.module["backward"]
    parameters = [relax.Var(var.name, var.ty) for var in backward.params]
    mask = relax.Var("mask", tensor((graph.microbatch,)))
    trained = len(parameters) - len(graph.frozen_values) - len(graph.dropout)
    # The mechanism's own parameters, which the model does not have.
    own = [relax.Var("clipping_norm", tensor(v.shape)) for v in graph.parameter_values[trained - 2 :]]
    table: list[Choice] = []

    def body() -> list[relax.Expr]:
        new: dict[relax.Var, relax.Expr] = dict(zip(backward.params, parameters, strict=True))
        *bindings, output = bindings_of(backward)
        copy_bindings(builder, bindings, new)
        sites = sites_of(graph, [substitute(field, new) for field in output.value.fields])
        chosen = [_chosen(site, choose, graph.views, table) for site in sites]
        normed = [strategy.norm(builder, site) for site, strategy in zip(sites, chosen, strict=True)]
        norms, contributing, coefficients, counts = clipped(
            builder, plan, graph.parameter_names, [n.norm for n in normed], mask, *own
        )
        sums = [
            strategy.total(builder, site, part, factors)
            for site, strategy, part, factors in zip(sites, chosen, normed, coefficients, strict=True)
        ]
        if layer_norms:
            rows = [
                relax.op.reshape(norm, (1, graph.microbatch)) for norm in (norms, *(n.norm for n in normed))
            ]
            norms = builder.emit(relax.op.concat(rows, axis=0), name_hint="norms")
        return [*sums, *counts, norms, contributing]

    inputs = [*parameters[:2], mask, *parameters[2:trained], *own, *parameters[trained:]]
    emit_function(builder, "step", inputs, body)
    return tuple(table)


def sites_of(graph: TrainingGraph, values: Sequence[relax.Expr]) -> list[Site]:
    """Join the layers with the backward function's results."""
    uses = [use for layer in graph.layers for use in layer.uses]
    inputs = iter(values)
    data = [next(inputs) if use.input is not None else None for use in uses]
    at = iter(zip(data, inputs, strict=True))
    sites = []
    for layer in graph.layers:
        own = [next(at) for _ in layer.uses]
        sites.append(Site(layer, tuple(a for a, _ in own if a is not None), tuple(b for _, b in own)))
    return sites


def _chosen(site: Site, choose: Chooser, views: int, table: list[Choice]) -> Strategy:
    """The strategy of a site, the one for records of several views where there are; notes it in ``table``."""
    fitting = strategies(site) if views == 1 else (of_all_views(rule_of(site)),)
    best = choose(site, fitting)
    costs = {strategy.name: strategy.cost(site) for strategy in fitting}
    layer, plain = site.layer, rule_of(site).batch_cost(site)
    table.append(Choice(layer.name, layer.kind, layer.shape, site.positions, best.name, costs, plain))
    return best
