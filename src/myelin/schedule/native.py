"""Run a scheduled module's calls in this process, outside any enclave, for tests and audits."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray

from ..errors import BuildError, InputError
from ..graph import Dropout
from ..privacy.dropout import masks_from_seed
from .inference import InferenceModule
from .program import ALIGNMENT_BYTES, Call, ScheduledModule

FloatArray = NDArray[np.float32]


_BoundCall = tuple[tvm_ffi.Function, list[tvm_ffi.Tensor]]


class _Program:
    """Kernels linked into this process, and an arena with a view of every tensor in it."""

    def __init__(self, module: ScheduledModule | InferenceModule, arena_bytes: int) -> None:
        self._library = _load(module.object)
        raw = np.zeros(arena_bytes + ALIGNMENT_BYTES, np.uint8)
        skip = -raw.ctypes.data % ALIGNMENT_BYTES
        self._arena = raw[skip : skip + arena_bytes]
        self._views = [
            self._arena[t.offset : t.offset + t.size_bytes].view(t.dtype).reshape(t.shape)
            for t in module.tensors
        ]
        self._handles = [tvm_ffi.from_dlpack(view) for view in self._views]
        self._functions = [self._library[name.removeprefix("__tvm_ffi_")] for name in module.kernels]

    def _bound(self, calls: tuple[Call, ...]) -> list[_BoundCall]:
        return [
            (self._functions[c.kernel], [self._handles[i] for i in (*c.inputs, *c.outputs)]) for c in calls
        ]

    def write(self, tensor: int, value: NDArray[np.generic]) -> None:
        """Copy an array into a tensor; InputError unless the shape is the tensor's."""
        if value.shape != self._views[tensor].shape:
            raise InputError(
                f"tensor {tensor}: expected shape {self._views[tensor].shape}, got {value.shape}"
            )
        self._views[tensor][...] = value

    def read(self, tensor: int) -> NDArray[np.generic]:
        """A copy of a tensor's present content."""
        return self._views[tensor].copy()


class InferenceProgram(_Program):
    """A compiled forward pass, run in this process through the TVM runtime."""

    def __init__(self, module: InferenceModule, parameters: Sequence[FloatArray] | None = None) -> None:
        """Link the object and prepare it for ``parameters``, by default the initial ones; frozen ones are."""
        super().__init__(module, module.arena_bytes)
        self.module = module
        given = () if parameters is None else tuple(parameters)
        values = (*given, *module.parameter_values[len(given) :])
        for tensor, value in zip(module.parameters, values, strict=True):
            self.write(tensor, value)
        for function, arguments in self._bound(module.prepare):
            function(*arguments)
        self._forward = self._bound(module.forward)

    def run(self, features: FloatArray) -> FloatArray:
        """Logits of one batch, ``[batch, classes]``."""
        self.write(self.module.features, features)
        for function, arguments in self._forward:
            function(*arguments)
        return self.read(self.module.logits)  # type: ignore[return-value]


class NativeProgram(_Program):
    """The same kernels, calls and arena as in the image, run through the TVM runtime.

    Guarantees nothing about secrecy: it is for comparing results, which are the image's to the bit where no
    number is subnormal (the image makes those zero). Needs a C compiler as linker.
    """

    def __init__(self, scheduled: ScheduledModule) -> None:
        """Link the object, lay out the arena and put the initial parameters in it; state starts at zero."""
        super().__init__(scheduled, scheduled.arena_bytes())
        self.scheduled = scheduled
        self._prepare, self._step = self._bound(scheduled.prepare), self._bound(scheduled.step)
        self._update = self._bound(scheduled.update)
        for role, value in zip(scheduled.roles.parameters, scheduled.parameter_values, strict=True):
            self.write(role.value, value)
        for tensor, value in zip(scheduled.roles.frozen, scheduled.frozen_values, strict=True):
            self.write(tensor, value)

    @property
    def dropout(self) -> tuple[Dropout, ...]:
        """The model's dropout layers, in the order of their masks."""
        tensors = self.scheduled.tensors
        return tuple(Dropout(tensors[m.tensor].shape[1:], m.threshold) for m in self.scheduled.roles.masks)

    def step_calls(self) -> list[_BoundCall]:
        """Each call of one microbatch as a function and its arguments, in order, for profiling."""
        return list(self._step)

    def once_calls(self) -> list[_BoundCall]:
        """Each call that a logical step makes once, not for each microbatch: weights' order, then update."""
        return [*self._prepare, *self._update]

    def run_step(
        self,
        features: FloatArray,
        labels: NDArray[np.int32] | FloatArray,
        mask: FloatArray,
        parameters: Sequence[FloatArray] | None = None,
        masks: Sequence[FloatArray] | None = None,
    ) -> tuple[list[FloatArray], FloatArray, NDArray[np.int32]]:
        """One microbatch: clipped sums in the order of parameters, norms and the contributing flags.

        Features, labels and masks have a row for each view of a record, ``mask`` one for each record.
        ``parameters`` replaces the current values first, if given. ``masks`` are those of the dropout layers,
        by default the ones of seed 0 for records 0, 1, …
        """
        roles = self.scheduled.roles
        self.write(roles.features, features)
        self.write(roles.labels, labels)
        self.write(roles.mask, mask)
        if masks is None:
            masks = masks_from_seed(0, range(len(mask)), self.dropout, len(features) // len(mask))
        for drawn, value in zip(roles.masks, masks, strict=True):
            self.write(drawn.tensor, value)
        if parameters is not None:
            for role, value in zip(roles.parameters, parameters, strict=True):
                self.write(role.value, value)
        for function, arguments in [*self._prepare, *self._step]:
            function(*arguments)
        sums = [self.read(role.clipped_sum) for role in roles.parameters]
        return sums, self.read(roles.norms), self.read(roles.contributing)  # type: ignore[return-value]

    def run_update(self, step_number: int, noisy_gradients: Sequence[FloatArray]) -> list[FloatArray]:
        """One optimizer step in place, ``step_number`` counting from 1; returns the new parameters."""
        roles = self.scheduled.roles
        if roles.step_number is not None:
            self.write(roles.step_number, np.array([step_number], np.int32))
        for role, value in zip(roles.parameters, noisy_gradients, strict=True):
            self.write(role.noisy_gradient, value)
        for function, arguments in self._update:
            function(*arguments)
        return [self.read(role.value) for role in roles.parameters]  # type: ignore[misc]

    def released(self) -> list[FloatArray]:
        """What the image would give out now: the parameters, or their averages."""
        return [self.read(role.released) for role in self.scheduled.roles.parameters]  # type: ignore[misc]


def _load(code: bytes) -> tvm_ffi.Module:
    with tempfile.TemporaryDirectory() as folder:
        source, shared = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        source.write_bytes(code)
        command = ["cc", "-shared", "-o", str(shared), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise BuildError(f"linking the kernels failed: {done.stderr.strip()}; is a C compiler installed?")
        module: tvm_ffi.Module = tvm.runtime.load_module(str(shared))
        return module
