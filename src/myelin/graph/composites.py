"""Composite operators: the gradient of each and its lowering to a PrimFunc of a family, joined in one table.

A composite is an operator ``myelin.…`` (:mod:`myelin.model.operators`) whose gradient is written by hand, and
which a scheduler can replace by one kernel. The families, each with its operands in order, inputs first:

================================== ============================================================= ===========
family                             operands                                                      attributes
================================== ============================================================= ===========
``norm.normalise``                 x [..., n], normal [..., n], rstd [...]                       epsilon
``norm.normalise_gradient``        gradient, normal [..., n], rstd [...], result [..., n]
``norm.group_normalise``           x [m, c, h, w], normal [m, c, h, w], rstd [m, groups]         groups,
                                                                                                 epsilon
``norm.group_normalise_gradient``  gradient, normal [m, c, h, w], rstd [m, groups], result       groups
``norm.rms_normalise``             as norm.normalise, without the mean                            epsilon
``norm.rms_normalise_gradient``    as norm.normalise_gradient
``activation.gelu``                x, y                                                          approximate
``activation.gelu_gradient``       gradient, x, result                                           approximate
``softmax``                        x [..., n], y [..., n]: over the last axis
``softmax_gradient``               gradient, y, result [..., n]
``embedding.gather``               weight [v, d], tokens [m, t], y [m, t, d]
``lstm.sequence``                  gates [m, t, 4h], transposed [h, 4h], hidden, previous, cells
                                   [m, t, h], activations [m, t, 4h]
``lstm.sequence_gradient``         gradient [m, t, h], cells [m, t, h], activations [m, t, 4h],
                                   recurrent [4h, h], result [m, t, 4h]
``embedding.without_token``        x [m, t, d], tokens [m, t], result [m, t, d]                  token
``gru.sequence``                   gates, added [m, t, 3h], transposed [h, 3h], hidden, previous
                                   [m, t, h], activations [m, t, 4h]
``gru.sequence_gradient``          gradient, previous [m, t, h], activations [m, t, 4h],
                                   recurrent [3h, h], of gates, of product [m, t, 3h]
``sequence.step``                  x [m, t, d], y [m, d]                                         index
``sequence.step_gradient``         gradient [m, d], result [m, t, d]                             index
``conv2d.dilated_data_gradient``   gradient [m, o, …], weight [o, c / groups, u, v], result
                                   [m, c, …]
``loss.cross_entropy_seed``        probabilities [m, classes], labels int32 [m], seed
``loss.binary_cross_entropy_seed`` outputs [m, 1], labels int32 [m], seed
``loss.squared_error_seed``        outputs [m, 1], labels float32 [m], seed
``loss.huber_seed``                outputs [m, 1], labels float32 [m], seed
``update.learning_rate``           step_number int32 [1], rate [1]; keep [1] if weights decay
``update.bias_correction``         step_number int32 [1], first [1], second [1]
``update.average``                 step_number int32 [1], share [1]
================================== ============================================================= ===========

All float32 but what is said to be int32; m is the batch. What each computes is said where it is defined.
Families of per-example gradients, norms and sums are listed in :mod:`myelin.privacy.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax
from tvm.relax.op.base import register_gradient

from myelin.model.operators import PREFIX

from . import activations, convolution, gated, normalisation, recurrence, sequences
from .relax_ir import op_name, substitute

__all__ = ["LoweredCopy", "lowered"]

_GROUPS = (activations, convolution, gated, normalisation, recurrence, sequences)
_LOWER: Mapping[str, Callable[[relax.BlockBuilder, relax.Call], tuple[relax.Expr, ...]]] = {
    f"{PREFIX}{name}": rule for group in _GROUPS for name, rule in group.LOWER.items()
}
for _group in _GROUPS:
    for _name, _rule in _group.GRADIENTS.items():
        register_gradient(f"{PREFIX}{_name}", _rule)


def lowered(builder: relax.BlockBuilder, value: relax.Expr, name: str) -> tuple[relax.Expr, ...]:
    """Emit ``value`` under a name like ``name``: a composite as a call of its family, all else as it is.

    A composite of several results gives them all, anything else one value.
    """
    lower = _LOWER.get(op_name(value))
    return (builder.emit(value, name_hint=name),) if lower is None else lower(builder, value)


class LoweredCopy:
    """Copies bindings of a function into a builder: composites become families, tuples are taken apart.

    ``new`` has a value for every variable that was copied and is no tuple, ``tuples`` for those that are.
    """

    def __init__(self, builder: relax.BlockBuilder, new: dict[relax.Var, relax.Expr]) -> None:
        """``new`` gives the values of the function's parameters, and is added to."""
        self.builder, self.new = builder, new
        self.tuples: dict[relax.Var, relax.Tuple] = {}

    def copy(self, binding: relax.VarBinding) -> None:
        """Emit one binding."""
        value, var, new = binding.value, binding.var, self.new
        if isinstance(value, relax.Tuple):  # is only ever taken apart again
            self.tuples[var] = substitute(value, new)
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
            new[var] = self.tuples[value.tuple_value].fields[value.index]
        elif isinstance(value, relax.Var):
            new[var] = new[value]
        else:
            if isinstance(value, relax.Call):
                arguments = [self.tuples.get(argument, argument) for argument in value.args]
                value = relax.Call(value.op, arguments, value.attrs, value.ty_args)
            results = lowered(self.builder, substitute(value, new), var.name)
            if len(results) == 1:
                new[var] = results[0]
            else:
                self.tuples[var] = relax.Tuple(list(results))
