"""Kernels written by hand, by family, each fitted to its shapes."""

from .conv import conv2d, conv2d_data_gradient, conv2d_weight_gradient, gradient_padding, pad
from .emit import MACHINES, Machine
from .gemm import gemm
from .pool import max_pool2d, max_pool2d_gradient

__all__ = [
    "MACHINES",
    "Machine",
    "conv2d",
    "conv2d_data_gradient",
    "conv2d_weight_gradient",
    "gemm",
    "gradient_padding",
    "max_pool2d",
    "max_pool2d_gradient",
    "pad",
]
