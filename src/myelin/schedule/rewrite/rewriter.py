"""Copies a function binding by binding, and keeps values in the order of axes that kernels want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import relax, tirx
from tvm.relax import op

from ...graph.relax_ir import shape_of
from .. import kernels
from ..kernels import Machine

if TYPE_CHECKING:
    from .convolution import Waiting
    from .layout import View
    from .products import Pending

# Storage orders, as permutations of the logical axes: images [m, c, h, w], kernels [m, o, c, u, v].
CHANNEL_LAST = {4: (0, 2, 3, 1), 5: (0, 3, 4, 2, 1)}


def inverse_order(order: Sequence[int]) -> list[int]:
    """The permutation that undoes ``order``."""
    return [list(order).index(axis) for axis in range(len(order))]


def integers(values: Sequence[object]) -> tuple[int, ...]:
    """A shape, stride or padding as plain numbers."""
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

    ``plain`` holds values in logical order, ``last`` in channel-last order; a value may be in both. ``later``
    holds what makes a plain value when it is first asked for: nothing, if a kernel can do without. ``views``
    are values known as strides over others, ``pending`` products that can still take in what follows.
    ``awaited`` is ``later`` for channel-last values, ``waiting`` convolutions that can still take in what
    follows, ``norms`` makes the norms of a kept gradient together with it, ``fields`` are the results of
    calls that have several, each with its order, and ``sums`` those over the pixels of images' products.
    ``parts`` are the views that a tensor was cut into, and what makes them tensors.
    ``slopes`` are derivatives that a kernel gave together with its result, by argument and approximation.
    ``calls`` are the calls that old variables stand for, ``families`` the functions of those that are of a
    family, ``uses`` how often each is read, and ``weights`` the
    new variables that depend on parameters only.
    """

    def __init__(self, builder: relax.BlockBuilder, machine: Machine) -> None:
        self.builder, self.machine = builder, machine
        self.plain: dict[relax.Var, relax.Expr] = {}
        self.last: dict[relax.Var, relax.Expr] = {}
        self.later: dict[relax.Var, Callable[[], relax.Expr]] = {}
        self.views: dict[relax.Var, View] = {}
        self.pending: dict[relax.Var, Pending] = {}
        self.awaited: dict[relax.Var, Callable[[], relax.Expr]] = {}
        self.waiting: dict[relax.Var, Waiting] = {}
        self.norms: dict[relax.Var, Callable[[], relax.Expr]] = {}
        self.fields: dict[relax.Var, tuple[tuple[str, relax.Expr], ...]] = {}
        self.sums: dict[tuple[relax.Expr, ...], relax.Expr] = {}
        self.parts: dict[relax.Var, list[tuple[View, Callable[[], relax.Expr]]]] = {}
        self.slopes: dict[tuple[relax.Var, str], relax.Expr] = {}
        self.families: dict[relax.Var, tirx.PrimFunc] = {}
        self.made: dict[tuple[object, ...], relax.Expr] = {}
        self.calls: dict[relax.Var, relax.Call] = {}
        self.uses: dict[relax.Var, int] = {}
        self.weights: set[relax.Var] = set()

    def emit(self, value: relax.Expr) -> relax.Expr:
        """Bind a value to a new variable."""
        return self.builder.emit(value)

    def call(self, function: tirx.PrimFunc, inputs: Sequence[relax.Expr]) -> relax.Expr:
        """Call a hand-written kernel; its first output is the result, the others are scratch."""
        return self.call_all(function, inputs)[0]

    def call_all(self, function: tirx.PrimFunc, inputs: Sequence[relax.Expr]) -> list[relax.Expr]:
        """Call a hand-written kernel, and give all of its outputs."""
        whole, count = self.call_whole(function, inputs), len(function.params) - len(inputs)
        return [whole] if count == 1 else [self.emit(relax.TupleGetItem(whole, i)) for i in range(count)]

    def call_whole(self, function: tirx.PrimFunc, inputs: Sequence[relax.Expr]) -> relax.Expr:
        """Call a hand-written kernel; several outputs are a tuple."""
        variable = self.builder.add_func(function, str(function.attrs["myelin.kernel"]))
        outputs = list(function.params)[len(inputs) :]
        types = [relax.TensorType(integers(out.shape), str(out.dtype)) for out in outputs]
        type_ = types if len(types) > 1 else types[0]
        return self.emit(relax.call_tir(variable, relax.Tuple(list(inputs)), type_))

    def once(self, key: object, function: tirx.PrimFunc, inputs: Sequence[relax.Expr]) -> relax.Expr:
        """Call a hand-written kernel of one output, or give what the same call has made before.

        ``key`` says what the function is.
        """
        place = (key, *inputs)
        if place not in self.made:
            self.made[place] = self.call(function, inputs)
        return self.made[place]

    def get_plain(self, var: relax.Expr) -> relax.Expr:
        """A value in logical order."""
        if not isinstance(var, relax.Var):
            return var
        if var in self.later:
            self.plain[var] = self.later.pop(var)()
        if var not in self.plain:
            order = inverse_order(CHANNEL_LAST[len(shape_of(var))])
            self.plain[var] = self.reorder(self.get_last(var), order)
        return self.plain[var]

    def get_last(self, var: relax.Var) -> relax.Expr:
        """A value in channel-last order."""
        if var in self.awaited:
            self.last[var] = self.awaited.pop(var)()
        if var not in self.last:
            made = self._reshaped_last(var)
            if made is None:
                made = self.reorder(self.get_plain(var), CHANNEL_LAST[len(shape_of(var))])
            self.last[var] = made
        return self.last[var]

    def _reshaped_last(self, var: relax.Var) -> relax.Expr | None:
        """Images that are another tensor's elements in order, from that tensor: no copy between."""
        view, shape = self.views.get(var), shape_of(var)
        if view is None or len(shape) != 4 or var in self.plain or not view.is_packed:
            return None
        source = shape_of(view.source)
        function = kernels.image_order(self.machine, shape, True, source)
        return self.call(function, [self.get_plain(view.source)])

    def is_last(self, var: relax.Expr) -> bool:
        """Whether a value is channel-last, or will be when it is made."""
        return var in self.last or var in self.awaited

    def take_field(self, var: relax.Var, value: relax.TupleGetItem) -> bool:
        """Note one result of a call that has several, if a rule took the call."""
        if value.tuple_value in self.parts:
            self.views[var], self.later[var] = self.parts[value.tuple_value][int(value.index)]
            return True
        if value.tuple_value not in self.fields:
            return False
        order, field = self.fields[value.tuple_value][int(value.index)]
        (self.last if order == "last" else self.plain)[var] = field
        return True

    def reorder(self, value: relax.Expr, order: Sequence[int]) -> relax.Expr:
        """Permute axes; a reshape where only axes of length one move."""
        shape = shape_of(value)
        moved = [axis for axis in order if shape[axis] > 1]
        if moved == sorted(moved):
            return self.emit(op.reshape(value, tuple(shape[axis] for axis in order)))
        if tuple(order) in (CHANNEL_LAST[4], tuple(inverse_order(CHANNEL_LAST[4]))):
            is_last = tuple(order) == CHANNEL_LAST[4]
            return self.call(kernels.image_order(self.machine, shape, is_last), [value])
        return self.emit(op.permute_dims(value, list(order)))


Rule = Callable[[Site], bool]
"""Takes a binding if it can: emits its kernels and notes the result in the rewriter."""

FamilyRule = Callable[[Site, tirx.PrimFunc], bool]
"""A rule of a family: the function is the family's reference body, with its attributes."""
