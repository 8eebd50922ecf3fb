"""Group normalisation of channel-last images ``[m, h, w, c]``, each example by itself.

Sums over an image are taken per channel in :data:`CHAINS` chains of pixels, whatever the target, and then
over the channels of a group in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Piece,
    Register,
    cleared,
    fma,
    kernel,
    load,
    loop,
    store,
    strips,
)
from .taps import Shape

#: Sums of one channel that go on side by side: pixel i is in chain i modulo this.
CHAINS = 4

# Adds to the sums of a pixel's channels: gets the sums, where the pixel is, its first channel, lanes.
Add = Callable[[Sequence[Register], Expr, Expr, int], None]


def _channel_sums(
    machine: Machine, pixels: int, channels: int, start: Expr, sums: Sequence[Register], add: Add
) -> None:
    """Fill ``sums`` (of ``channels`` lanes each) with sums over the pixels of one image."""
    vectors = 2 if len(sums) == 1 else 1
    whole, rest = divmod(pixels, CHAINS)
    for strip in strips(channels, machine.lanes, vectors):
        with loop(strip.count) as s:
            first = strip.start + s * strip.step
            chains = [
                [[cleared(piece.lanes) for _ in sums] for piece in strip.pieces]
                for _ in range(min(CHAINS, pixels))
            ]

            def run(
                pixel: Expr, line: list[list[Register]], pieces: Sequence[Piece], first: Expr = first
            ) -> None:
                for piece, registers in zip(pieces, line, strict=True):
                    channel = first + piece.offset
                    add(registers, start + pixel * channels + channel, channel, piece.lanes)

            if whole:
                with loop(whole) as i:
                    for number, line in enumerate(chains):
                        run(i * CHAINS + number, line, strip.pieces)
            for number in range(rest):
                run(whole * CHAINS + number, chains[number], strip.pieces)
            for place, piece in enumerate(strip.pieces):
                for index, total in enumerate(sums):
                    value = chains[0][place][index].value
                    for line in chains[1:]:
                        value = T.Bind(value + line[place][index].value)
                    total.set_part(first + piece.offset, value, piece.lanes)


def _row(channels: int) -> Register:
    """A small array on the stack: one number per channel."""
    return Register(channels)


def _by_group(channels: int, groups: int, then: Callable[[Expr, Expr], None]) -> None:
    """Call ``then`` with each group and its first channel."""
    with loop(groups) as group:
        then(group, group * (channels // groups))


def _group_sum(row: Register, first: Expr, size: int) -> Expr:
    """Sum of the numbers of a group's channels, in order."""
    total = Register(1)
    total.set(row.lane(first))
    for i in range(1, size):
        total.set(total.value + row.lane(first + i))
    return T.Bind(total.value)


def _fill(row: Register, first: Expr, size: int, value: Expr) -> None:
    for i in range(size):
        row.set_part(first + i, value, 1)


def _each_vector(
    machine: Machine, pixels: int, channels: int, then: Callable[[Expr, Expr, int], None]
) -> None:
    """Call ``then`` with every vector of an image: its place, its first channel, its lanes."""
    for strip in strips(channels, machine.lanes, 4):
        with loop(strip.count) as s, loop(pixels) as pixel:
            for piece in strip.pieces:
                channel = strip.start + s * strip.step + piece.offset
                then(pixel * channels + channel, channel, piece.lanes)


def _mean_of(rows: Sequence[Register], channels: int, groups: int, pixels: int) -> None:
    """Replace each channel's sum by its group's mean."""
    size = channels // groups
    share = tirx.FloatImm("float32", 1.0 / (size * pixels))

    def mean(_group: Expr, first: Expr) -> None:
        for row in rows:
            _fill(row, first, size, T.Bind(_group_sum(row, first, size) * share))

    _by_group(channels, groups, mean)


