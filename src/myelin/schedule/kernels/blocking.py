"""How a product is cut: pure numbers, from its sizes and strides and the machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from .emit import Cut, Machine, balanced, cuts
from .panels import STRIP_VECTORS, Factor, Strips

#: Most steps of k in one go: what a block of rows reads of the left factor stays near the processor.
_DEPTH_MAX = 1024
#: The same where the left factor lies the other way round, by lanes: each step is then on another page.
_TURNED_DEPTH_MAX = {8: 256, 16: 512}
#: Most elements of a group of blocks of rows that is copied in one go, by lanes.
_GROUP_ELEMENTS = {8: 16384, 16: 65536}
#: Most elements of a packed block of the right factor: half a second-level cache.
_BLOCK_ELEMENTS = 131072
#: Most elements of a strip that stays in a first-level cache beside what goes by: half of one.
_STRIP_ELEMENTS = 4096
#: So many sums at once keep two adders of four cycles busy.
_CHAINS = 8
#: Rows whose distance in elements is a multiple of this fall on few sets of a first-level cache.
_ALIASED = 256
#: As many rows still are in a first-level cache at once, wherever they lie.
_WAYS = 8
#: Fewer columns than this are not worth copying a block of rows for.
_COPIED_COLUMNS = 64
#: Blocks of rows that are copied together, step by step.
COPIED_BLOCKS = 8
#: Elements between copied rows, so that they do not.
_PADDING = 16


@dataclass(frozen=True)
class Epilogue:
    """What becomes of a sum: ``sum · scale · factor + bias[column] + residual``, each part if it is given.

    The parts are applied in this order, each rounded.
    """

    scale: float | None = None
    factor: bool = False
    bias: bool = False
    residual: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether sums are stored as they are."""
        return self == Epilogue()


class RowFinish(Enum):
    """What becomes of a row of the result once it is there, in place."""

    NONE = "none"
    SOFTMAX = "softmax"
    SOFTMAX_GRADIENT = "softmax_gradient"


@dataclass(frozen=True)
class Product:
    """``C[*batch] = A[*batch] B[*batch]`` of ``[m, k] × [k, n]``.

    Attributes:
        batch: sizes of the batch axes; every factor has a stride for each.
        m: rows of the left factor.
        k: what is summed over.
        n: columns of the right factor.
        left: the left factor.
        right: the right factor; None if it comes packed by :func:`~.panels.pack`, one for the whole batch.
        target: the result; its column stride is 1.
        epilogue: what is done to a sum.
        weighted: if not zero, step i of k is multiplied by ``coefficients[i // weighted]``, and is left
            out, by selection in both factors, where that is not above 0.
        finish: what is done to a row of the result, which then is packed.
        finish_scale: what the row is multiplied by at last, if not None.
    """

    batch: tuple[int, ...]
    m: int
    k: int
    n: int
    left: Factor
    right: Factor | None
    target: Factor
    epilogue: Epilogue = Epilogue()
    weighted: int = 0
    finish: RowFinish = RowFinish.NONE
    finish_scale: float | None = None

    def __post_init__(self) -> None:
        strides = (self.left.row_stride, self.right.column_stride if self.right else 0)
        if self.weighted and strides != (1, 1):
            raise ValueError(
                f"a weighted product: rows of both factors must be in memory order, got {strides}"
            )


@dataclass(frozen=True)
class Blocking:
    """The cuts of a product for a machine."""

    product: Product
    machine: Machine

    @property
    def strips(self) -> Strips:
        """Strips of columns."""
        return Strips(self.product.n, self.machine.lanes)

    @property
    def height(self) -> int:
        """Rows of a tile of accumulators."""
        vectors = min(STRIP_VECTORS, self.strips.stored // self.machine.lanes)
        most = self.machine.tile_rows(vectors, 14 * STRIP_VECTORS // vectors)
        return balanced(self.product.m, most)

    @property
    def depth(self) -> int:
        """Steps of k of a block."""
        most = _TURNED_DEPTH_MAX[self.machine.lanes] if self.is_turned else _DEPTH_MAX
        return balanced(self.product.k, most)

    @property
    def is_turned(self) -> bool:
        """Whether a column of the left factor, and not a row, is in memory order."""
        left = self.product.left
        return left.row_stride == 1 and (left.column_stride != 1 or self.product.weighted > 0)

    @property
    def block_strips(self) -> int:
        """Strips of a block of columns."""
        most = max(1, _BLOCK_ELEMENTS // (self.depth * self.strips.width))
        return balanced(self.strips.count, most)

    @property
    def strip_stays(self) -> bool:
        """Whether a strip of a block, rather than a block of rows, is kept in a first-level cache."""
        return self.depth * self.strips.width <= _STRIP_ELEMENTS

    @property
    def packs_right(self) -> bool:
        """Whether the kernel packs blocks of the right factor."""
        right = self.product.right
        if right is None:
            return False
        if right.column_stride != 1 or self.product.n % self.machine.lanes or self.product.weighted:
            return True
        return self.product.m > 2 * self.height and right.row_stride != self.strips.width

    @property
    def packs_left(self) -> bool:
        """Whether the kernel copies blocks of the left factor."""
        left = self.product.left
        if self.product.weighted:
            return True
        if self.is_turned:
            return self.product.n >= _COPIED_COLUMNS
        return left.column_stride == 1 and left.row_stride % _ALIASED == 0 and self.height > _WAYS

    @property
    def group(self) -> int:
        """Blocks of rows that are copied in one go."""
        if not self.is_turned:
            return 1
        most = max(1, _GROUP_ELEMENTS[self.machine.lanes] // self.left_block(self.depth))
        return balanced(-(-self.product.m // self.height), most)

    @property
    def right_elements(self) -> int:
        """Scratch for the right factor."""
        if not self.packs_right:
            return 0
        width = min(self.strips.stored, self.block_strips * self.strips.width)
        return _rounded(self.depth * width)

    @property
    def left_elements(self) -> int:
        """Scratch for the left factor."""
        if not self.packs_left:
            return 0
        if self.is_turned:
            return self.group * self.left_block(self.depth)
        return _rounded(self.height * self.left_row)

    @property
    def left_row(self) -> int:
        """Distance of copied rows, or of copied columns if the left factor is turned."""
        if self.is_turned:
            return -(-self.height // self.machine.lanes) * self.machine.lanes
        return self.depth + _PADDING

    def left_block(self, depth: int) -> int:
        """Distance of copied blocks of rows of a turned left factor: off the sets of a cache."""
        return depth * self.left_row + _PADDING

    @property
    def row_cuts(self) -> list[Cut]:
        """Blocks of rows; a last one too low to keep the adders busy shares rows with the one before it."""
        high, (whole, rest) = self.height, divmod(self.product.m, self.height)
        if not whole or not rest or rest * STRIP_VECTORS >= _CHAINS:
            return cuts(self.product.m, high)
        start, low = (whole - 1) * high, balanced(high + rest, high)
        last = (replace(cut, start=cut.start + start) for cut in cuts(high + rest, low))
        return [Cut(0, high, whole - 1), *last] if whole > 1 else list(last)

    @property
    def scratch(self) -> int:
        """Elements of the scratch tensor."""
        return self.right_elements + self.left_elements


def _rounded(elements: int) -> int:
    return -(-elements // 16) * 16
