"""What the compiler hands to the image: one object, its kernels, and static calls over one arena."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Every tensor begins at a multiple of this many bytes: a cache line, and one AVX-512 vector.
ALIGNMENT_BYTES = 64

#: Bytes of one element, for each dtype the plan format knows (docs/abi.md).
ELEMENT_BYTES = {"float32": 4, "int32": 4, "uint8": 1, "int64": 8, "bool": 1}


@dataclass(frozen=True)
class Tensor:
    """A named place in the arena.

    ``offset`` is in bytes from the arena's start, a multiple of :data:`ALIGNMENT_BYTES`; ``shape`` is row-
    major and compact. Below :attr:`ScheduledModule.shared_bytes` it is shared; from there on it is in a lane,
    and declared where lane 0 has it.
    """

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes the tensor occupies."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Call:
    """One kernel call: index into :attr:`ScheduledModule.kernels`, then indices of tensors."""

    kernel: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class ParameterRole:
    """The tensors that belong to one trained parameter; all have the parameter's shape, float32.

    ``released`` is what the released model has of it: ``value``, or an average that is one of the state's.
    """

    name: str
    value: int
    released: int
    clipped_sum: int
    noisy_gradient: int


@dataclass(frozen=True)
class MaskRole:
    """The mask of a dropout layer, float32 ``[microbatch, …]``.

    An element is kept with probability ``threshold / 2³²``.
    """

    tensor: int
    threshold: int


@dataclass(frozen=True)
class Roles:
    """Which tensors the runtime fills and reads (docs/abi.md, "Plan").

    ``zeroed`` lists the optimizer's state, which starts at zero, ``frozen`` constants, ``masks`` those of
    dropout layers in the order in which they are drawn. Nothing else ever overlaps a tensor named here.
    """

    features: int
    labels: int
    mask: int
    norms: int
    contributing: int
    step_number: int | None
    parameters: tuple[ParameterRole, ...]
    zeroed: tuple[int, ...]
    frozen: tuple[int, ...] = ()
    masks: tuple[MaskRole, ...] = ()


@dataclass(frozen=True)
class ScheduledModule:
    """A compiled training step.

    ``object`` is one relocatable ELF file for the target; ``kernels`` are its entry symbols in the order of
    the kernel indices. The calls, in order: ``prepare`` once at the beginning of a logical step, what depends
    on parameters only (weights in the order that a kernel wants); ``step`` for one microbatch; ``update`` for
    one optimizer step. The arena is a shared part of ``shared_bytes``, which ``step`` only reads, and behind
    it any number of lanes of ``lane_bytes``: as many microbatches can be computed at once.
    ``parameter_values`` are the initial values in the order of ``roles.parameters``, ``frozen_values`` the
    constants of ``roles.frozen``.
    """

    object: bytes
    kernels: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    shared_bytes: int
    lane_bytes: int
    prepare: tuple[Call, ...]
    step: tuple[Call, ...]
    update: tuple[Call, ...]
    roles: Roles
    parameter_values: tuple[NDArray[np.float32], ...]
    target: str
    frozen_values: tuple[NDArray[np.float32], ...] = ()

    def arena_bytes(self, lanes: int = 1) -> int:
        """Bytes of the shared part and of ``lanes`` lanes."""
        return self.shared_bytes + lanes * self.lane_bytes
