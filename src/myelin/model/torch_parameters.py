"""Which of a PyTorch model's numbers are parameters, which constants, and the form in which they are here.

Nothing is changed but two things: the kernel of a convolution along one axis, ``[out, in, size]``, is
``[out, in, 1, size]`` here, and the running mean and variance of a normalisation become the factor and the
shift that they amount to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Taken", "taken_from"]

Array = npt.NDArray[Any]
_ONE_AXIS = ("conv1d", "conv_transpose1d")
_NORMS = ("batch_norm", "instance_norm")
"""Operators of input, scale, bias, mean, variance, whether to take the input's own, momentum, epsilon."""


@dataclass
class Taken:
    """A PyTorch model's numbers.

    Attributes:
        values: parameters and constants, by the names that they have here.
        frozen: names of the constants.
        statistics: for the running means and variances by their names there, the names of the factor and the
            shift, and the epsilon that they were made with.
    """

    values: dict[str, Array] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    statistics: dict[str, tuple[str, str, float]] = field(default_factory=dict)


def taken_from(source: Any) -> Taken:
    """The numbers of a ``torch.nn.Module`` or a ``torch.export.ExportedProgram``."""
    import torch

    taken = Taken()
    is_module = isinstance(source, torch.nn.Module)
    of_one_axis = set(_kernels_of_module(source) if is_module else _kernels_of_program(source))
    for name, parameter in source.named_parameters():
        value = _array(parameter)
        if name in of_one_axis and value.ndim == 3:
            value = value[:, :, None, :]
        taken.values[name] = value
        if not parameter.requires_grad:
            taken.frozen.add(name)
    buffers = dict(source.named_buffers())
    for mean, variance, epsilon in _norms_of_module(source) if is_module else _norms_of_program(source):
        path = mean.rpartition(".")[0]
        factor, shift = (f"{path}.{part}" if path else part for part in ("factor", "shift"))
        means, variances = (_array(buffers[name]).astype(np.float64) for name in (mean, variance))
        with np.errstate(all="ignore"):  # values that are not finite are refused with all others
            factors = 1.0 / np.sqrt(variances + epsilon)
            taken.values[factor] = factors.astype(np.float32)
            taken.values[shift] = (-means * factors).astype(np.float32)
        taken.frozen |= {factor, shift}
        taken.statistics |= dict.fromkeys((mean, variance), (factor, shift, epsilon))
    return taken


def _array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().numpy().copy())


def _kernels_of_module(module: Any) -> Iterator[str]:
    import torch

    kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    own = {id(m.weight) for m in module.modules() if isinstance(m, kinds)}
    return (name for name, parameter in module.named_parameters() if id(parameter) in own)


def _norms_of_module(module: Any) -> Iterator[tuple[str, str, float]]:
    """Names of means and variances, and epsilons."""
    from torch.nn.modules.batchnorm import _NormBase

    for path, part in module.named_modules():
        if isinstance(part, _NormBase) and part.running_mean is not None and not part.training:
            prefix = f"{path}." if path else ""
            yield f"{prefix}running_mean", f"{prefix}running_var", float(part.eps)


def _kernels_of_program(program: Any) -> Iterator[str]:
    names = program.graph_signature.inputs_to_parameters
    for node in program.graph.nodes:
        if getattr(node.target, "_opname", "") in _ONE_AXIS and node.args[1].name in names:
            yield names[node.args[1].name]


def _norms_of_program(program: Any) -> Iterator[tuple[str, str, float]]:
    names, found = program.graph_signature.inputs_to_buffers, set[str]()
    for node in program.graph.nodes:
        is_norm = getattr(node.target, "_opname", "") in _NORMS
        if not is_norm or node.args[3] is None or node.args[5]:
            continue
        mean, variance = (names.get(part.name) for part in node.args[3:5])
        if mean is not None and variance is not None and mean not in found:
            found.add(mean)
            yield mean, variance, float(node.args[7])
