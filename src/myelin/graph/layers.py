"""Reads a forward function: each example must stay by itself, and each parameter must have a known use.

The whole guarantee of DP-SGD rests on both. So both are allow-lists: an operator that is not listed here is
refused, whatever it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import relax

from myelin.errors import BuildError

from .relax_ir import bindings_of, constant, op_name, shape_of

__all__ = ["Layer", "parametric_layers"]


@dataclass(frozen=True)
class Layer:
    """One parameter and the one operator that uses it.

    Attributes:
        kind: ``"linear"``, ``"conv2d"`` or ``"bias"``; names the family of rules.
        name: of the parameter, as in the model (``"hidden.weight"``).
        parameter: index of the parameter.
        shape: of the parameter.
        input: variable of the operator's data input; None for a bias, whose gradient does not need it.
        output: variable of the operator's result.
        axis: for a bias, the axis of the output that it is added along.
        strides: for a convolution, (height, width).
        padding: for a convolution, (top, left, bottom, right).
        groups: for a convolution.
    """

    kind: str
    name: str
    parameter: int
    shape: tuple[int, ...]
    input: relax.Var | None
    output: relax.Var
    axis: int = 1
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1


_INSTEAD = {
    "nn.batch_norm": "it mixes the examples of a batch; leave it out, "
    "or use nn.tanh, which keeps activations bounded",
    "nn.dropout": "the step has no random numbers but the mechanism's; leave it out",
    "nn.layer_norm": "leave it out, or use nn.tanh",
    "nn.group_norm": "leave it out, or use nn.tanh",
    "nn.rms_norm": "leave it out, or use nn.tanh",
    "nn.gelu": "use nn.relu or nn.tanh",
    "nn.silu": "use nn.relu or nn.tanh",
    "sigmoid": "use nn.tanh",
    "take": "an index from data could read out of bounds; use a linear layer on one-hot features",
    "nn.conv1d": "use nn.Conv2D with a height of one",
    "nn.conv3d": "use nn.Conv2D with the depth as channels",
    "mean": "use nn.avg_pool2d, which stays inside an example",
    "sum": "use nn.avg_pool2d, which stays inside an example",
}


@dataclass(frozen=True)
class _Parameter:
    """A value that comes from one parameter alone: the parameter as it is, transposed, or as channels."""

    index: int
    form: str


class _Reader:
    """Walks the bindings in order, sorting each variable into data or parameter, and collecting layers."""

    def __init__(self, function: relax.Function, names: tuple[str, ...]) -> None:
        features, *parameters = function.params
        self.names = names
        self.batch = shape_of(features)[0]
        self.data: set[relax.Var] = {features}
        self.parameters = {var: _Parameter(i, "plain") for i, var in enumerate(parameters)}
        self.shapes = [shape_of(var) for var in parameters]
        self.layers: dict[int, Layer] = {}
        for binding in bindings_of(function):
            self.read(binding.var, binding.value)
        unused = [name for i, name in enumerate(names) if i not in self.layers]
        if unused:
            raise BuildError(
                f"parameter {unused[0]}: the model never uses it; remove it, or use it in forward"
            )

    def read(self, var: relax.Var, value: relax.Expr) -> None:
        """Take one binding."""
        if isinstance(value, relax.Var):
            (
                self.data.add(var)
                if value in self.data
                else self.parameters.update({var: self.parameters[value]})
            )
            return
        name = op_name(value)
        read = _READERS.get(name)
        if read is None or not isinstance(value, relax.Call):
            raise self.refused(name, value)
        read(self, var, value, name)

    def refused(self, name: str, value: relax.Expr, why: str = "") -> BuildError:
        """The error for an operator that has no rule here."""
        instead = why or _INSTEAD.get(
            name, f"it has no rule in this version; operators with one are {', '.join(sorted(_READERS))}"
        )
        used = [
            self.names[self.parameters[a].index] for a in getattr(value, "args", ()) if a in self.parameters
        ]
        on = f" on parameter {used[0]}" if used else ""
        return BuildError(f"operator {name}{on} cannot be made private: {instead}")

    def add_layer(self, value: relax.Call, parameter: relax.Var, form: str, layer: Layer) -> None:
        """Note that ``value`` uses ``parameter``."""
        if self.parameters[parameter].form != form:
            raise self.refused(
                op_name(value), value, "use nn.Linear or nn.Conv2D, which lay weights out as [out, in, …]"
            )
        if layer.parameter in self.layers:
            raise BuildError(
                f"parameter {layer.name} is used twice: weights shared between layers have no rule in this "
                "version; give each layer its own"
            )
        self.layers[layer.parameter] = layer
        self.data.add(layer.output)


def _elementwise(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    if value.args[0] not in reader.data:
        raise reader.refused(name, value, "a parameter may only be the weight or the bias of a layer")
    reader.data.add(var)


def _arithmetic(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    left, right = value.args
    if right in reader.parameters and left in reader.data and name == "add":
        _bias(reader, var, value)
        return
    if any(argument in reader.parameters for argument in value.args):
        raise reader.refused(name, value, "a parameter may only be the weight or the bias of a layer")
    for argument in value.args:
        if (value_of := constant(argument)) is not None and value_of.ndim == 0:
            continue
        if argument not in reader.data or shape_of(argument) != shape_of(var):
            raise reader.refused(
                name, value, "both sides need the same shape, or one of them a scalar constant"
            )
    reader.data.add(var)


def _bias(reader: _Reader, var: relax.Var, value: relax.Call) -> None:
    data, bias = value.args
    source, rank = reader.parameters[bias], len(shape_of(data))
    index, shape = source.index, reader.shapes[source.index]
    axis = rank - 1 if source.form == "plain" else 1
    fits = (
        len(shape) == 1 and rank >= 2 and shape_of(data)[axis] == shape[0] and shape_of(data) == shape_of(var)
    )
    if not fits:
        raise reader.refused("add", value, "a bias is a vector as long as the last axis, or as the channels")
    layer = Layer("bias", reader.names[index], index, shape, None, var, axis=axis)
    reader.add_layer(value, bias, source.form, layer)


def _matmul(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    data, weight = value.args
    if data not in reader.data or weight not in reader.parameters:
        raise reader.refused(name, value, "one side must be data and the other a weight; use nn.Linear")
    if len(shape_of(data)) < 2:
        raise reader.refused(name, value, "its input must keep the batch as its first axis")
    index = reader.parameters[weight].index
    layer = Layer("linear", reader.names[index], index, reader.shapes[index], data, var)
    reader.add_layer(value, weight, "transposed", layer)


def _conv2d(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    data, weight = value.args
    if data not in reader.data or weight not in reader.parameters:
        raise reader.refused(name, value, "its input must be data and its kernel a weight; use nn.Conv2D")
    attrs = value.attrs
    if (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) != ("NCHW", "OIHW", "NCHW"):
        raise reader.refused(name, value, "its layout must be NCHW")
    if [int(d) for d in attrs.dilation] != [1, 1]:
        raise reader.refused(
            name, value, "a dilated kernel has no gradient rule; use a larger kernel or a stride"
        )
    index = reader.parameters[weight].index
    top, left, bottom, right = (int(p) for p in attrs.padding)
    height, width = (int(s) for s in attrs.strides)
    layer = Layer(
        "conv2d",
        reader.names[index],
        index,
        reader.shapes[index],
        data,
        var,
        strides=(height, width),
        padding=(top, left, bottom, right),
        groups=int(attrs.groups),
    )
    reader.add_layer(value, weight, "plain", layer)


def _pool2d(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    if str(value.attrs.layout) != "NCHW" or [int(d) for d in value.attrs.dilation] != [1, 1]:
        raise reader.refused(name, value, "its layout must be NCHW and its dilation one")
    _elementwise(reader, var, value, name)


def _permute_dims(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    source = reader.parameters.get(value.args[0])
    if source is None or source.form != "plain" or len(reader.shapes[source.index]) != 2:
        raise reader.refused(name, value, "only the weight of a linear layer may be transposed")
    reader.parameters[var] = _Parameter(source.index, "transposed")


def _reshape(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    source, shape = value.args[0], shape_of(var)
    if source in reader.parameters:
        count = reader.shapes[reader.parameters[source].index]
        if len(count) != 1 or shape != (1, count[0], *[1] * (len(shape) - 2)):
            raise reader.refused(name, value, "only a bias may be reshaped, to [1, channels, 1, 1]")
        reader.parameters[var] = _Parameter(reader.parameters[source].index, "channels")
        return
    if not shape or shape[0] != reader.batch:
        raise reader.refused(name, value, "the batch must stay the first axis, or examples would mix")
    reader.data.add(var)


_READERS: dict[str, Callable[[_Reader, relax.Var, relax.Call, str], None]] = {
    "add": _arithmetic,
    "matmul": _matmul,
    "multiply": _arithmetic,
    "nn.avg_pool2d": _pool2d,
    "nn.conv2d": _conv2d,
    "nn.max_pool2d": _pool2d,
    "nn.relu": _elementwise,
    "permute_dims": _permute_dims,
    "reshape": _reshape,
    "subtract": _arithmetic,
    "tanh": _elementwise,
}


def parametric_layers(function: relax.Function, names: tuple[str, ...]) -> tuple[Layer, ...]:
    """The layers of a forward function ``(features, *parameters) → logits``, in order of their parameters.

    Guarantee: every operator in the function acts on each example by itself, along the first axis, so row i
        of
    the logits depends on row i of the features only.

    Raises:
        BuildError: an operator that mixes examples or has no rule, a parameter that is shared, used otherwise
            than as the weight or bias of a layer, or never used. The message names it and says what to use
            instead.
    """
    reader = _Reader(function, names)
    return tuple(reader.layers[index] for index in sorted(reader.layers))
