"""Kernels written by hand, by family, each fitted to its shapes."""

from .blocking import Epilogue, Product
from .conv import conv2d, conv2d_data_gradient, conv2d_weight_gradient, gradient_padding, pad
from .emit import MACHINES, Machine
from .gemm import gemm
from .panels import Factor, pack
from .pool import max_pool2d, max_pool2d_gradient

__all__ = [
    "MACHINES",
    "Epilogue",
    "Factor",
    "Machine",
    "Product",
    "conv2d",
    "conv2d_data_gradient",
    "conv2d_weight_gradient",
    "gemm",
    "gradient_padding",
    "max_pool2d",
    "max_pool2d_gradient",
    "pack",
    "pad",
]
