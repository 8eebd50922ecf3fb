"""What an image hides from who watches its memory accesses, where a job leaves it open: what costs little.

Which records were drawn, by bringing them to their slots (:mod:`myelin.privacy.gather`); and which tokens
records have, by embeddings that read and write every row of their tables (``schedule/kernels/embedding.py``).
Neither changes a result by a bit.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..errors import BuildError
from ..privacy.gather import MOST_SHARE, is_cheap, step_seconds

if TYPE_CHECKING:
    from tvm import tirx

    from ..model import Job
    from ..privacy import PrivateGraph

__all__ = ["gather_of", "hide_tokens", "hides_draws", "token_seconds"]

_ELEMENT_S = 0.07e-9
"""Of one element of a row that is read and masked: nominal."""


def hides_draws(job: Job, private_graph: PrivateGraph) -> bool:
    """Whether the image brings drawn records to their slots instead of reading them where they lie.

    Raises:
        BuildError: the job asks for it, and its records take turns.
    """
    plan: Any = job.plan
    schema: Any = job.schema
    if plan.correlation is not None:
        if job.oblivious_gather:
            raise BuildError(
                "oblivious_gather: expected None or False where records take turns, got True. Whose turn it "
                "is may be known: no amplification by sampling is claimed"
            )
        return False
    if job.oblivious_gather is not None:
        return bool(job.oblivious_gather)
    return is_cheap(plan, schema.record_bytes, private_graph.table, private_graph.parameter_count)


def gather_of(job: Job, private_graph: PrivateGraph) -> str:
    """How a step reads its records: ``oblivious``, ``by address``, or ``turns``."""
    plan: Any = job.plan
    if plan.correlation is not None:
        return "turns"
    return "oblivious" if hides_draws(job, private_graph) else "by address"


def _work(function: tirx.PrimFunc) -> int:
    """Elements that a family's kernel touches where it hides tokens; 0 for a family that has none."""
    from ..graph.relax_ir import FAMILY

    name = str((function.attrs or {}).get(FAMILY, ""))
    if not name.startswith("embedding."):
        return 0
    shapes = [[int(size) for size in parameter.shape] for parameter in function.params]
    if name == "embedding.gather":
        (vocabulary, width), places = shapes[0], shapes[1]
        count = vocabulary * width
        for size in places:
            count *= size
        return count
    if name in ("embedding.scatter", "embedding.sum"):
        batch, positions, width = shapes[1]
        return batch * positions * width * shapes[-1][0]
    if name == "embedding.segment":
        batch, positions, width = shapes[1]
        return batch * positions * (positions + 1) // 2 * width
    return 0


def token_seconds(private_graph: PrivateGraph) -> float:
    """Nominal time of one microbatch that embeddings take to hide tokens; 0 for a model without any."""
    return _ELEMENT_S * sum(_work(f) for f in private_graph.module.functions.values())


def hide_tokens(job: Job, private_graph: PrivateGraph) -> PrivateGraph:
    """The graph, with embeddings that hide tokens where the job asks for it.

    Or leaves it open, and it is cheap.
    """
    extra = token_seconds(private_graph)
    hidden = job.oblivious_tokens
    if hidden is None:
        hidden = extra < MOST_SHARE * step_seconds(private_graph.table, 0, private_graph.microbatch)
    if not hidden or not extra:
        return private_graph
    import tvm

    functions = {
        variable: function.with_attr("myelin.hidden", 1) if _work(function) else function
        for variable, function in private_graph.module.functions.items()
    }
    module = tvm.IRModule(functions, attrs=private_graph.module.attrs)
    return dataclasses.replace(private_graph, module=module)
