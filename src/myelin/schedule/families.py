"""Replace the operators that matter by hand-written kernels, and keep images channel-last between them.

A pass over one Relax function. A four- or five-dimensional value that a kernel makes channel-last stays so
through elementwise operators, pooling, norms and sums; it is transposed only where something else reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import ir, relax, tirx
from tvm.ir import IRModule
from tvm.relax import op

from ..graph.relax_ir import FAMILY, bindings_of, emit_function, op_name, shape_of, substitute, tensor
from ..privacy.clipping import kept_norm
from ..privacy.strategy import kept_sum
from . import kernels
from .kernels import Machine

# Storage orders, as permutations of the logical axes: images [m, c, h, w], kernels [m, o, c, u, v].
_LAST = {4: (0, 2, 3, 1), 5: (0, 3, 4, 2, 1)}

_ELEMENTWISE = (
    *("abs", "add", "divide", "exp", "greater", "less", "maximum", "minimum", "multiply", "negative"),
    *("nn.relu", "sigmoid", "sqrt", "subtract", "tanh", "where"),
)


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(axis) for axis in range(len(order))]


def _ints(values: Sequence[object]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Site:
    """A binding's call, and the function around it."""

    rewriter: Rewriter
    var: relax.Var
    call: relax.Call

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape of the result."""
        return shape_of(self.var)


class Rewriter:
    """Copies a function, binding by binding.

    ``plain`` holds values in logical order, ``last`` in channel-last order; a value may be in both.
    """

    def __init__(self, builder: relax.BlockBuilder, machine: Machine) -> None:
        self.builder, self.machine = builder, machine
        self.plain: dict[relax.Var, relax.Expr] = {}
        self.last: dict[relax.Var, relax.Expr] = {}
        self.padded: dict[tuple[object, tuple[int, ...]], relax.Expr] = {}

    def emit(self, value: relax.Expr) -> relax.Expr:
        """Bind a value to a new variable."""
        return self.builder.emit(value)

    def call(self, function: tirx.PrimFunc, inputs: Sequence[relax.Expr]) -> relax.Expr:
        """Call a hand-written kernel of one output."""
        name = str(function.attrs["myelin.kernel"])
        variable = self.builder.add_func(function, name)
        out = function.params[len(inputs)]
        type_ = relax.TensorType(_ints(out.shape), str(out.dtype))
        return self.emit(relax.call_tir(variable, relax.Tuple(list(inputs)), type_))

    def get_plain(self, var: relax.Expr) -> relax.Expr:
        """A value in logical order."""
        if not isinstance(var, relax.Var):
            return var
        if var not in self.plain:
            order = _inverse(_LAST[len(shape_of(var))])
            self.plain[var] = self.reorder(self.last[var], order)
        return self.plain[var]

    def get_last(self, var: relax.Var) -> relax.Expr:
        """A value in channel-last order."""
        if var not in self.last:
            self.last[var] = self.reorder(self.plain[var], _LAST[len(shape_of(var))])
        return self.last[var]

    def reorder(self, value: relax.Expr, order: Sequence[int]) -> relax.Expr:
        """Permute axes; a reshape where only axes of length one move."""
        shape = shape_of(value)
        moved = [axis for axis in order if shape[axis] > 1]
        if moved == sorted(moved):
            return self.emit(op.reshape(value, tuple(shape[axis] for axis in order)))
        return self.emit(op.permute_dims(value, list(order)))

    def pad(self, value: relax.Expr, padding: tuple[int, ...]) -> relax.Expr:
        """Zeros around a channel-last value; the same padding of the same value is made once."""
        if not any(padding):
            return value
        key = (value, padding)
        if key not in self.padded:
            self.padded[key] = self.call(kernels.pad(self.machine, shape_of(value), padding), [value])
        return self.padded[key]


def _conv2d(site: Site) -> bool:
    r, attrs = site.rewriter, site.call.attrs
    if int(attrs.groups) != 1 or _ints(attrs.dilation) != (1, 1) or str(attrs.data_layout) != "NCHW":
        return False
    data, weight = site.call.args
    x = r.pad(r.get_last(data), _ints(attrs.padding))
    k = r.reorder(r.get_plain(weight), (2, 3, 1, 0))
    function = kernels.conv2d(r.machine, shape_of(x), shape_of(k), _ints(attrs.strides))
    r.last[site.var] = r.call(function, [x, k])
    return True


def _conv2d_transpose(site: Site) -> bool:
    r, attrs = site.rewriter, site.call.attrs
    if int(attrs.groups) != 1 or _ints(attrs.dilation) != (1, 1) or str(attrs.data_layout) != "NCHW":
        return False
    gradient, weight = site.call.args
    m, c, h, w = site.shape
    _, _, p, q = shape_of(gradient)
    u, v = shape_of(weight)[2:]
    strides, (top, left, _, _) = _ints(attrs.strides), _ints(attrs.padding)
    above, below = kernels.gradient_padding(h, u, strides[0], top, p)
    before, after = kernels.gradient_padding(w, v, strides[1], left, q)
    g = r.pad(r.get_last(gradient), (above, before, below, after))
    k = r.reorder(r.get_plain(weight), (2, 3, 0, 1))
    function = kernels.conv2d_data_gradient(
        r.machine, shape_of(g), shape_of(k), (m, h, w, c), strides, (top, left), (above, before)
    )
    r.last[site.var] = r.call(function, [g, k])
    return True


def _conv2d_weight_gradient(site: Site, function: tirx.PrimFunc) -> bool:
    r, attrs = site.rewriter, function.attrs
    if int(attrs["myelin.groups"]) != 1:
        return False
    data, gradient = site.call.args[1].fields
    x = r.pad(r.get_last(data), _ints(attrs["myelin.padding"]))
    g = r.get_last(gradient)
    kernel = kernels.conv2d_weight_gradient(
        r.machine, shape_of(x), shape_of(g), site.shape[3:], _ints(attrs["myelin.strides"])
    )
    r.last[site.var] = r.call(kernel, [x, g])
    return True


def _pools(
    site: Site, data: relax.Expr, output: relax.Expr
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Window and strides, if every window is wholly inside."""
    attrs = site.call.attrs
    window, strides = _ints(attrs.pool_size), _ints(attrs.strides)
    inside = all(
        (places - 1) * stride + size <= length
        for length, places, size, stride in zip(
            shape_of(data)[2:], shape_of(output)[2:], window, strides, strict=True
        )
    )
    plain = str(attrs.layout) == "NCHW" and not any(_ints(attrs.padding)) and _ints(attrs.dilation) == (1, 1)
    return (window, strides) if inside and plain else None


