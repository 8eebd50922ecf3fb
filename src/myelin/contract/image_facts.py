"""What a contract needs to know of an image file: its measurement, its plan's digest, its mechanism."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from myelin.contract.event import DpEvent
from myelin.contract.files import read_bounded
from myelin.errors import InputError
from myelin.wire import Shape

__all__ = ["ImageFacts", "read_image_facts"]

_MOST_IMAGE_BYTES = 4 << 30
_DP_FIELDS = (
    "sampling_threshold",
    "capacity",
    "noise_multiplier_e9",
    "clipping_norm_e9",
    "sensitivity_e9",
    "expected_batch_size",
    "steps",
)


@dataclass(frozen=True)
class ImageFacts:
    """Measurement and plan digest (32 bytes each), record size, most records, and the mechanism's numbers."""

    measurement: bytes
    plan: bytes
    record_bytes: int
    max_records: int
    classes: int
    mechanism: dict[str, int]

    def event(self, dataset_size: int) -> DpEvent:
        """The event that this image executes on ``dataset_size`` records."""
        return DpEvent(dataset_size=dataset_size, **self.mechanism)


def read_image_facts(path: str | Path) -> ImageFacts:
    """Read an image file (``docs/abi.md``); :class:`~myelin.errors.InputError` if it is none."""
    data = read_bounded(path, _MOST_IMAGE_BYTES)
    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".myelin.plan")
        raw = section.data() if section is not None else b""
        plan = cbor2.loads(raw)
        return _facts(data, raw, plan)
    except (ELFError, cbor2.CBORDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: expected a Myelin image, but its plan cannot be read: {error}") from None


def _facts(data: bytes, raw: bytes, plan: Any) -> ImageFacts:
    shape = Shape()
    tensors = plan["tensors"]
    parameters = sum(math.prod(tensors[p["value"]][2]) for p in plan["roles"]["parameters"])
    mechanism = {name: shape.uint(plan["dp"][name], f"dp, {name}") for name in _DP_FIELDS}
    return ImageFacts(
        hashlib.sha256(data).digest(),
        hashlib.sha256(raw).digest(),
        shape.uint(plan["data"]["record_bytes"], "data, record_bytes"),
        shape.uint(plan["data"]["max_records"], "data, max_records"),
        shape.uint(plan["data"]["classes"], "data, classes"),
        {**mechanism, "parameters": shape.uint(parameters, "parameters")},
    )
