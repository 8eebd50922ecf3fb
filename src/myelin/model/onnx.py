"""ONNX's door: a model file as a model of a job.

    job = Job(model=lambda: from_onnx("net.onnx"), …)

The graph is read operator by operator (:mod:`myelin.model.onnx_operators`) into the graph that the layers of
:mod:`myelin.model.nn` make. What has no rule is refused by name. A file is input from a stranger: its size is
limited, no data outside of it is read, and it is checked before anything is taken from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tvm.relax.frontend.nn import Tensor

from myelin.errors import BuildError, InputError

from .functional import channels, shape_of
from .imported import ImportedModel
from .onnx_axes import Turned
from .onnx_node import Node
from .onnx_operators import FOLDED, apply_rule, check_size
from .onnx_parameters import parameters_of
from .onnx_patterns import simplified

__all__ = ["OnnxModel", "from_onnx"]

_MOST_BYTES = 1 << 30


def from_onnx(source: str | Path) -> OnnxModel:
    """A model from an ONNX file, version 13 of the operators or newer.

    It takes one tensor ``[batch, *features]`` and gives logits; the batch may be of any size in the file, and
    a model of tokens may take them as whole numbers. Training starts from the file's values, in the file's
    forms, but that gates of recurrent layers stand in another order, and that the kernel of a convolution
    along one axis is ``[out, in, 1, size]``. Numbers that the file has under several names (Identity) are
    trained apart.

    Batch normalisation takes the mean and variance of the file; they are constants of the image, where
    everyone can read them, so they must come from public data. :func:`myelin.model.nn.freeze` makes
    constants of other parts.

    Raises:
        InputError: the file cannot be read, is too large, or is not a valid model.
        BuildError: the ``onnx`` package is not there, or the model has parts that have no rule.
    """
    try:
        import onnx
    except ImportError as missing:
        raise BuildError(
            f"reading an ONNX file needs its package: install myelin[onnx] ({missing})"
        ) from missing
    path = Path(source)
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InputError(f"{path}: {size} bytes; expected an ONNX file of at most {_MOST_BYTES}")
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise InputError(f"{path}: {tensor.name} is in another file; save the model as one file")
        onnx.checker.check_model(model)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except InputError:
        raise
    except Exception as error:  # protobuf's and the checker's errors have no common kind
        raise InputError(f"{path}: not a valid ONNX model: {type(error).__name__}: {error}") from error
    return OnnxModel(model)


class OnnxModel(ImportedModel):
    """What :func:`from_onnx` gives."""

    def __init__(self, model: Any) -> None:
        self._model = model
        try:
            self._taken = parameters_of(model.graph)
            self._nodes = simplified(model.graph)
        except (IndexError, TypeError, ValueError) as error:  # numbers in shapes that no operator takes
            raise BuildError(f"the ONNX model's numbers do not fit its operators: {error}") from error
        super().__init__(self._taken.values, self._taken.frozen)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, *features]`` to logits."""
        graph = self._model.graph
        inputs = [i for i in graph.input if i.name not in self._taken.initializers]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise BuildError(
                f"the ONNX model has {len(inputs)} inputs and {len(graph.output)} outputs; expected the "
                "features and the logits"
            )
        self.check_input(inputs[0], shape_of(features))
        values: dict[str, Any] = {"": None, inputs[0].name: features, **self._taken.constants}
        for proto in self._nodes:
            if proto.output[0] in self._taken.initializers:
                continue  # a name for numbers of the file
            for name, value in zip(proto.output, self.results(proto, values), strict=False):
                values[name] = value
        logits = values.get(graph.output[0].name)
        if not isinstance(logits, Tensor):
            raise BuildError(
                f"the ONNX model's output {graph.output[0].name} does not depend on the features"
            )
        return logits

    def standing(self, name: str) -> Any:
        """A parameter as it stands in the graph."""
        parameter = self.parameter(name)
        rank = self._taken.channels.get(name)
        return parameter if rank is None else channels(parameter, rank)

    def check_input(self, declared: Any, wanted: tuple[int, ...]) -> None:
        """The file's input must be the features; its batch may be anything that is not another number."""
        sizes = [
            d.dim_value if d.HasField("dim_value") else None for d in declared.type.tensor_type.shape.dim
        ]
        fits = len(sizes) == len(wanted) and all(
            size in (None, want) for size, want in zip(sizes, wanted, strict=True)
        )
        if not fits:
            raise BuildError(
                f"the ONNX model's input {declared.name} is {sizes}, but a physical batch is {list(wanted)}; "
                "export it with a dynamic batch axis, or choose its batch as the microbatch"
            )

    def results(self, proto: Any, values: dict[str, Any]) -> list[Any]:
        """What a node gives: computed here where it has constants only, traced where it has data."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        node = Node(proto.op_type, proto.name, attributes)
        forms = self._taken.uses.get(proto.output[0], {})
        inputs = [
            [self.standing(part) for part in forms[place]] if place in forms else values.get(name)
            for place, name in enumerate(proto.input)
        ]
        inputs = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in inputs]
        if proto.op_type == "Shape" and isinstance(inputs[0], Tensor | Turned):
            shape = inputs[0].shape if isinstance(inputs[0], Turned) else shape_of(inputs[0])
            return [np.array(shape[attributes.get("start", 0) : attributes.get("end")], np.int64)]
        if proto.op_type in FOLDED and all(isinstance(value, np.ndarray) for value in inputs):
            check_size(proto, inputs)
            return list(ReferenceEvaluator(proto).run(None, dict(zip(proto.input, inputs, strict=True))))
        try:
            if proto.domain not in ("", "ai.onnx"):
                raise BuildError(f"operators of {proto.domain} have no rule")
            result = apply_rule(node, inputs)
        except (BuildError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise BuildError(f"ONNX operator {proto.op_type} {proto.name!r}: {error}") from error
        return list(result) if isinstance(result, tuple) else [result]
