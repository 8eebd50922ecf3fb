"""A model that was made elsewhere: its parameters with their values, and a graph that is read at tracing."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.relax.frontend.nn import Module, Parameter

from myelin.errors import BuildError

from .adapters import freeze

__all__ = ["ImportedModel", "Scope"]


class Scope(Module):  # type: ignore[misc]
    """Holds parameters and further scopes under the names that they had in the model's own framework."""


class ImportedModel(Scope):
    """A module whose parameters are those of a model of another framework, under their names there.

    Training begins with the values that the model came with; they are public, in the measured image.

    Args:
        values: of every parameter by its dotted name, float32.
        frozen: names of those that are constants.
    """

    def __init__(self, values: Mapping[str, npt.NDArray[Any]], frozen: Container[str] = ()) -> None:
        self._imported: dict[str, Parameter] = {}
        for name, value in values.items():
            if value.dtype != np.float32:
                raise BuildError(f"parameter {name}: expected dtype float32, got {value.dtype}")
            parameter = Parameter(value.shape, "float32")
            parameter.data = np.ascontiguousarray(value)
            if name in frozen:
                freeze(parameter)
            *path, last = name.split(".")
            scope: Module = self
            for part in path:
                if not isinstance(getattr(scope, part, None), Scope):
                    setattr(scope, part, Scope())
                scope = getattr(scope, part)
            setattr(scope, last, parameter)
            self._imported[name] = parameter

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name."""
        return self._imported[name]
