"""Operators that Relax does not have, registered with it: layers are traced to these, later rooms lower them.

Each is an operator named ``myelin.…`` with a type rule and no kernel: the graph room gives it a gradient and
a PrimFunc of a family, the privacy room a rule. Adding one is a line in a layer and a line in each of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import ir, relax

__all__ = ["PREFIX", "call", "register"]

PREFIX = "myelin."
"""What the names of these operators begin with."""

Infer = Callable[[relax.Call], Any]
"""Type of an operator's result, from its call."""


def register(name: str, infer: Infer) -> None:
    """Make ``myelin.<name>`` an operator without side effects; ``infer`` gives its results' type."""
    ir.register_op_attr(f"{PREFIX}{name}", "FInferType", lambda value, _context: infer(value))
    ir.register_op_attr(f"{PREFIX}{name}", "FPurity", True)


def call(name: str, arguments: Sequence[relax.Expr], **attributes: Any) -> relax.Call:
    """A call of ``myelin.<name>``; its attributes are plain numbers and text."""
    attrs = ir.make_node("ir.DictAttrs", **attributes) if attributes else None
    return relax.Call(ir.Op.get(f"{PREFIX}{name}"), list(arguments), attrs)


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(size) for size in value.ty.shape.values)


def _tensor(*shape: int) -> relax.TensorType:
    return relax.TensorType(shape, "float32")


def _like(place: int) -> Infer:
    return lambda value: _tensor(*_shape(value.args[place]))


def _normalised(value: relax.Call) -> relax.TupleType:
    shape = _shape(value.args[0])
    return relax.TupleType([_tensor(*shape), _tensor(*shape[:-1])])


def _group_normalised(value: relax.Call) -> relax.TupleType:
    shape = _shape(value.args[0])
    return relax.TupleType([_tensor(*shape), _tensor(shape[0], int(value.attrs["groups"]))])


def _gathered(value: relax.Call) -> relax.TensorType:
    weight, tokens = (_shape(argument) for argument in value.args)
    return _tensor(*tokens, weight[1])


def _recurrent(value: relax.Call) -> relax.TupleType:
    batch, steps, width = _shape(value.args[0])
    states = _tensor(batch, steps, width // 4)
    return relax.TupleType([states, states, states, _tensor(batch, steps, width)])


def _gated(value: relax.Call) -> relax.TupleType:
    batch, steps, width = _shape(value.args[0])
    states = _tensor(batch, steps, width // 3)
    return relax.TupleType([states, states, _tensor(batch, steps, width // 3 * 4)])


def _gated_gradient(value: relax.Call) -> relax.TupleType:
    batch, steps, states = _shape(value.args[0])
    gates = _tensor(batch, steps, 3 * states)
    return relax.TupleType([gates, gates])


def _one_step(value: relax.Call) -> relax.TensorType:
    batch, _, width = _shape(value.args[0])
    return _tensor(batch, width)


def _all_steps(value: relax.Call) -> relax.TensorType:
    batch, width = _shape(value.args[0])
    return _tensor(batch, int(value.attrs["steps"]), width)


def _data_gradient(value: relax.Call) -> relax.TensorType:
    gradient, weight = (_shape(argument) for argument in value.args)
    size = (int(extent) for extent in value.attrs["size"])
    return _tensor(gradient[0], weight[1] * int(value.attrs["groups"]), *size)


register("dilated_data_gradient", _data_gradient)
register("normalise", _normalised)
register("normalise_gradient", _like(0))
register("group_normalise", _group_normalised)
register("group_normalise_gradient", _like(0))
register("gelu", _like(0))
register("gelu_gradient", _like(0))
register("softmax", _like(0))
register("softmax_gradient", _like(0))
register("rms_normalise", _normalised)
register("rms_normalise_gradient", _like(0))
register("dropout", _like(0))
register("embedding", _gathered)
register("without_token", _like(0))
register("gru", _gated)
register("gru_gradient", _gated_gradient)
register("lstm", _recurrent)
register("lstm_gradient", _like(2))
register("sequence_step", _one_step)
register("sequence_step_gradient", _all_steps)
