"""Room 2: Model → TrainingGraph: forward, loss, backward to the taps, optimizer, in one Relax module."""

from __future__ import annotations

from .adjoint import backward_function
from .dropout import Dropout, without_dropout
from .export import forward_function
from .layers import Layer, Use
from .loss import label_dtype, seed_of
from .optimizer import released_results, state_shapes, update_function
from .reader import parametric_layers
from .taps import Tapped, insert_taps
from .training import TrainingGraph, differentiate

__all__ = [
    "Dropout",
    "Layer",
    "Tapped",
    "TrainingGraph",
    "Use",
    "backward_function",
    "differentiate",
    "forward_function",
    "insert_taps",
    "label_dtype",
    "parametric_layers",
    "released_results",
    "seed_of",
    "state_shapes",
    "update_function",
    "without_dropout",
]
