"""What a layer is, to privacy: one parameter, and every place of the forward function that uses it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

__all__ = ["Layer", "Use"]


@dataclass(frozen=True)
class Use:
    """One operator that uses a parameter.

    Attributes:
        output: variable of the operator's result: the parameter's gradient is made from the gradient there.
        input: variable of the data that it is made from besides; None where there is none.
        field: which value of ``input``, where that is a tuple.
        kind: of layer, as of :class:`Layer`: which rule the gradient of this use has.
        axis: for a bias and a scale, the axis of the output that it lies along.
        strides: for a convolution, (height, width).
        padding: for a convolution, (top, left, bottom, right).
        groups: for a convolution.
        dilation: for a convolution, (height, width).
    """

    output: relax.Var
    input: relax.Var | None = None
    field: int | None = None
    axis: int = 1
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)
    kind: str = ""


@dataclass(frozen=True)
class Layer:
    """One parameter and the operators that use it.

    Attributes:
        kind: names the family of rules: ``"linear"`` (input, gradient: products with a weight, a recurrent
            one included), ``"product"`` (the same with a weight [in, out]), ``"conv2d"``,
            ``"conv2d_transpose"``, ``"embedding"`` (input: tokens), ``"scale"`` (input: what is scaled),
            ``"bias"`` and ``"position"`` (no input); ``"shared"`` where uses are of several kinds.
        name: of the parameter, as in the model (``"hidden.weight"``).
        parameter: index of the parameter.
        shape: of the parameter.
        uses: at least one; the gradient is the sum over them.
    """

    kind: str
    name: str
    parameter: int
    shape: tuple[int, ...]
    uses: tuple[Use, ...]