def _max_pool2d(site: Site) -> bool:
    r, (data,) = site.rewriter, site.call.args
    pools = _pools(site, data, site.var)
    if pools is None:
        return False
    x = r.get_last(data)
    m, c, p, q = site.shape
    r.last[site.var] = r.call(kernels.max_pool2d(r.machine, shape_of(x), (m, p, q, c), *pools), [x])
    return True


def _max_pool2d_backward(site: Site) -> bool:
    r, (gradient, data) = site.rewriter, site.call.args
    pools = _pools(site, data, gradient)
    if pools is None:
        return False
    g, x = r.get_last(gradient), r.get_last(data)
    r.last[site.var] = r.call(
        kernels.max_pool2d_gradient(r.machine, shape_of(x), shape_of(g), *pools), [g, x]
    )
    return True


def _elementwise(site: Site) -> bool:
    """Stay channel-last if an argument is, and all others can be."""
    r, rank = site.rewriter, len(site.shape)
    arguments = list(site.call.args)
    if rank not in _LAST or not any(
        a in r.last and shape_of(a) == site.shape for a in arguments if isinstance(a, relax.Var)
    ):
        return False
    new: list[relax.Expr] = []
    for argument in arguments:
        if not shape_of(argument):
            new.append(argument)
        elif isinstance(argument, relax.Var) and len(shape_of(argument)) == rank:
            new.append(r.get_last(argument))
        else:
            return False
    r.last[site.var] = r.emit(relax.Call(site.call.op, new, site.call.attrs, site.call.ty_args))
    return True


def _sum(site: Site) -> bool:
    r, (data,), attrs = site.rewriter, site.call.args, site.call.attrs
    if data not in r.last or attrs.axis is None or bool(attrs.keepdims):
        return False
    order = _LAST[len(shape_of(data))]
    axes = [order.index(int(axis) % len(order)) for axis in attrs.axis]
    left = [axis for place, axis in enumerate(order) if place not in axes]
    if left != sorted(left):
        return False
    r.plain[site.var] = r.emit(op.sum(r.last[data], axis=axes))
    return True


