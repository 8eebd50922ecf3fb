"""PyTorch's door: a ``torch.nn.Module``, or what ``torch.export`` made of one, as a model of a job.

    job = Job(model=lambda: from_torch(net), …)

The exported graph is read operator by operator (:mod:`myelin.model.torch_operators`) into the graph that the
layers of :mod:`myelin.model.nn` make. What has no rule is refused by name, with the place in the model.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from tvm.relax.frontend.nn import Tensor

from myelin.errors import BuildError

from .functional import shape_of
from .imported import ImportedModel
from .torch_attention import attention_modules
from .torch_layers import Statistics
from .torch_operators import IGNORED, OPERATORS, REFUSED
from .torch_parameters import taken_from

__all__ = ["TorchModel", "from_torch"]


def from_torch(source: Any) -> TorchModel:
    """A model from a ``torch.nn.Module`` or a ``torch.export.ExportedProgram``.

    It takes one tensor, ``[batch, *features]`` float32, and gives logits. Token models get their tokens as
    float32 too: begin with ``x.long()``. Training starts from the values that the parameters have; seed
    PyTorch before making them, or two builds will not be the same image.

    Parameters that need no gradient (``requires_grad_(False)``) are constants, as after
    :func:`myelin.model.nn.freeze`. The kernel of a convolution along one axis has one more axis here and in
    what is released, ``[out, in, 1, size]``. The row of a padding token must be zeros.

    Dropout is trained where the model is in ``train`` mode, as ``nn.Dropout`` of this package, and left out
    after ``net.eval()``. Batch normalisation needs ``eval`` mode, and takes the
    mean and variance that the model has; they are constants of the image, where everyone can read them, so
    they must come from public data. A program that was exported for one
    batch size only fits plans with that microbatch; export it with
    ``dynamic_shapes=({0: torch.export.Dim("batch")},)``.

    Raises:
        BuildError: PyTorch is not there, the source is neither, or a parameter is not float32.
    """
    try:
        import torch
    except ImportError as missing:
        raise BuildError(f"reading a PyTorch model needs it: install myelin[torch] ({missing})") from missing
    if not isinstance(source, torch.nn.Module | torch.export.ExportedProgram):
        raise BuildError(
            "from_torch: expected a torch.nn.Module or torch.export.ExportedProgram, got "
            f"{type(source).__name__}"
        )
    return TorchModel(source)


_OF_SIZES = {operator.add, operator.sub, operator.mul, operator.floordiv}
"""What an exported graph computes shapes with."""


class TorchModel(ImportedModel):
    """What :func:`from_torch` gives."""

    def __init__(self, source: Any) -> None:
        self._source, self._taken = source, taken_from(source)
        super().__init__(self._taken.values, self._taken.frozen)

    def statistics(self, name: str) -> Statistics | None:
        """What stands for a running mean or variance, by its name there."""
        if name not in self._taken.statistics:
            return None
        factor, shift, epsilon = self._taken.statistics[name]
        return Statistics(self.parameter(factor), self.parameter(shift), epsilon)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, *features]`` to logits."""
        import torch

        program, shape = self._source, shape_of(features)
        if isinstance(program, torch.nn.Module):
            example = torch.zeros(shape)
            try:
                program = torch.export.export(program, (example,), strict=False)
            except Exception as error:  # the model is the user's code, and export's errors are of many kinds
                raise BuildError(
                    f"torch.export cannot trace {type(self._source).__name__} on features {list(shape)}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return _Reading(self, program, features).run()


class _Reading:
    """One pass over an exported graph: the value of each node, traced."""

    def __init__(self, model: TorchModel, program: Any, features: Tensor) -> None:
        self.model, self.program, self.features = model, program, features
        self.values: dict[Any, Any] = {}
        self.known: dict[int, Statistics] = {}
        self.attention = attention_modules(program.graph)

    def run(self) -> Tensor:
        """The logits."""
        signature = self.program.graph_signature
        self.check_inputs(signature)
        for node in self.program.graph.nodes:
            # Before anything that only prepares it: the counter of batches.
            if operator_name(node.target) == "batch_norm" and node.args[5]:
                raise BuildError(f"PyTorch operator batch_norm{place_of(node)}: {REFUSED['batch_norm']}")
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if (name := signature.inputs_to_parameters.get(node.name)) is not None:
                    # Tied parameters have several names, and one value.
                    self.values[node] = self.model.parameter(self.known_name(name))
                elif (known := self.statistics(signature.inputs_to_buffers.get(node.name, ""))) is not None:
                    self.values[node] = known
                elif node.name in signature.user_inputs:
                    self.values[node] = self.features
            elif node.op == "output":
                outputs = node.args[0]
                if len(outputs) != 1:
                    raise BuildError(f"the model gives {len(outputs)} results; expected the logits alone")
                return self.value(outputs[0])
            elif node in self.attention:
                if (result := self.attention[node].result(node, self.value)) is not None:
                    self.values[node] = result
            else:
                self.values[node] = self.apply(node)
        raise BuildError("the exported graph has no output")

    def known_name(self, name: str) -> str:
        """The name under which a parameter was taken in, for one that has several."""
        own = dict(self.model._source.named_parameters(remove_duplicate=False)) if self.is_module else {}
        if name in own:
            return next(n for n in self.model._imported if own[n] is own[name])
        return name

    def statistics(self, name: str) -> Statistics | None:
        """A running mean or variance: one value for both of a layer."""
        found = self.model.statistics(name)
        return None if found is None else self.known.setdefault(id(found.factor), found)

    @property
    def is_module(self) -> bool:
        """Whether the source is a module, not yet exported."""
        return self.program is not self.model._source

    def check_inputs(self, signature: Any) -> None:
        """One input, of this batch's shape; no buffers."""
        if len(signature.user_inputs) != 1:
            raise BuildError(f"the model takes {len(signature.user_inputs)} inputs; expected the features")
        place = next(n for n in self.program.graph.nodes if n.name == signature.user_inputs[0])
        wanted, found = shape_of(self.features), tuple(place.meta["val"].shape)
        free = [not isinstance(size, int) for size in found]
        if len(found) != len(wanted) or any(
            not is_free and int(size) != want for size, want, is_free in zip(found, wanted, free, strict=True)
        ):
            raise BuildError(
                f"the model was exported for features {list(found)}, but a physical batch is {list(wanted)}; "
                'export it with dynamic_shapes=({0: torch.export.Dim("batch")},)'
            )

    def value(self, argument: Any) -> Any:
        """An argument of a node, with nodes replaced by what they stand for."""
        import torch

        if isinstance(argument, torch.fx.Node):
            if argument not in self.values:
                raise BuildError(
                    f"{argument.name}: a constant or buffer of the model, or a result that is not supported; "
                    "expected data and parameters only"
                )
            return self.values[argument]
        if isinstance(argument, list | tuple):
            return [self.value(item) for item in argument]
        return argument

    def apply(self, node: Any) -> Any:
        """What an operator gives."""
        name = operator_name(node.target)
        if name in IGNORED:
            return None
        arguments = [self.value(argument) for argument in node.args]
        options = {key: self.value(argument) for key, argument in node.kwargs.items()}
        if name == "getitem":
            return arguments[0][arguments[1]]
        if node.target in _OF_SIZES and all(isinstance(argument, int) for argument in arguments):
            return node.target(*arguments)
        rule: Any = OPERATORS.get(name)
        try:
            if rule is None:
                raise BuildError(
                    REFUSED.get(
                        name, "it has no rule; operators with one are " + ", ".join(sorted(OPERATORS))
                    )
                )
            return rule(*arguments, **options)
        except (BuildError, TypeError, AttributeError) as error:
            raise BuildError(f"PyTorch operator {name}{place_of(node)}: {error}") from error


def operator_name(target: Any) -> str:
    """``conv2d`` of ``aten.conv2d.default``."""
    return str(getattr(target, "_opname", getattr(target, "__name__", target)))


def place_of(node: Any) -> str:
    """Where in the model an operator is, as far as it is known: the innermost module, file and line."""
    parts = list(_places(node))
    return f" ({', '.join(parts)})" if parts else ""


def _places(node: Any) -> Iterator[str]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack and stack[-1][0]:
        yield f"in {stack[-1][0]}"
    lines = [line.strip() for line in (node.stack_trace or "").splitlines() if "File " in line]
    if lines:
        file, _, rest = lines[-1].partition('", line ')
        yield f"{file.rpartition('/')[2].removeprefix('File ').strip(chr(34))}:{rest.partition(',')[0]}"
