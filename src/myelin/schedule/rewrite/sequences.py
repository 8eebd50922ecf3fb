"""Families of sequence models: rows, activations, recurrence and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax, tirx
from tvm.relax import op

from ...graph.relax_ir import FAMILY, shape_of
from .. import kernels
from ..kernels import Machine
from .layout import view_of
from .products import multiply, packed
from .rewriter import FamilyRule, Rewriter, Rule, Site, integers

_Make = Callable[[Machine, tuple[tuple[int, ...], ...], tirx.PrimFunc], tirx.PrimFunc]


def _family(make: _Make) -> FamilyRule:
    """A family whose kernel reads and writes what the family does, all in logical order.

    ``make`` gets the shapes of its inputs, and the family's function for its attributes.
    """

    def rule(site: Site, function: tirx.PrimFunc) -> bool:
        r, inputs = site.rewriter, list(site.call.args[1].fields)
        kernel = make(r.machine, tuple(shape_of(value) for value in inputs), function)
        r.plain[site.var] = r.call_whole(kernel, [r.get_plain(value) for value in inputs])
        return True

    return rule


def _packed_gates(rewriter: Rewriter, weight: relax.Var) -> relax.Expr:
    """The recurrent weight ``[h, 4h]`` as its kernel reads it, packed by a call of its own."""
    view = view_of(rewriter, weight)
    factor = view.factor(shape_of(view.source), [], 0, 1)
    function = kernels.pack_gates(rewriter.machine, view.shape[0], factor)
    return rewriter.once(("gates", factor), function, [rewriter.get_plain(view.source)])


def _lstm_sequence(site: Site, _function: tirx.PrimFunc) -> bool:
    r, (gates, weight) = site.rewriter, site.call.args[1].fields
    kernel = kernels.lstm_sequence(r.machine, shape_of(gates))
    r.plain[site.var] = r.call_whole(kernel, [r.get_plain(gates), _packed_gates(r, weight)])
    return True


def _lstm_sequence_gradient(site: Site, _function: tirx.PrimFunc) -> bool:
    r, (*values, weight) = site.rewriter, site.call.args[1].fields
    kernel = kernels.lstm_sequence_gradient(r.machine, shape_of(values[2]))
    r.plain[site.var] = r.call(kernel, [*(r.get_plain(value) for value in values), packed(r, weight)])
    return True


def _gelu(site: Site, function: tirx.PrimFunc) -> bool:
    """With its slope, if the gradient asks for that too: both have most of their arithmetic in common."""
    r, (x,), approximate = site.rewriter, site.call.args[1].fields, _text(function, "approximate")
    if not _has_gradient(r, x, approximate):
        r.plain[site.var] = r.call(kernels.gelu(r.machine, site.shape, approximate), [r.get_plain(x)])
        return True
    kernel = kernels.gelu_and_slope(r.machine, site.shape, approximate)
    r.plain[site.var], r.slopes[x, approximate] = r.call_all(kernel, [r.get_plain(x)])
    return True


def _has_gradient(rewriter: Rewriter, x: relax.Var, approximate: str) -> bool:
    return any(
        str((function.attrs or {}).get(FAMILY, "")) == "activation.gelu_gradient"
        and rewriter.calls[var].args[1].fields[1].same_as(x)
        and _text(function, "approximate") == approximate
        for var, function in rewriter.families.items()
    )


def _gelu_gradient(site: Site, function: tirx.PrimFunc) -> bool:
    r, (gradient, x) = site.rewriter, site.call.args[1].fields
    approximate = _text(function, "approximate")
    slope = r.slopes.get((x, approximate))
    if slope is None:
        kernel = kernels.gelu_gradient(r.machine, site.shape, approximate)
        r.plain[site.var] = r.call(kernel, [r.get_plain(gradient), r.get_plain(x)])
    elif not multiply(site, gradient, slope):
        r.plain[site.var] = r.emit(op.multiply(r.get_plain(gradient), slope))
    return True


def _result(function: tirx.PrimFunc) -> tuple[int, ...]:
    """Shape of a family's last output."""
    return integers(function.params[-1].shape)


def _text(function: tirx.PrimFunc, name: str) -> str:
    return str(function.attrs[f"myelin.{name}"])


def _is_hidden(function: tirx.PrimFunc) -> bool:
    """Whether a family's addresses are not to depend on tokens."""
    return bool((function.attrs or {}).get("myelin.hidden", 0))


OPERATORS: Mapping[str, Rule] = {}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {
    "activation.gelu": _gelu,
    "activation.gelu_gradient": _gelu_gradient,
    "embedding.gather": _family(lambda m, s, f: kernels.embedding_gather(m, s[0], s[1], _is_hidden(f))),
    "embedding.scatter": _family(
        lambda m, s, f: kernels.embedding_sum(m, _result(f), s[0], False, _is_hidden(f))
    ),
    "embedding.segment": _family(
        lambda m, s, f: kernels.embedding_segment(
            m, s[0], s[1][2], int(_text(f, "vocabulary")), _is_hidden(f)
        )
    ),
    "embedding.sum": _family(lambda m, s, f: kernels.embedding_sum(m, _result(f), s[0], True, _is_hidden(f))),
    "lstm.sequence": _lstm_sequence,
    "lstm.sequence_gradient": _lstm_sequence_gradient,
    "norm.normalise": _family(lambda m, s, f: kernels.normalise(m, s[0], float(_text(f, "epsilon")))),
    "norm.normalise_gradient": _family(lambda m, s, f: kernels.normalise_gradient(m, s[0])),
    "softmax": _family(lambda m, s, f: kernels.softmax(m, s[0])),
    "softmax_gradient": _family(lambda m, s, f: kernels.softmax_gradient(m, s[0])),
}
"""Rules of families, by name."""