def _matmul(site: Site) -> bool:
    r, (left, right) = site.rewriter, site.call.args
    a, b = shape_of(left), shape_of(right)
    if len(a) < 2 or len(b) < 2 or str(site.var.ty.dtype) != "float32":
        return False
    if a[:-2] == b[:-2]:
        shared_left = shared_right = False
    elif len(a) == 2 or len(b) == 2:
        shared_left, shared_right = len(a) == 2, len(b) == 2
    else:
        return False
    function = kernels.gemm(r.machine, a, b, shared_left, shared_right)
    r.plain[site.var] = r.call(function, [r.get_plain(left), r.get_plain(right)])
    return True


def _kept_norm(site: Site, _function: tirx.PrimFunc) -> bool:
    r, (kept,) = site.rewriter, site.call.args[1].fields
    if kept not in r.last:
        return False
    r.plain[site.var] = kept_norm(r.builder, r.last[kept])
    return True


def _kept_sum(site: Site, _function: tirx.PrimFunc) -> bool:
    r, (kept, coefficients) = site.rewriter, site.call.args[1].fields
    if kept not in r.last:
        return False
    total = kept_sum(r.builder, r.last[kept], r.get_plain(coefficients))
    order = [axis - 1 for axis in _inverse(_LAST[len(shape_of(kept))])[1:]]
    r.plain[site.var] = r.reorder(total, order)
    return True


_OPERATORS: dict[str, Callable[[Site], bool]] = {
    "grad.max_pool2d_backward": _max_pool2d_backward,
    "matmul": _matmul,
    "nn.conv2d": _conv2d,
    "nn.conv2d_transpose": _conv2d_transpose,
    "nn.max_pool2d": _max_pool2d,
    "sum": _sum,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
}

_FAMILIES: dict[str, Callable[[Site, tirx.PrimFunc], bool]] = {
    "gradient.conv2d": _conv2d_weight_gradient,
    "norm.kept": _kept_norm,
    "sum.kept": _kept_sum,
}


def _rewritten(module: IRModule, site: Site) -> bool:
    """Whether a rule took the binding."""
    name = op_name(site.call)
    if name != "call_tir":
        rule = _OPERATORS.get(name)
        return rule is not None and rule(site)
    function = module[site.call.args[0]]
    family = str((function.attrs or {}).get(FAMILY, ""))
    return family in _FAMILIES and _FAMILIES[family](site, function)


def use_kernels(module: IRModule, names: Sequence[str], machine: Machine) -> IRModule:
    """Rewrite the Relax functions ``names`` so that they call hand-written kernels wherever one fits."""
    others = {v: f for v, f in module.functions.items() if v.name_hint not in names}
    builder = relax.BlockBuilder(IRModule(others))
    for name in names:
        function = module[name]
        rewriter = Rewriter(builder, machine)
        parameters = [
            relax.Var(var.name, tensor(shape_of(var), str(var.ty.dtype))) for var in function.params
        ]
        rewriter.plain.update(zip(function.params, parameters, strict=True))

        def body(function: relax.Function = function, rewriter: Rewriter = rewriter) -> list[relax.Expr]:
            for binding in bindings_of(function):
                value, var = binding.value, binding.var
                is_call = isinstance(value, relax.Call) and isinstance(value.op, ir.Op)
                if is_call and _rewritten(module, Site(rewriter, var, value)):
                    continue
                if var.same_as(function.body.body):
                    return [rewriter.get_plain(field) for field in value.fields]
                known = {v: rewriter.get_plain(v) for v in _variables(value)}
                rewriter.plain[var] = rewriter.emit(substitute(value, known))
            return [rewriter.get_plain(field) for field in function.body.body.fields]

        emit_function(builder, name, parameters, body)
    return relax.transform.DeadCodeElimination(list(names))(builder.finalize())


def _variables(value: relax.Expr) -> list[relax.Var]:
    """The variables that an expression reads."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [v for item in value.fields for v in _variables(item)]
    if isinstance(value, relax.TupleGetItem):
        return _variables(value.tuple_value)
    if isinstance(value, relax.Call):
        return [v for item in value.args for v in _variables(item)]
    return []
