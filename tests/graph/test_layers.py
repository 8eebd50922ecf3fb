"""What the reader of forward functions takes and refuses: mixed examples, parameters without a rule."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tvm import relax
from tvm.relax.frontend.nn import op, wrap_nested

from myelin.errors import BuildError
from myelin.graph import differentiate, forward_function, parametric_layers
from myelin.model import SGD, Job, nn
from myelin.model.functional import apply


class Flexible(nn.Module):
    """A linear layer, then whatever ``body`` does."""

    def __init__(self, body: Callable[[Any, Any], Any], **parts: Any) -> None:
        self.first = nn.Linear(6, 6)
        for name, part in parts.items():
            setattr(self, name, part)
        self.body = body

    def forward(self, features: Any) -> Any:
        return self.body(self, self.first(features))


def build(body: Callable[[Any, Any], Any], **parts: Any) -> None:
    plan = SimpleNamespace(capacity=8, microbatch=4, noise_multiplier=1.0, clipping_norm=1.0)
    schema = SimpleNamespace(shape=(6,), label=SimpleNamespace(classes=tuple("abcdef")))
    differentiate(Job("j", lambda: Flexible(body, **parts), "cross_entropy", SGD(0.1), plan, schema))


def test_the_layers_of_a_convolutional_network() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.conv = nn.Conv2D(2, 4, 3, stride=2, padding=1, groups=2)
            self.out = nn.Linear(4 * 2 * 2, 3)

        def forward(self, x: Any) -> Any:
            return self.out(nn.flatten(nn.max_pool2d(nn.relu(self.conv(x)), 2, 1)) * 0.5)

    function, names = forward_function(Net(), 5, (2, 5, 5), 3)
    layers = parametric_layers(function, names)
    assert names == ("conv.weight", "conv.bias", "out.weight", "out.bias")
    assert [(x.kind, x.name, x.shape) for x in layers] == [
        ("conv2d", "conv.weight", (4, 1, 3, 3)),
        ("bias", "conv.bias", (4,)),
        ("linear", "out.weight", (3, 16)),
        ("bias", "out.bias", (3,)),
    ]
    (conv,), (bias,) = layers[0].uses, layers[1].uses
    assert (conv.strides, conv.padding, conv.groups, bias.axis) == ((2, 2), (1, 1, 1, 1), 2, 1)
    assert conv.input is not None
    assert conv.input.same_as(function.params[0])


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "batch norm": (
        lambda _, x: wrap_nested(
            relax.TupleGetItem(
                relax.op.nn.batch_norm(x._expr, *[relax.op.ones((6,), "float32")] * 4, axis=1), 0
            ),
            "norm",
        ),
        "nn.batch_norm|ones",
    ),
    "sum over the batch": (
        lambda _, x: x - op.sum(x, axis=0, keepdims=True),
        "operator sum .*nn.mean over other axes",
    ),
    "transposed data": (lambda _, x: op.reshape(op.permute_dims(x, [1, 0]), (4, 6)), "operator permute_dims"),
    "batch folded away": (
        lambda _, x: op.reshape(op.reshape(x, (2, 12)), (4, 6)),
        "operator reshape .*batch must",
    ),
    "product over the batch": (
        lambda _, x: op.matmul(op.matmul(x, op.permute_dims(x, [1, 0])), x),
        "operator permute_dims .*batch must stay",
    ),
    "product of examples": (
        lambda _, x: op.matmul(op.matmul(x, op.reshape(x, (6, 4))), x),
        "operator reshape .*batch must",
    ),
    "split of the batch": (
        lambda _, x: op.concat(list(op.split(x, 2, axis=0)), 0),
        "operator split .*batch must stay whole",
    ),
    "an index from data": (
        lambda _, x: op.take(x, op.astype(op.reshape(op.split(x, 6, axis=1)[0], (4,)), "int32"), axis=0),
        "operator astype cannot be made private",
    ),
    "mean over the batch": (
        lambda _, x: x - op.sum(x, axis=None) * 0.25,
        "operator sum .*would mix examples",
    ),
    "softmax layer": (lambda _, x: op.softmax(x), "operator nn.softmax .*use the function nn.softmax"),
    "broadcast rows": (
        lambda _, x: op.sum(x + op.reshape(x, (4, 1, 6)), axis=1),
        "operator add .*same shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name: str) -> None:
    body, said = REFUSED[name]
    with pytest.raises(BuildError, match=said):
        build(body)


def test_a_bare_parameter_is_refused() -> None:
    with pytest.raises(BuildError, match="operator subtract on parameter scale cannot be made private"):
        build(lambda net, x: x - net.scale, scale=nn.Parameter((6,)))


def test_a_parameter_used_twice_is_one_layer_with_two_uses() -> None:
    model = Flexible(lambda net, x: net.first(nn.tanh(x)))
    layers = parametric_layers(*forward_function(model, 4, (6,), 6))
    assert [(layer.kind, len(layer.uses)) for layer in layers] == [("linear", 2), ("bias", 2)]
    first, second = layers[0].uses
    assert not first.output.same_as(second.output)


def test_a_table_that_is_a_weight_too_is_a_shared_layer() -> None:
    def body(net: Any, x: Any) -> Any:
        return net.table.logits(nn.mean(net.table(x), 1))

    model = Flexible(body, table=nn.Embedding(6, 6))
    *_, table = parametric_layers(*forward_function(model, 4, (6,), 6))
    assert (table.kind, [use.kind for use in table.uses]) == ("shared", ["embedding", "linear"])


def test_the_recurrent_weight_is_a_linear_layer_at_the_gates() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.lstm = nn.LSTM(2, 3)

        def forward(self, x: Any) -> Any:
            return nn.step(self.lstm(x), -1)

    layers = parametric_layers(*forward_function(Net(), 4, (5, 2), 3))
    assert [(layer.kind, layer.shape) for layer in layers] == [
        ("linear", (12, 2)),
        ("bias", (12,)),
        ("linear", (12, 3)),
    ]
    bias, recurrent = layers[1].uses[0], layers[2].uses[0]
    assert bias.output.same_as(recurrent.output)
    assert recurrent.field == 1


def test_an_unused_layer_is_refused() -> None:
    with pytest.raises(BuildError, match=r"parameter spare\.weight: the model never uses it"):
        build(lambda _, x: x, spare=nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [({"dilation": (2, 2)}, "cannot be dilated"), ({"kernel_layout": "OIHW"}, "layout must be NCHW")],
)
def test_transposed_convolutions_of_another_form_are_refused(numbers: Any, said: str) -> None:
    def body(net: Any, x: Any) -> Any:
        image = nn.reshape(x, 1, 2, 3)
        made = relax.op.nn.conv2d_transpose(image._expr, net.kernel._expr, **numbers)
        return nn.flatten(wrap_nested(made, "transposed"))

    with pytest.raises(BuildError, match=f"nn.conv2d_transpose on parameter kernel .*{said}"):
        build(body, kernel=nn.Parameter((1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda _, x: op.reshape(x, (4, 3, 2)), r"expected logits of shape \[4, 6\]"),
        (lambda _, x: x.nothing, "cannot be traced on features .*AttributeError"),
    ],
)
def test_models_of_the_wrong_form_are_refused(body: Callable[[Any, Any], Any], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        build(body)


def test_a_model_that_is_no_module_is_refused() -> None:
    with pytest.raises(BuildError, match=r"made a int; expected an instance of myelin.model.nn.Module"):
        forward_function(3, 4, (6,), 6)


def test_half_precision_parameters_are_refused() -> None:
    with pytest.raises(BuildError, match=r"parameter extra.weight: expected dtype float32, got float16"):
        build(
            lambda net, x: net.extra(x.astype("float16")).astype("float32"),
            extra=nn.Linear(6, 6, bias=False, dtype="float16"),
        )


def test_gates_that_something_else_reads_are_refused() -> None:
    """The gradient there would be that of both readers, and the recurrent weight's too large or too small."""

    class Net(nn.Module):
        def __init__(self) -> None:
            self.gates, self.recurrent = nn.Linear(2, 12), nn.Parameter((12, 3))

        def forward(self, x: Any) -> Any:
            gates = self.gates(x)
            hidden = apply("lstm", [gates, self.recurrent])[0]
            return nn.step(hidden, 0) + nn.mean(nn.reshape(gates, 5, 4, 3), (1, 2))

    function, names = forward_function(Net(), 4, (5, 2), 3)
    with pytest.raises(BuildError, match=r"myelin\.lstm on parameter recurrent .*use nn\.LSTM"):
        parametric_layers(function, names)
