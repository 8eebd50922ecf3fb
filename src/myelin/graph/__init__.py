"""Room 2: Model → TrainingGraph: forward, loss, backward to the taps, optimizer, in one Relax module."""

from __future__ import annotations

from .adjoint import backward_function
from .export import forward_function
from .layers import Layer, Use
from .optimizer import state_shapes, update_function
from .reader import parametric_layers
from .taps import Tapped, insert_taps
from .training import TrainingGraph, differentiate

__all__ = [
    "Layer",
    "Tapped",
    "TrainingGraph",
    "Use",
    "backward_function",
    "differentiate",
    "forward_function",
    "insert_taps",
    "parametric_layers",
    "state_shapes",
    "update_function",
]
