"""What the manifest says: where an image comes from and what is in it, for people and ``inspect``."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ..privacy.cost import format_table
from .assembly import Memory
from .crates import crates
from .hiding import gather_of
from .plan import lanes_of
from .runtime import Runtime, enclave_source

if TYPE_CHECKING:
    from ..model import Job
    from ..privacy import PrivateGraph
    from ..schedule import ScheduledModule

__all__ = ["manifest_of"]


def manifest_of(
    scheduled: ScheduledModule,
    private_graph: PrivateGraph,
    job: Job,
    plan_bytes: bytes,
    memory: Memory,
    runtime: Runtime,
    simulated: bool,
) -> dict[str, Any]:
    """The manifest's map (text keys; integers, text, bytes, floats, lists, maps)."""
    plan: Any = job.plan
    schema: Any = job.schema
    return {
        "version": 1,
        "name": job.name,
        "target": scheduled.target,
        "simulated": simulated,
        "plan": hashlib.sha256(plan_bytes).digest(),
        "made_with": {
            "myelin": _version("myelin"),
            "tvm": _version("apache-tvm"),
            "rustc": runtime.rustc,
            "machine": platform.machine(),
        },
        "model": {
            "parameters": [
                {"name": name, "shape": list(value.shape)}
                for name, value in zip(
                    private_graph.parameter_names, private_graph.parameter_values, strict=True
                )
            ],
            "parameter_count": private_graph.parameter_count,
            "frozen": [
                {"name": name, "shape": list(value.shape)}
                for name, value in zip(private_graph.frozen_names, private_graph.frozen_values, strict=True)
            ],
            "loss": _described(job.loss),
            "optimizer": _described(job.optimizer),
            "average": _described(job.average),
        },
        "layers": format_table(private_graph.table).splitlines(),
        "dp": {
            **plan.as_dict(),
            "clipping": _described(plan.clipping),
            "correlation": _described(plan.correlation),
            "augment": [_described(augmentation) for augmentation in plan.augment],
        },
        "event": plan.event(
            private_graph.parameter_count,
            private_graph.sensitivity_e9,
            clipping=private_graph.clipping,
        ),
        "gather": gather_of(job, private_graph),
        "schema": schema.model_dump(mode="json", exclude={"ignore"}),
        "schema_digest": schema.digest,
        "graph": {
            "kernels": list(scheduled.kernels),
            "prepare_calls": len(scheduled.prepare),
            "step_calls": len(scheduled.step),
            "update_calls": len(scheduled.update),
            "tensors": len(scheduled.tensors),
        },
        "memory": {
            "arena_bytes": memory.arena,
            "lanes": lanes_of(job),
            "dataset_bytes": memory.dataset,
            "heap_bytes": memory.heap,
        },
        "tcb": [crate.as_dict() for crate in crates(enclave_source(), simulated)],
    }


def _described(value: Any) -> Any:
    """A loss, optimizer, schedule or average as a map, ``name`` and fields; numbers and None as they are."""
    if not is_dataclass(value):
        return value
    fields = {key: _described(field) for key, field in vars(value).items()}
    return {"name": type(value).__name__, **fields}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
