"""Families of sequence models: rows, activations, recurrence and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax, tirx

from ...graph.relax_ir import shape_of
from .. import kernels
from ..kernels import Machine
from .layout import view_of
from .products import packed
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


def _result(function: tirx.PrimFunc) -> tuple[int, ...]:
    """Shape of a family's last output."""
    return integers(function.params[-1].shape)


def _text(function: tirx.PrimFunc, name: str) -> str:
    return str(function.attrs[f"myelin.{name}"])


OPERATORS: Mapping[str, Rule] = {}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {
    "activation.gelu": _family(lambda m, s, f: kernels.gelu(m, s[0], _text(f, "approximate"))),
    "activation.gelu_gradient": _family(
        lambda m, s, f: kernels.gelu_gradient(m, s[0], _text(f, "approximate"))
    ),
    "embedding.gather": _family(lambda m, s, f: kernels.embedding_gather(m, s[0], s[1])),
    "embedding.scatter": _family(lambda m, s, f: kernels.embedding_sum(m, _result(f), s[0], False)),
    "embedding.segment": _family(
        lambda m, s, f: kernels.embedding_segment(m, s[0], s[1][2], int(_text(f, "vocabulary")))
    ),
    "embedding.sum": _family(lambda m, s, f: kernels.embedding_sum(m, _result(f), s[0], True)),
    "lstm.sequence": _lstm_sequence,
    "lstm.sequence_gradient": _lstm_sequence_gradient,
    "norm.normalise": _family(lambda m, s, f: kernels.normalise(m, s[0], float(_text(f, "epsilon")))),
    "norm.normalise_gradient": _family(lambda m, s, f: kernels.normalise_gradient(m, s[0])),
    "softmax": _family(lambda m, s, f: kernels.softmax(m, s[0])),
    "softmax_gradient": _family(lambda m, s, f: kernels.softmax_gradient(m, s[0])),
}
"""Rules of families, by name."""
