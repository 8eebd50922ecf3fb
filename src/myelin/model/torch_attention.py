"""``torch.nn.MultiheadAttention`` within an exported graph, taken as a whole.

Its own graph moves the batch to the second axis and joins it with the heads, which the compiler refuses, for
nothing there says that examples stay apart. So its operators are not read one by one: what goes in and its
four parameters are found, and attention is made of them as :class:`myelin.model.nn.MultiHeadAttention` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm.relax.frontend.nn import Tensor, op

from myelin.errors import BuildError

from . import functional as f

__all__ = ["attention_modules"]

_OPTIONS = ("attn_mask", "dropout_p", "is_causal")
_CLASS = "torch.nn.modules.activation.MultiheadAttention"


class _Attention:
    """The nodes of one call of one module."""

    def __init__(self, path: str) -> None:
        self.path, self.nodes = path, list[Any]()

    def fail(self, why: str) -> BuildError:
        return BuildError(f"MultiheadAttention {self.path}: {why}")

    def of(self, name: str) -> list[Any]:
        """Its operators of that name."""
        return [n for n in self.nodes if getattr(n.target, "_opname", "") == name]

    def result(self, node: Any, value: Callable[[Any], Any]) -> Tensor | None:
        """The output of the whole, at the node that gives it; None at all others."""
        if node is not self.output():
            return None
        first, linears = self.nodes[0], self.of("linear")
        if self.outer() != {first.args[0]} or list(first.args[1:]) not in ([1, 0], [0, 1]):
            raise self.fail("expected batch_first=True and one input as query, key and value")
        products = self.of("scaled_dot_product_attention")
        if len(products) != 1 or len(linears) != 2:
            raise self.fail("expected need_weights=False, or its weights not to be used")
        given = (*products[0].args[3:], *(None, 0.0, False)[len(products[0].args) - 3 :])
        mask, dropout, causal = (products[0].kwargs.get(n, v) for n, v in zip(_OPTIONS, given, strict=False))
        if mask is not None or causal:
            raise self.fail("a mask has no rule")
        return self.make(value(first.args[0]), int(products[0].meta["val"].shape[1]), float(dropout), value)

    def make(self, x: Tensor, heads: int, dropout: float, value: Callable[[Any], Any]) -> Tensor:
        inputs, outputs = self.of("linear")
        batch, length, width = f.shape_of(x)
        size = width // heads

        def apart(part: Tensor) -> Tensor:
            return f.transpose(op.reshape(part, [batch, length, heads, size]), 1, 2)

        parts = op.split(f.linear(x, *map(value, inputs.args[1:])), 3, axis=-1)
        query, key, values = map(apart, parts)
        mixed = f.attention(query, key, values, rate=dropout)
        joined = op.reshape(f.transpose(mixed, 1, 2), [batch, length, width])
        return f.linear(joined, *map(value, outputs.args[1:]))

    def outer(self) -> set[Any]:
        """Data that it reads from outside: neither its own values, nor parameters or sizes."""
        own = set(self.nodes)
        read = {a for node in self.nodes for a in node.all_input_nodes if a not in own}
        return {a for a in read if a.op != "placeholder" or not a.name.startswith("p_")} - {
            a for a in read if not hasattr(a.meta.get("val"), "shape")
        }

    def output(self) -> Any:
        """The one value that is read from outside."""
        own = set(self.nodes)
        read = [n for n in self.nodes if any(user not in own for user in n.users)]
        tensors = [n for n in read if hasattr(n.meta.get("val"), "shape")]
        if len(tensors) != 1:
            raise self.fail("expected its output alone to be used; give need_weights=False")
        return tensors[0]


def attention_modules(graph: Any) -> Mapping[Any, _Attention]:
    """The nodes of ``graph`` that are part of a MultiheadAttention, each with its module's call."""
    found: dict[str, _Attention] = {}
    parts: dict[Any, _Attention] = {}
    for node in graph.nodes:
        for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
            name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
            if name == _CLASS:
                parts[node] = found.setdefault(key, _Attention(path))
                parts[node].nodes.append(node)
    return parts