def group_normalise(machine: Machine, data: Shape, groups: int, epsilon: float) -> tirx.PrimFunc:
    """``[m, h, w, c]`` to normalised ``[m, h, w, c]`` and ``1 / √(variance + epsilon)`` ``[m, groups]``.

    Mean first, then the biased variance of the centred values.
    """
    m, h, w, c = data
    pixels, size = h * w, c // groups

    def body(x: tirx.Buffer, y: tirx.Buffer, rstd: tirx.Buffer) -> None:
        with loop(m, parallel=m * pixels * c >= PARALLEL_WORK // 8) as n:
            start, mean, spread_ = n * (pixels * c), _row(c), _row(c)

            def add(sums: Sequence[Register], at: Expr, _channel: Expr, lanes: int) -> None:
                sums[0].set(sums[0].value + load(x, at, lanes))

            def add_square(sums: Sequence[Register], at: Expr, channel: Expr, lanes: int) -> None:
                centred = T.Bind(load(x, at, lanes) - mean.part(channel, lanes))
                sums[0].add_product(centred, centred)

            _channel_sums(machine, pixels, c, start, [mean], add)
            _mean_of([mean], c, groups, pixels)
            _channel_sums(machine, pixels, c, start, [spread_], add_square)
            _mean_of([spread_], c, groups, pixels)

            def root(group: Expr, first: Expr) -> None:
                variance = spread_.lane(first) + tirx.FloatImm("float32", epsilon)
                value = T.Bind(tirx.FloatImm("float32", 1.0) / tirx.sqrt(variance))
                store(rstd, n * groups + group, value)
                _fill(spread_, first, size, value)

            _by_group(c, groups, root)

            def write(at: Expr, channel: Expr, lanes: int) -> None:
                centred = load(x, start + at, lanes) - mean.part(channel, lanes)
                store(y, start + at, centred * spread_.part(channel, lanes), lanes)

            _each_vector(machine, pixels, c, write)

    outputs = [(tuple(data), "float32"), ((m, groups), "float32")]
    return kernel("group_normalise", [(tuple(data), "float32")], outputs, body)


def group_normalise_gradient(
    machine: Machine, data: Shape, groups: int, scaled: bool = False
) -> tirx.PrimFunc:
    """Gradient ``g`` and normalised ``y`` ``[m, h, w, c]``, ``rstd`` ``[m, groups]`` to the data's gradient.

    ``rstd · (g − mean(g) − y · mean(g · y))``, means over each group. If ``scaled``, ``g`` is the gradient of
    ``y · scale + bias``: scale ``[c]`` is an argument after ``rstd``, g times it takes g's place above, and
    two more results are g's sums over pixels ``[m, c]``, and those of ``g · y``: the gradients of bias and
    scale.
    """
    m, h, w, c = data
    pixels, size = h * w, c // groups

    def body(g: tirx.Buffer, y: tirx.Buffer, rstd: tirx.Buffer, *rest: tirx.Buffer) -> None:
        gamma, out = (rest[0], rest[1]) if scaled else (None, rest[0])
        with loop(m, parallel=m * pixels * c >= PARALLEL_WORK // 8) as n:
            start, first_mean, second_mean, factor = n * (pixels * c), _row(c), _row(c), _row(c)

            def add(sums: Sequence[Register], at: Expr, _channel: Expr, lanes: int) -> None:
                value = load(g, at, lanes)
                sums[0].set(sums[0].value + value)
                sums[1].add_product(value, load(y, at, lanes))

            _channel_sums(machine, pixels, c, start, [first_mean, second_mean], add)
            if gamma is not None:
                for row, result in zip((first_mean, second_mean), rest[2:], strict=True):
                    _put(machine, row, c, result, n * c)
                    _scale(machine, row, gamma, c)
            _mean_of([first_mean, second_mean], c, groups, pixels)
            _by_group(
                c, groups, lambda group, first: _fill(factor, first, size, load(rstd, n * groups + group))
            )

            def write(at: Expr, channel: Expr, lanes: int) -> None:
                value, minus = load(g, start + at, lanes), T.Bind(-first_mean.part(channel, lanes))
                if gamma is None:
                    value = T.Bind(value + minus)
                else:
                    value = T.Bind(fma(value, load(gamma, channel, lanes), minus, lanes))
                value = fma(load(y, start + at, lanes), -second_mean.part(channel, lanes), value, lanes)
                store(out, start + at, factor.part(channel, lanes) * value, lanes)

            _each_vector(machine, pixels, c, write)

    inputs = [(tuple(data), "float32"), (tuple(data), "float32"), ((m, groups), "float32")]
    outputs = [(tuple(data), "float32")]
    if scaled:
        inputs.append(((c,), "float32"))
        outputs += [((m, c), "float32")] * 2
    return kernel("group_normalise_gradient", inputs, outputs, body)


def _scale(machine: Machine, row: Register, factors: tirx.Buffer, channels: int) -> None:
    """Multiply each channel's number by its factor."""
    for strip in strips(channels, machine.lanes, 1):
        with loop(strip.count) as s:
            for piece in strip.pieces:
                at = strip.start + s * strip.step + piece.offset
                row.set_part(at, row.part(at, piece.lanes) * load(factors, at, piece.lanes), piece.lanes)


def channel_products(machine: Machine, data: Shape) -> tirx.PrimFunc:
    """Two images ``[m, h, w, c]`` to the sums over pixels of their products, ``[m, c]``."""
    m, h, w, c = data

    def body(a: tirx.Buffer, b: tirx.Buffer, out: tirx.Buffer) -> None:
        with loop(m, parallel=m * h * w * c >= PARALLEL_WORK // 8) as n:
            total = _row(c)

            def add(sums: Sequence[Register], at: Expr, _channel: Expr, lanes: int) -> None:
                sums[0].add_product(load(a, at, lanes), load(b, at, lanes))

            _channel_sums(machine, h * w, c, n * (h * w * c), [total], add)
            _put(machine, total, c, out, n * c)

    inputs = [(tuple(data), "float32"), (tuple(data), "float32")]
    return kernel("channel_products", inputs, [((m, c), "float32")], body)


def channel_sums(machine: Machine, data: Shape) -> tirx.PrimFunc:
    """Images ``[m, h, w, c]`` to their sums over pixels, ``[m, c]``."""
    m, h, w, c = data

    def body(a: tirx.Buffer, out: tirx.Buffer) -> None:
        with loop(m, parallel=m * h * w * c >= PARALLEL_WORK // 8) as n:
            total = _row(c)

            def add(sums: Sequence[Register], at: Expr, _channel: Expr, lanes: int) -> None:
                sums[0].set(sums[0].value + load(a, at, lanes))

            _channel_sums(machine, h * w, c, n * (h * w * c), [total], add)
            _put(machine, total, c, out, n * c)

    return kernel("channel_sums", [(tuple(data), "float32")], [((m, c), "float32")], body)


def _put(machine: Machine, row: Register, channels: int, out: tirx.Buffer, start: Expr) -> None:
    for strip in strips(channels, machine.lanes, 1):
        with loop(strip.count) as s:
            for piece in strip.pieces:
                at = strip.start + s * strip.step + piece.offset
                store(out, start + at, row.part(at, piece.lanes), piece.lanes)
