"""The plan section: what the runtime does, as CBOR that the enclave parses and proves (``docs/abi.md``)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np

from ..errors import BuildError
from .hiding import hides_draws

if TYPE_CHECKING:
    from ..model import Job
    from ..privacy import PrivateGraph
    from ..schedule import Call, Roles, ScheduledModule

__all__ = ["PARAMETER_ALIGNMENT_BYTES", "encode_plan", "lanes_of", "model_header", "pack_parameters"]

#: Parameters begin at multiples of this many bytes in ``.myelin.params``.
PARAMETER_ALIGNMENT_BYTES = 64

_DTYPES = {"float32": 0, "int32": 1, "uint8": 2, "int64": 3, "bool": 4}
_HEADER_ALIGNMENT_BYTES = 8
_MOST_STEPS = 2**31 - 1


def lanes_of(job: Job) -> int:
    """Lanes of the job's image: as many as it asks for, but no more than a logical step has batches."""
    return min(int(job.lanes), int(_plan(job).physical_batches))


def encode_plan(scheduled: ScheduledModule, private_graph: PrivateGraph, job: Job) -> bytes:
    """The bytes of ``.myelin.plan``, the same for the same inputs: floats take eight bytes, keys are sorted.

    Raises:
        BuildError: the schedule and the job do not fit each other.
    """
    _check_fit(scheduled, private_graph, job)
    plan = {
        "version": 6,
        "lanes": lanes_of(job),
        "shared_bytes": scheduled.shared_bytes,
        "lane_bytes": scheduled.lane_bytes,
        "tensors": [[t.offset, _DTYPES[t.dtype], list(t.shape)] for t in scheduled.tensors],
        "prepare": _calls(scheduled.prepare),
        "step": _calls(scheduled.step),
        "update": _calls(scheduled.update),
        "kernels": len(scheduled.kernels),
        "roles": _roles(scheduled.roles),
        "params": [
            [tensor, offset]
            for tensor, offset in zip(
                (*(role.value for role in scheduled.roles.parameters), *scheduled.roles.frozen),
                _offsets((*scheduled.parameter_values, *scheduled.frozen_values)),
                strict=True,
            )
        ],
        "data": {**_data(job), "oblivious": int(hides_draws(job, private_graph))},
        "dp": _dp(job, private_graph),
        "model_header": model_header(
            [(role.name, scheduled.tensors[role.value].shape) for role in scheduled.roles.parameters]
        ),
    }
    return cbor2.dumps(_sorted(plan))


def pack_parameters(values: Sequence[np.ndarray[Any, np.dtype[np.float32]]]) -> bytes:
    """The bytes of ``.myelin.params``: every parameter raw, little-endian, at an aligned offset."""
    packed = bytearray()
    for value, offset in zip(values, _offsets(values), strict=True):
        packed.extend(bytes(offset - len(packed)))
        packed.extend(np.ascontiguousarray(value, "<f4").tobytes())
    return bytes(packed)


def model_header(parameters: Sequence[tuple[str, Sequence[int]]]) -> bytes:
    """The safetensors prefix (length and JSON) of a model with these float32 parameters, in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "myelin"}}
    start = 0
    for name, shape in parameters:
        if name in entries:
            raise BuildError(f"parameter {name}: expected a name of its own, but two parameters have it")
        end = start + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def _check_fit(scheduled: ScheduledModule, private_graph: PrivateGraph, job: Job) -> None:
    features = scheduled.tensors[scheduled.roles.features].shape
    expected = (job.plan.microbatch * job.plan.views, math.prod(job.schema.shape))
    if (features[0], math.prod(features[1:])) != expected:
        raise BuildError(
            f"features: the schedule has {list(features)}, but the job's plan and schema need "
            f"{expected[0]} examples of {expected[1]} features; schedule the graph of this job"
        )
    steps = _plan(job).steps
    if steps > _MOST_STEPS:
        raise BuildError(
            f"steps: expected at most {_MOST_STEPS:,} (they are counted in int32), got {steps:,}"
        )
    names = tuple(role.name for role in scheduled.roles.parameters)
    if names != tuple(private_graph.parameter_names):
        raise BuildError(
            f"parameters: the schedule has {list(names)}, the private graph "
            f"{list(private_graph.parameter_names)}; schedule this graph"
        )


def _calls(calls: Sequence[Call]) -> list[object]:
    return [[call.kernel, list(call.inputs), list(call.outputs)] for call in calls]


def _roles(roles: Roles) -> dict[str, object]:
    from ..privacy.dropout import dropout_scale

    return {
        "features": roles.features,
        "labels": roles.labels,
        "mask": roles.mask,
        "masks": [[m.tensor, m.threshold, float(dropout_scale(m.threshold))] for m in roles.masks],
        "contributing": roles.contributing,
        "norms": roles.norms,
        "step_number": roles.step_number,
        "parameters": [
            {
                "name": role.name,
                "value": role.value,
                "released": role.released,
                "clipped_sum": role.clipped_sum,
                "noisy_gradient": role.noisy_gradient,
            }
            for role in roles.parameters
        ],
        "zeroed": list(roles.zeroed),
    }


def _data(job: Job) -> dict[str, object]:
    schema: Any = job.schema
    return {
        "feature_dtype": _DTYPES[schema.dtype],
        "features": schema.feature_count,
        "classes": schema.class_count,
        "target": _target(schema.label),
        "max_records": _plan(job).dataset_size,
        "record_bytes": schema.record_bytes,
        "lower": _floats(schema.lower_bounds),
        "upper": _floats(schema.upper_bounds),
        "scale": _floats(schema.scale),
        "offset": _floats(schema.offset),
    }


def _target(label: Any) -> list[float] | None:
    """Range of a numeric label, and what turns it into what the loss sees; None for classes."""
    if not hasattr(label, "lower"):
        return None
    return _floats([label.lower, label.upper, label.scale, label.offset])


def _dp(job: Job, private_graph: PrivateGraph) -> dict[str, object]:
    from ..privacy.noise import grid

    plan, sensitivity_e9 = _plan(job), private_graph.sensitivity_e9
    return {
        "sampling_threshold": plan.sampling_threshold,
        "capacity": plan.capacity,
        "microbatch": plan.microbatch,
        "steps": plan.steps,
        "noise_multiplier_e9": plan.noise_multiplier_e9,
        "clipping_norm_e9": plan.clipping_norm_e9,
        "clipping": list(private_graph.clipping),
        "correlation": list(plan.correlation.coefficients_e9 if plan.correlation else ()),
        "augment": [list(augmentation) for augmentation in plan.executed_augment],
        "views": plan.views,
        "sensitivity_e9": sensitivity_e9,
        "expected_batch_size": plan.expected_batch_size,
        "grid": float(grid(plan.noise_multiplier_e9, sensitivity_e9)),
    }


def _plan(job: Job) -> Any:
    return job.plan


def _floats(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values]


def _offsets(values: Sequence[np.ndarray[Any, np.dtype[np.float32]]]) -> list[int]:
    offsets, end = [], 0
    for value in values:
        start = -(-end // PARAMETER_ALIGNMENT_BYTES) * PARAMETER_ALIGNMENT_BYTES
        offsets.append(start)
        end = start + 4 * value.size
    return offsets


def _sorted(value: object) -> object:
    """Maps with keys in the order of their encodings (RFC 8949, 4.2.1): shorter first, then bytewise."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return {key: _sorted(value[key]) for key in keys}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
