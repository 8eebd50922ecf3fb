"""Operators that exporters write in parts, as one again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["simplified"]


class _Reading:
    """Who makes and who reads each value of a graph, and which values are single numbers."""

    def __init__(self, graph: Any) -> None:
        from onnx import helper, numpy_helper

        self.made = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = {output.name: [None] for output in graph.output}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.numbers: dict[str, float] = {}
        tensors = [(tensor.name, tensor) for tensor in graph.initializer]
        for node in graph.node:
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant" and "value" in values:
                tensors.append((node.output[0], values["value"]))
        for name, tensor in tensors:
            if math.prod(tensor.dims) == 1:
                self.numbers[name] = float(numpy_helper.to_array(tensor).reshape(()))

    def operands(self, node: Any, kind: str, number: float) -> list[str]:
        """The other inputs of a node of this kind that has ``number`` at one; none if it is another node."""
        if node is None or node.op_type != kind:
            return []
        places = range(1, 2) if kind == "Div" else range(2)
        found = [
            i for i in places if math.isclose(self.numbers.get(node.input[i], 0.0), number, rel_tol=1e-4)
        ]
        return [node.input[1 - i] for i in found[:1]]

    def scaled(self, name: str, factor: float) -> list[str]:
        """``x`` of a value ``x · factor``."""
        node = self.made.get(name)
        return self.operands(node, "Mul", factor) or self.operands(node, "Div", 1.0 / factor)

    def only_reader(self, name: str) -> Any:
        """The node that alone reads a value."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 else None

    def gelu(self, erf: Any) -> tuple[str, str, Sequence[Any]] | None:
        """``x``, the result, and the nodes of ``x · (1 + erf(x / √2)) / 2``, in any order of its factors."""
        source = self.scaled(erf.input[0], math.sqrt(0.5))
        added = self.only_reader(erf.output[0])
        if not source or not self.operands(added, "Add", 1.0):
            return None
        nodes, last, wanted = [erf, added], added.output[0], {"x", "half"}
        while wanted:
            node = self.only_reader(last)
            if node is None or node.op_type not in ("Mul", "Div"):
                return None
            other = next((name for name in node.input if name != last), "")
            halved = self.operands(node, node.op_type, 0.5 if node.op_type == "Mul" else 2.0) == [last]
            if halved and "half" in wanted:
                wanted -= {"half"}
            elif node.op_type == "Mul" and other == source[0] and "x" in wanted:
                wanted -= {"x"}
            elif node.op_type == "Mul" and self.scaled(other, 0.5) == source and len(wanted) == 2:
                wanted = set()
            else:
                return None
            nodes.append(node)
            last = node.output[0]
        return source[0], last, nodes


def simplified(graph: Any) -> list[Any]:
    """The nodes of ``graph``, with a Gelu for what older exporters make of it with Erf."""
    from onnx import helper

    reading, gone, new = _Reading(graph), set[str](), dict[str, Any]()
    for node in graph.node:
        if node.op_type == "Erf" and (found := reading.gelu(node)) is not None:
            source, result, nodes = found
            gone |= {part.output[0] for part in nodes}
            new[result] = helper.make_node("Gelu", [source], [result], name=node.name)
    found_or_kept = (new.get(node.output[0]) if node.output[0] in gone else node for node in graph.node)
    return [node for node in found_or_kept if node is not None]
