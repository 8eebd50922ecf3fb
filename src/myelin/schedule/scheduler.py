"""The room's verb: from a private training graph to kernels, calls and places."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm
from tvm import tirx
from tvm.ir import IRModule

from ..errors import BuildError
from .arena import Lifetime, place
from .flatten import FlatCall, FlatFunction, flatten
from .generic import POINTWISE
from .lower import lower
from .objects import compile_object, llvm_target
from .order import soon
from .program import ELEMENT_BYTES, Call, MaskRole, ParameterRole, Roles, ScheduledModule, Tensor

if TYPE_CHECKING:
    from ..privacy import PrivateGraph

#: Parts of the arena are whole pages, so that no two lanes share a cache line.
PAGE_BYTES = 4096

Progress = Callable[[str, int, int], None]


class _Program:
    """Values of both functions in one numbering, merged where they are the same memory."""

    def __init__(self, step: FlatFunction, update: FlatFunction) -> None:
        self.step, self.update = step, update
        self.values = [*step.values, *update.values]
        self.shift = len(step.values)
        self.alias: dict[int, int] = {}

    def size_bytes(self, value: int) -> int:
        """Bytes that a value takes."""
        return self.values[value].elements * ELEMENT_BYTES[self.values[value].dtype]

    def root(self, value: int) -> int:
        while value in self.alias:
            value = self.alias[value]
        return value

    def merge(self, value: int, into: int) -> None:
        a, b = self.values[value], self.values[into]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            raise BuildError(f"a tensor of the step and the update differ: {a} and {b}")
        if self.root(value) != self.root(into):
            self.alias[self.root(value)] = self.root(into)


def schedule(graph: PrivateGraph, target: str, progress: Progress | None = None) -> ScheduledModule:
    """Compile a private training graph for ``target`` (``"x86-64-v3"`` or ``"x86-64-v4"``).

    ``progress(what, done, total)`` is called as the work advances. Raises :class:`BuildError`. The result
    depends on the arguments alone: the same graph gives the same bytes.
    """
    report = progress or (lambda what, done, total: None)
    machine = llvm_target(target)
    report("lowering the training graph", 0, 3)
    module = lower(graph.module, machine, ["step", "update"])
    program = _Program(flatten(module, "step"), flatten(module, "update"))
    roles = _merge_roles(program, graph)
    in_place = _merge_in_place(program, module, len(graph.parameter_names) + len(graph.state_shapes))
    fixed = len(graph.parameter_names) + len(graph.frozen_values)
    prepare, step = split_fixed(program.step, program.step.parameters[3 : 3 + fixed])
    step = soon(step)
    layout = _place(program, roles, prepare, step)
    number = layout.number
    report("compiling kernels", 1, 3)
    every = [*program.step.calls, *program.update.calls]
    code, symbols, order = compile_kernels(module, every, machine, in_place)
    report("compiled", 3, 3)

    def calls(flat: Sequence[FlatCall], shift: int) -> tuple[Call, ...]:
        return tuple(
            Call(
                order.index(call.kernel),
                tuple(number[program.root(v + shift)] for v in call.inputs),
                tuple(number[program.root(v + shift)] for v in call.outputs),
            )
            for call in flat
        )

    return ScheduledModule(
        object=code,
        kernels=symbols,
        tensors=layout.tensors,
        shared_bytes=layout.shared_bytes,
        lane_bytes=layout.lane_bytes,
        prepare=calls(prepare, 0),
        step=calls(step, 0),
        update=calls(program.update.calls, program.shift),
        roles=_numbered(roles, number),
        parameter_values=tuple(graph.parameter_values),
        target=target,
        frozen_values=tuple(graph.frozen_values),
    )


def _check_in_place(update: FlatFunction, module: IRModule, result: int, value: int) -> str | None:
    """Prove that ``result`` may take the place of the parameter ``value``; the kernel that writes it.

    Nothing may read the old value after the call that writes the new one, and that call itself must read it
    only at the place it writes.
    """
    if result == value:
        return None
    last = max((i for i, call in enumerate(update.calls) if value in call.inputs), default=-1)
    maker, call = next((i, c) for i, c in enumerate(update.calls) if result in c.outputs)
    arguments = (*call.inputs, *call.outputs)
    shared = [i for i, v in enumerate(arguments) if v in (value, result)]
    pointwise = set((module[call.kernel].attrs or {}).get(POINTWISE, ()))
    if last > maker or (value in call.inputs and not pointwise.issuperset(shared)):
        raise BuildError(
            f"update: input {value} cannot be overwritten by output {result}: expected an optimizer that "
            f"makes each new value from old values at the same place, got kernel {call.kernel}"
        )
    return call.kernel


def _symbol(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)[:40]


def _merge_roles(program: _Program, graph: PrivateGraph) -> Roles:
    """Find the role of every signature tensor; both functions use the same parameters."""
    names, states = graph.parameter_names, len(graph.state_shapes)
    step, update, shift, count = program.step, program.update, program.shift, len(names)
    frozen, dropout = len(graph.frozen_values), graph.dropout
    expected = (3 + count + frozen + len(dropout), count + 2, 1 + 2 * count + states, count + states)
    got = (len(step.parameters), len(step.results), len(update.parameters), len(update.results))
    if got != expected:
        raise BuildError(
            f"private graph: expected {expected} inputs and outputs of step and update for {count} "
            f"parameters and {states} state tensors, got {got}"
        )
    inputs = [v + shift for v in update.parameters]
    for index in range(count):
        program.merge(inputs[1 + index], step.parameters[3 + index])
    state = tuple(inputs[1 + count : 1 + count + states])
    held = [*step.parameters[3 : 3 + count], *state]
    parameters = tuple(
        ParameterRole(
            name=name,
            value=step.parameters[3 + i],
            released=held[graph.released[i]],
            clipped_sum=step.results[i],
            noisy_gradient=inputs[1 + count + states + i],
        )
        for i, name in enumerate(names)
    )
    features, labels, mask = step.parameters[:3]
    norms, contributing = step.results[count:]
    rest = step.parameters[3 + count :]
    constants = tuple(rest[:frozen])
    masks = tuple(MaskRole(v, d.threshold) for v, d in zip(rest[frozen:], dropout, strict=True))
    return Roles(features, labels, mask, norms, contributing, inputs[0], parameters, state, constants, masks)


def _merge_in_place(program: _Program, module: IRModule, count: int) -> set[str]:
    """Let the update's outputs take their inputs' places; the kernels whose arguments then overlap."""
    update, kernels = program.update, set[str]()
    for result, value in zip(update.results, update.parameters[1 : 1 + count], strict=True):
        kernel = _check_in_place(update, module, result, value)
        if kernel is not None:
            kernels.add(kernel)
            program.merge(result + program.shift, value + program.shift)
    return kernels


def split_fixed(flat: FlatFunction, parameters: Sequence[int]) -> tuple[list[FlatCall], list[FlatCall]]:
    """The calls of a function that depend on ``parameters`` only, and the others.

    Parameters stay the same from one batch to the next, so the former run once for many. A call that gives a
    result of the function is one of the latter.
    """
    fixed, results = set(parameters), set(flat.results)
    prepare: list[FlatCall] = []
    rest: list[FlatCall] = []
    for call in flat.calls:
        if fixed.issuperset(call.inputs) and not results & set(call.outputs):
            fixed.update(call.outputs)
            prepare.append(call)
        else:
            rest.append(call)
    return prepare, rest


def compile_kernels(
    module: IRModule, calls: Sequence[FlatCall], target: tvm.target.Target, in_place: Collection[str] = ()
) -> tuple[bytes, tuple[str, ...], list[str]]:
    """Compile the kernels that ``calls`` name: the object, its entry symbols, and the names in their order.

    Kernels ``in_place`` may be given the same memory to read and to write.
    """
    order = list(dict.fromkeys(call.kernel for call in calls))
    names = {kernel: f"k{i:03d}_{_symbol(kernel)}" for i, kernel in enumerate(order)}
    functions: dict[str, tirx.PrimFunc] = {names[kernel]: module[kernel] for kernel in order}
    for kernel in in_place:
        functions[names[kernel]] = module[kernel].without_attr("tirx.noalias")
    code = compile_object(functions, target)
    return code, tuple(f"__tvm_ffi_{names[kernel]}" for kernel in order), order


@dataclass(frozen=True)
class _Layout:
    """Places of all values, and the number of the tensor that each has become."""

    tensors: tuple[Tensor, ...]
    number: dict[int, int]
    shared_bytes: int
    lane_bytes: int


def _place(program: _Program, roles: Roles, prepare: list[FlatCall], step: list[FlatCall]) -> _Layout:
    """Give every value that is used a tensor number and an offset: what lasts is shared, the rest in a lane.

    Lanes run at once, so what ``step`` writes is in a lane. What lasts from one microbatch to the next, or is
    prepared for all of them, is shared.
    """
    shared = [v for p in roles.parameters for v in (p.value, p.noisy_gradient)]
    shared += [*roles.zeroed, *roles.frozen]
    if roles.step_number is not None:
        shared.append(roles.step_number)
    own = [roles.features, roles.labels, roles.mask, roles.norms, roles.contributing]
    own += [p.clipped_sum for p in roles.parameters]
    own += [m.tensor for m in roles.masks]
    pinned = dict.fromkeys(program.root(v) for v in [*shared, *own])
    if len(pinned) != len(shared) + len(own):
        raise BuildError("private graph: one value is returned, or passed through, in two roles")
    prepared = dict.fromkeys(program.root(v) for call in prepare for v in call.outputs)
    common = list(dict.fromkeys([*(program.root(v) for v in shared), *prepared]))
    spans = _spans(program, step)
    inside = list(dict.fromkeys([*(program.root(v) for v in own), *spans]))
    inside = [root for root in inside if root not in set(common)]

    def lifetimes(roots: list[int], lasting: bool) -> list[Lifetime]:
        return [
            Lifetime(program.size_bytes(root), *spans.get(root, (0, 0)), pinned=lasting or root in pinned)
            for root in roots
        ]

    common_offsets, common_bytes = place(lifetimes(common, lasting=True))
    own_offsets, own_bytes = place(lifetimes(inside, lasting=False))
    shared_bytes, lane_bytes = _pages(common_bytes), _pages(own_bytes)
    offsets = [*common_offsets, *(shared_bytes + offset for offset in own_offsets)]
    roots = [*common, *inside]
    tensors = tuple(
        Tensor(offset, program.values[root].dtype, program.values[root].shape)
        for root, offset in zip(roots, offsets, strict=True)
    )
    return _Layout(tensors, {root: i for i, root in enumerate(roots)}, shared_bytes, lane_bytes)


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def _spans(program: _Program, step: list[FlatCall]) -> dict[int, tuple[int, int]]:
    """First and last call that touches each value, over ``step`` and then ``update``."""
    spans: dict[int, tuple[int, int]] = {}
    clock = 0
    for calls, shift in ((step, 0), (program.update.calls, program.shift)):
        for call in calls:
            for value in (*call.inputs, *call.outputs):
                root = program.root(value + shift)
                spans[root] = (spans.get(root, (clock, clock))[0], clock)
            clock += 1
    return spans


def _numbered(roles: Roles, number: dict[int, int]) -> Roles:
    return Roles(
        features=number[roles.features],
        labels=number[roles.labels],
        mask=number[roles.mask],
        norms=number[roles.norms],
        contributing=number[roles.contributing],
        step_number=None if roles.step_number is None else number[roles.step_number],
        parameters=tuple(
            ParameterRole(
                p.name, number[p.value], number[p.released], number[p.clipped_sum], number[p.noisy_gradient]
            )
            for p in roles.parameters
        ),
        zeroed=tuple(number[v] for v in roles.zeroed),
        frozen=tuple(number[v] for v in roles.frozen),
        masks=tuple(MaskRole(number[m.tensor], m.threshold) for m in roles.masks),
    )
