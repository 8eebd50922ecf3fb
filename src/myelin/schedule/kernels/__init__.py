"""Kernels written by hand, by family, each fitted to its shapes."""

from .blocking import Epilogue, Product
from .conv import Finish, block_width, conv2d, conv2d_data_gradient, gradient_block_width
from .conv_gradient import conv2d_weight_gradient, conv2d_weight_gradient_sum
from .emit import MACHINES, Machine
from .gemm import gemm
from .group_norm import channel_products, channel_sums, group_normalise, group_normalise_gradient
from .panels import Factor, pack
from .pool import max_pool2d, max_pool2d_gradient
from .reorder import blocked_weight, image_order, weight_order
from .squares import kept_norm
from .taps import Image, channel_first, channel_last

__all__ = [
    "MACHINES",
    "Epilogue",
    "Factor",
    "Finish",
    "Image",
    "Machine",
    "Product",
    "block_width",
    "blocked_weight",
    "channel_first",
    "channel_last",
    "channel_products",
    "channel_sums",
    "conv2d",
    "conv2d_data_gradient",
    "conv2d_weight_gradient",
    "conv2d_weight_gradient_sum",
    "gemm",
    "gradient_block_width",
    "group_normalise",
    "group_normalise_gradient",
    "image_order",
    "kept_norm",
    "max_pool2d",
    "max_pool2d_gradient",
    "pack",
    "weight_order",
]
