"""The room's verb: from a private training graph to kernels, calls and places."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import IRModule

from ..errors import BuildError
from .arena import Lifetime, place
from .flatten import FlatFunction, flatten
from .generic import POINTWISE
from .lower import lower
from .objects import compile_object, llvm_target
from .program import Call, ParameterRole, Roles, ScheduledModule, Tensor

if TYPE_CHECKING:
    from ..privacy import PrivateGraph

Progress = Callable[[str, int, int], None]


class _Program:
    """Values of both functions in one numbering, merged where they are the same memory."""

    def __init__(self, step: FlatFunction, update: FlatFunction) -> None:
        self.step, self.update = step, update
        self.values = [*step.values, *update.values]
        self.shift = len(step.values)
        self.alias: dict[int, int] = {}

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
    module = lower(graph.module, machine)
    program = _Program(flatten(module, "step"), flatten(module, "update"))
    roles = _merge_roles(program, graph.parameter_names, len(graph.state_shapes))
    in_place = _merge_in_place(program, module, len(graph.parameter_names) + len(graph.state_shapes))
    tensors, arena_bytes, number = _place(program, roles)
    report("compiling kernels", 1, 3)
    order = list(dict.fromkeys(call.kernel for call in [*program.step.calls, *program.update.calls]))
    names = {kernel: f"k{i:03d}_{_symbol(kernel)}" for i, kernel in enumerate(order)}
    functions: dict[str, tirx.PrimFunc] = {names[kernel]: module[kernel] for kernel in order}
    for kernel in in_place:
        functions[names[kernel]] = module[kernel].without_attr("tirx.noalias")
    code = compile_object(functions, machine)
    report("compiled", 3, 3)

    def calls(flat: FlatFunction, shift: int) -> tuple[Call, ...]:
        return tuple(
            Call(
                order.index(call.kernel),
                tuple(number[program.root(v + shift)] for v in call.inputs),
                tuple(number[program.root(v + shift)] for v in call.outputs),
            )
            for call in flat.calls
        )

    return ScheduledModule(
        object=code,
        kernels=tuple(f"__tvm_ffi_{names[kernel]}" for kernel in order),
        tensors=tensors,
        arena_bytes=arena_bytes,
        step=calls(program.step, 0),
        update=calls(program.update, program.shift),
        roles=_numbered(roles, number),
        parameter_values=tuple(graph.parameter_values),
        target=target,
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


def _merge_roles(program: _Program, names: Sequence[str], states: int) -> Roles:
    """Find the role of every signature tensor; both functions use the same parameters."""
    step, update, shift, count = program.step, program.update, program.shift, len(names)
    expected = (3 + count, count + 2, 1 + 2 * count + states, count + states)
    got = (len(step.parameters), len(step.results), len(update.parameters), len(update.results))
    if got != expected:
        raise BuildError(
            f"private graph: expected {expected} inputs and outputs of step and update for {count} "
            f"parameters and {states} state tensors, got {got}"
        )
    inputs = [v + shift for v in update.parameters]
    for index in range(count):
        program.merge(inputs[1 + index], step.parameters[3 + index])
    parameters = tuple(
        ParameterRole(
            name=name,
            value=step.parameters[3 + i],
            clipped_sum=step.results[i],
            noisy_gradient=inputs[1 + count + states + i],
        )
        for i, name in enumerate(names)
    )
    features, labels, mask = step.parameters[:3]
    norms, contributing = step.results[count:]
    state = tuple(inputs[1 + count : 1 + count + states])
    return Roles(features, labels, mask, norms, contributing, inputs[0], parameters, state)


def _merge_in_place(program: _Program, module: IRModule, count: int) -> set[str]:
    """Let the update's outputs take their inputs' places; the kernels whose arguments then overlap."""
    update, kernels = program.update, set[str]()
    for result, value in zip(update.results, update.parameters[1 : 1 + count], strict=True):
        kernel = _check_in_place(update, module, result, value)
        if kernel is not None:
            kernels.add(kernel)
            program.merge(result + program.shift, value + program.shift)
    return kernels


def _role_values(roles: Roles) -> list[int]:
    fixed = [roles.features, roles.labels, roles.mask, roles.norms, roles.contributing]
    if roles.step_number is not None:
        fixed.append(roles.step_number)
    for parameter in roles.parameters:
        fixed += [parameter.value, parameter.clipped_sum, parameter.noisy_gradient]
    return [*fixed, *roles.zeroed]


def _place(program: _Program, roles: Roles) -> tuple[tuple[Tensor, ...], int, dict[int, int]]:
    """Give every value that is used a tensor number and an offset."""
    pinned = list(dict.fromkeys(program.root(v) for v in _role_values(roles)))
    if len(pinned) != len(_role_values(roles)):
        raise BuildError("private graph: one value is returned, or passed through, in two roles")
    spans: dict[int, list[int]] = {}
    clock = 0
    for flat, shift in ((program.step, 0), (program.update, program.shift)):
        for call in flat.calls:
            for value in (*call.inputs, *call.outputs):
                root = program.root(value + shift)
                spans.setdefault(root, [clock, clock])[1] = clock
            clock += 1
    order = [*pinned, *(root for root in spans if root not in set(pinned))]
    lifetimes = []
    tensors = [Tensor(0, program.values[root].dtype, program.values[root].shape) for root in order]
    for index, root in enumerate(order):
        first, last = spans.get(root, [0, 0])
        lifetimes.append(Lifetime(tensors[index].size_bytes, first, last, pinned=index < len(pinned)))
    offsets, arena_bytes = place(lifetimes)
    placed = tuple(Tensor(o, t.dtype, t.shape) for o, t in zip(offsets, tensors, strict=True))
    return placed, arena_bytes, {root: index for index, root in enumerate(order)}


def _numbered(roles: Roles, number: dict[int, int]) -> Roles:
    return Roles(
        features=number[roles.features],
        labels=number[roles.labels],
        mask=number[roles.mask],
        norms=number[roles.norms],
        contributing=number[roles.contributing],
        step_number=None if roles.step_number is None else number[roles.step_number],
        parameters=tuple(
            ParameterRole(p.name, number[p.value], number[p.clipped_sum], number[p.noisy_gradient])
            for p in roles.parameters
        ),
        zeroed=tuple(number[v] for v in roles.zeroed),
    )
