"""Kernels written by hand, by family, each fitted to its shapes."""

from .activation import gelu, gelu_and_slope, gelu_gradient
from .blocking import Epilogue, Product, RowFinish
from .conv import Finish, block_width, conv2d, conv2d_data_gradient, gradient_block_width
from .conv_gradient import conv2d_weight_gradient, conv2d_weight_gradient_sum
from .embedding import embedding_gather, embedding_segment, embedding_sum
from .emit import MACHINES, Machine
from .gemm import gemm
from .ghost import GhostSums, conv2d_ghost_norm
from .group_norm import channel_products, channel_sums, group_normalise, group_normalise_gradient
from .lstm import lstm_sequence, lstm_sequence_gradient, pack_gates
from .panels import Factor, pack
from .pool import max_pool2d, max_pool2d_gradient
from .reorder import blocked_weight, image_order, weight_order
from .rows import normalise, normalise_gradient, softmax, softmax_gradient
from .squares import Bound, kept_norm, outer_norm
from .taps import Image, channel_first, channel_last
from .winograd import winograd_conv2d, winograd_pays, winograd_weight
from .winograd_gradient import (
    winograd_gradient_pays,
    winograd_sum_pays,
    winograd_weight_gradient,
    winograd_weight_gradient_sum,
)

__all__ = [
    "MACHINES",
    "Bound",
    "Epilogue",
    "Factor",
    "Finish",
    "GhostSums",
    "Image",
    "Machine",
    "Product",
    "RowFinish",
    "block_width",
    "blocked_weight",
    "channel_first",
    "channel_last",
    "channel_products",
    "channel_sums",
    "conv2d",
    "conv2d_data_gradient",
    "conv2d_ghost_norm",
    "conv2d_weight_gradient",
    "conv2d_weight_gradient_sum",
    "embedding_gather",
    "embedding_segment",
    "embedding_sum",
    "gelu",
    "gelu_and_slope",
    "gelu_gradient",
    "gemm",
    "gradient_block_width",
    "group_normalise",
    "group_normalise_gradient",
    "image_order",
    "kept_norm",
    "lstm_sequence",
    "lstm_sequence_gradient",
    "max_pool2d",
    "max_pool2d_gradient",
    "normalise",
    "normalise_gradient",
    "outer_norm",
    "pack",
    "pack_gates",
    "softmax",
    "softmax_gradient",
    "weight_order",
    "winograd_conv2d",
    "winograd_gradient_pays",
    "winograd_pays",
    "winograd_sum_pays",
    "winograd_weight",
    "winograd_weight_gradient",
    "winograd_weight_gradient_sum",
]
