"""Convolutions beside ``Conv2D``: along one axis, and transposed."""

from __future__ import annotations

from tvm.relax.frontend.nn import Module, Parameter, Tensor

from myelin.errors import BuildError

from . import functional as f

__all__ = ["Conv1D", "ConvTranspose1D", "ConvTranspose2D"]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


class _Convolution(Module):  # type: ignore[misc]
    """Kernel, bias and numbers of a convolution over images."""

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: tuple[int, int],
        numbers: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
        groups: int,
        bias: bool,
    ) -> None:
        name = type(self).__name__
        if groups < 1 or any(size % groups for size in channels):
            raise BuildError(f"nn.{name}: channels: expected multiples of {groups} groups, got {channels}")
        self.channels, self.groups = channels, groups
        self.strides, self.padding, self.last = numbers
        self.weight = Parameter(shape)
        self.bias = Parameter((channels[1],)) if bias else None

    def _require(self, x: Tensor, rank: int) -> None:
        shape = [int(size) for size in x.shape]
        if len(shape) != rank or shape[1] != self.channels[0]:
            axes = "height, width" if rank == 4 else "length"
            raise BuildError(
                f"nn.{type(self).__name__}: its input: expected [batch, {self.channels[0]}, {axes}], "
                f"got {shape}"
            )


class Conv1D(_Convolution):
    """A convolution along the last axis. Its kernel is ``[out, in / groups, 1, size]``.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        size: of the kernel.
        stride: of the output's places.
        padding: zeros at both ends.
        dilation: distance between the kernel's taps.
        groups: that channels are cut into; ``inputs`` groups are a depthwise convolution.
        bias: whether there is one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        numbers = ((1, stride), (0, padding), (1, dilation))
        super().__init__(
            (outputs, inputs // max(groups, 1), 1, size), (inputs, outputs), numbers, groups, bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, length]`` to ``[batch, outputs, places]``."""
        self._require(x, 3)
        (_, stride), (_, padding), (_, dilation) = self.strides, self.padding, self.last
        return f.conv1d(x, self.weight, self.bias, stride, (padding, padding), dilation, self.groups)


class ConvTranspose2D(_Convolution):
    """A transposed convolution over images; its kernel is ``[in, out / groups, height, width]``.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        size: of the kernel.
        stride: of the places that the input's pixels are put at.
        padding: rows and columns that are cut off at each border.
        output_padding: rows and columns more at the bottom and at the right, fewer than ``stride``.
        groups: that channels are cut into.
        bias: whether there is one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        numbers = (_pair(stride), _pair(padding), _pair(output_padding))
        if any(more >= step for more, step in zip(numbers[2], numbers[0], strict=True)):
            raise BuildError(
                f"nn.{type(self).__name__}: output_padding: expected less than the stride {numbers[0]}, "
                f"got {numbers[2]}"
            )
        shape = (inputs, outputs // max(groups, 1), *_pair(size))
        super().__init__(shape, (inputs, outputs), numbers, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, height, width]`` to ``[batch, outputs, …]``."""
        self._require(x, 4)
        numbers = self.strides, (*self.padding, *self.padding), self.last
        return f.conv_transpose2d(x, self.weight, self.bias, *numbers, self.groups)


class ConvTranspose1D(ConvTranspose2D):
    """The same along the last axis; its kernel is ``[in, out / groups, 1, size]``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        pairs = ((1, size), (1, stride), (0, padding), (0, output_padding))
        super().__init__(inputs, outputs, *pairs, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, length]`` to ``[batch, outputs, …]``."""
        self._require(x, 3)
        (_, stride), (_, padding), (_, more) = self.strides, self.padding, self.last
        return f.conv_transpose1d(x, self.weight, self.bias, stride, (padding, padding), more, self.groups)
