"""Reads a forward function: each example must stay by itself, and each parameter must have a known use.

The whole guarantee of DP-SGD rests on both. So both are allow-lists: an operator that is not listed here is
refused, whatever it does.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import relax

from myelin.errors import BuildError

from .layers import Layer, Use
from .relax_ir import bindings_of, constant, op_name, shape_of

__all__ = ["parametric_layers"]

_ONLY_LAYERS = "a parameter may only be used by the layers of myelin.model.nn"
_INSTEAD = {
    "nn.batch_norm": "it mixes the examples of a batch; use nn.GroupNorm or nn.LayerNorm",
    "nn.dropout": "use nn.Dropout of myelin.model, whose masks the enclave draws",
    "nn.layer_norm": "use the layer nn.LayerNorm of myelin.model",
    "nn.group_norm": "use the layer nn.GroupNorm of myelin.model",
    "nn.rms_norm": "use the layer nn.RMSNorm of myelin.model",
    "nn.gelu": "use the function nn.gelu of myelin.model",
    "nn.gelu_tanh": "use the function nn.gelu of myelin.model",
    "nn.silu": "use the function nn.silu of myelin.model",
    "nn.softmax": "use the function nn.softmax of myelin.model",
    "take": "an index from data could read out of bounds; use nn.Embedding of myelin.model",
    "nn.conv1d": "use nn.Conv1D of myelin.model",
    "nn.conv1d_transpose": "use nn.ConvTranspose1D of myelin.model",
    "nn.conv3d": "use nn.Conv2D with the depth as channels",
    "mean": "use nn.mean, which stays inside an example",
}


@dataclass(frozen=True)
class _Parameter:
    """A value that comes from one parameter alone: the parameter as it is, transposed, or as channels."""

    index: int
    form: str


class _Reader:
    """Walks the bindings in order, sorting each variable into data or parameter, and collecting layers.

    Every variable in ``data`` has the batch as its first axis (a tuple: every value in it), and its row i
    depends on row i of the features and masks only.
    """

    def __init__(self, function: relax.Function, names: tuple[str, ...]) -> None:
        features, *rest = function.params
        parameters, masks = rest[: len(names)], rest[len(names) :]
        self.names = names
        self.batch = shape_of(features)[0]
        self.data: set[relax.Var] = {features, *masks}
        self.parameters = {var: _Parameter(i, "plain") for i, var in enumerate(parameters)}
        self.shapes = [shape_of(var) for var in parameters]
        self.layers: dict[int, Layer] = {}
        bindings = list(bindings_of(function))
        self.reads = Counter(argument for b in bindings for argument in getattr(b.value, "args", ()))
        for binding in bindings:
            self.read(binding.var, binding.value)
        unused = [name for i, name in enumerate(names) if i not in self.layers]
        if unused:
            raise BuildError(
                f"parameter {unused[0]}: the model never uses it; remove it, or use it in forward"
            )

    def read(self, var: relax.Var, value: relax.Expr) -> None:
        """Take one binding."""
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.data:
            self.data.add(var)
            return
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

    def add_use(self, kind: str, value: relax.Call, parameter: relax.Var, form: str, use: Use) -> None:
        """Note that ``value`` uses ``parameter``, and how."""
        source = self.parameters[parameter]
        if source.form != form:
            raise self.refused(
                op_name(value), value, "use nn.Linear or nn.Conv2D, which lay weights out as [out, in, …]"
            )
        name, old = self.names[source.index], self.layers.get(source.index)
        use = dataclasses.replace(use, kind=kind)
        if old is None:
            self.layers[source.index] = Layer(kind, name, source.index, self.shapes[source.index], (use,))
            return
        whole = kind if old.kind == kind else "shared"
        self.layers[source.index] = dataclasses.replace(old, kind=whole, uses=(*old.uses, use))


def _elementwise(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    if value.args[0] not in reader.data:
        raise reader.refused(name, value, _ONLY_LAYERS)
    reader.data.add(var)


def _arithmetic(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    left, right = value.args
    if right in reader.parameters and left in reader.data and name in ("add", "multiply"):
        _affine(reader, var, value, name)
        return
    if any(argument in reader.parameters for argument in value.args):
        raise reader.refused(name, value, _ONLY_LAYERS)
    for argument in value.args:
        if (value_of := constant(argument)) is not None and value_of.ndim == 0:
            continue
        if argument not in reader.data or shape_of(argument) != shape_of(var):
            raise reader.refused(
                name, value, "both sides need the same shape, or one of them a scalar constant"
            )
    reader.data.add(var)


def _affine(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    """A vector along one axis, added (bias) or multiplied (scale); or a value per place, added."""
    data, parameter = value.args
    source, shape = reader.parameters[parameter], shape_of(data)
    own, rank = reader.shapes[source.index], len(shape_of(data))
    input_ = data if name == "multiply" else None
    if name == "add" and source.form == "plain" and len(own) >= 2 and shape[1:] == own:
        reader.add_use("position", value, parameter, "plain", Use(var))
        reader.data.add(var)
        return
    axis = rank - 1 if source.form == "plain" else 1
    if len(own) != 1 or rank < 2 or shape[axis] != own[0] or shape != shape_of(var):
        raise reader.refused(
            name,
            value,
            "a bias or scale is a vector as long as the last axis, or as the channels"
            + ("; a position has an example's shape" if name == "add" else ""),
        )
    kind = "bias" if name == "add" else "scale"
    reader.add_use(kind, value, parameter, source.form, Use(var, input_, axis=axis))
    reader.data.add(var)


def _matmul(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    data, weight = value.args
    if data in reader.data and weight in reader.data:
        left, right = shape_of(data), shape_of(weight)
        if len(left) < 3 or left[:-2] != right[:-2]:
            raise reader.refused(
                name, value, "a product of data needs the batch, and all axes but the last two, on both sides"
            )
        reader.data.add(var)
        return
    if data not in reader.data or weight not in reader.parameters:
        raise reader.refused(name, value, "its left side must be data; use nn.Linear")
    if len(shape_of(data)) < 2:
        raise reader.refused(name, value, "its input must keep the batch as its first axis")
    form = reader.parameters[weight].form
    if form == "plain" and len(shape_of(weight)) == 2:
        reader.add_use("product", value, weight, form, Use(var, data))
    else:
        reader.add_use("linear", value, weight, "transposed", Use(var, data))
    reader.data.add(var)


def _conv2d(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    data, weight = value.args
    if data not in reader.data or weight not in reader.parameters:
        raise reader.refused(name, value, "its input must be data and its kernel a weight; use nn.Conv2D")
    attrs = value.attrs
    if (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) != ("NCHW", "OIHW", "NCHW"):
        raise reader.refused(name, value, "its layout must be NCHW")
    reader.add_use("conv2d", value, weight, "plain", _convolution(var, data, attrs))
    reader.data.add(var)


def _convolution(var: relax.Var, data: relax.Var, attrs: Any) -> Use:
    top, left, bottom, right = (int(p) for p in attrs.padding)
    height, width = (int(s) for s in attrs.strides)
    down, across = (int(d) for d in attrs.dilation)
    return Use(
        var,
        data,
        strides=(height, width),
        padding=(top, left, bottom, right),
        groups=int(attrs.groups),
        dilation=(down, across),
    )


def _conv2d_transpose(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    data, weight = value.args
    if data not in reader.data or weight not in reader.parameters:
        raise reader.refused(
            name, value, "its input must be data and its kernel a weight; use nn.ConvTranspose2D"
        )
    attrs = value.attrs
    if (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) != ("NCHW", "IOHW", "NCHW"):
        raise reader.refused(name, value, "its layout must be NCHW and its kernel's IOHW")
    if [int(d) for d in attrs.dilation] != [1, 1]:
        raise reader.refused(name, value, "a transposed convolution cannot be dilated in this version")
    reader.add_use("conv2d_transpose", value, weight, "plain", _convolution(var, data, attrs))
    reader.data.add(var)


def _embedding(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    weight, tokens = value.args
    if weight not in reader.parameters or tokens not in reader.data:
        raise reader.refused(name, value, "its table must be a weight and its tokens data; use nn.Embedding")
    reader.add_use("embedding", value, weight, "plain", Use(var, tokens))
    reader.data.add(var)


def _lstm(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    """The recurrent weight multiplies the previous states; its outputs are added to the gates.

    The gradient at the gates is the one at those outputs as long as nothing else reads the gates.
    """
    gates, weight = value.args
    if gates not in reader.data or weight not in reader.parameters or reader.reads[gates] != 1:
        raise reader.refused(name, value, "use nn.LSTM")
    reader.add_use("linear", value, weight, "plain", Use(gates, var, field=1))
    reader.data.add(var)


def _gru(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    """The recurrent weight multiplies the previous states; its outputs are added to ``added``.

    The gradient there is the one at those outputs as long as nothing else reads it.
    """
    gates, added, weight = value.args
    is_data = gates in reader.data and added in reader.data and not gates.same_as(added)
    if not is_data or weight not in reader.parameters or reader.reads[added] != 1:
        raise reader.refused(name, value, "use nn.GRU")
    reader.add_use("linear", value, weight, "plain", Use(added, var, field=1))
    reader.data.add(var)


def _without_token(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    if any(argument not in reader.data for argument in value.args):
        raise reader.refused(name, value, _ONLY_LAYERS)
    reader.data.add(var)


def _pool2d(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    if str(value.attrs.layout) != "NCHW" or [int(d) for d in value.attrs.dilation] != [1, 1]:
        raise reader.refused(name, value, "its layout must be NCHW and its dilation one")
    _elementwise(reader, var, value, name)


def _last_axis(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    """What works along the last axis; that must not be the batch."""
    if len(shape_of(value.args[0])) < 2:
        raise reader.refused(name, value, "its input needs an axis beside the batch")
    _elementwise(reader, var, value, name)


def _sum(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    rank = len(shape_of(value.args[0]))
    if value.attrs.axis is None or any(int(axis) % rank == 0 for axis in value.attrs.axis):
        raise reader.refused(name, value, "it would mix examples; use nn.mean over other axes than the first")
    _elementwise(reader, var, value, name)


def _split(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    if int(value.attrs.axis) % len(shape_of(value.args[0])) == 0:
        raise reader.refused(name, value, "the batch must stay whole; split another axis than the first")
    _elementwise(reader, var, value, name)


def _permute_dims(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    argument, axes = value.args[0], value.attrs.axes
    if argument in reader.data:
        if axes is None or int(axes[0]) != 0:
            raise reader.refused(name, value, "the batch must stay the first axis, or examples would mix")
        reader.data.add(var)
        return
    source = reader.parameters.get(argument)
    if source is None or source.form != "plain" or len(reader.shapes[source.index]) != 2:
        raise reader.refused(name, value, "only the weight of a linear layer may be transposed")
    if axes is not None and [int(axis) for axis in axes] != [1, 0]:
        raise reader.refused(name, value, "a weight's axes may only be exchanged")
    reader.parameters[var] = _Parameter(source.index, "transposed")


def _reshape(reader: _Reader, var: relax.Var, value: relax.Call, name: str) -> None:
    source, shape = value.args[0], shape_of(var)
    if source in reader.parameters:
        count = reader.shapes[reader.parameters[source].index]
        if len(count) != 1 or shape != (1, count[0], *[1] * (len(shape) - 2)):
            raise reader.refused(name, value, "only a bias or scale may be reshaped, to [1, channels, 1, 1]")
        reader.parameters[var] = _Parameter(reader.parameters[source].index, "channels")
        return
    if not shape or shape[0] != reader.batch:
        raise reader.refused(name, value, "the batch must stay the first axis, or examples would mix")
    reader.data.add(var)


_READERS: dict[str, Callable[[_Reader, relax.Var, relax.Call, str], None]] = {
    "add": _arithmetic,
    "matmul": _matmul,
    "multiply": _arithmetic,
    "myelin.embedding": _embedding,
    "myelin.gelu": _elementwise,
    "myelin.group_normalise": _elementwise,
    "myelin.gru": _gru,
    "myelin.lstm": _lstm,
    "myelin.normalise": _last_axis,
    "myelin.rms_normalise": _last_axis,
    "myelin.sequence_step": _elementwise,
    "myelin.softmax": _last_axis,
    "myelin.without_token": _without_token,
    "nn.avg_pool2d": _pool2d,
    "nn.conv2d": _conv2d,
    "nn.conv2d_transpose": _conv2d_transpose,
    "nn.max_pool2d": _pool2d,
    "nn.relu": _elementwise,
    "permute_dims": _permute_dims,
    "reshape": _reshape,
    "sigmoid": _elementwise,
    "split": _split,
    "subtract": _arithmetic,
    "sum": _sum,
    "tanh": _elementwise,
}


def parametric_layers(function: relax.Function, names: tuple[str, ...]) -> tuple[Layer, ...]:
    """The layers of a forward function, in order of their parameters.

    The function is ``(features, *parameters, *masks) → logits``; the parameters have ``names``.

    Guarantee: every operator in the function acts on each example by itself, along the first axis, so row i
    of the logits depends on row i of the features and of the masks only.

    Raises:
        BuildError: an operator that mixes examples or has no rule, a parameter that is used otherwise than by
            a layer that has a rule, or never. The message names it and says what to use instead.
    """
    reader = _Reader(function, names)
    return tuple(reader.layers[index] for index in sorted(reader.layers))
