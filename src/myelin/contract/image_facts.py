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
from myelin.errors import InputError, ProtocolError
from myelin.privacy.augment import check_views
from myelin.privacy.clipping_rule import check_executed
from myelin.wire import DIGEST_BYTES, Shape

__all__ = ["ImageFacts", "read_image_facts"]

_MOST_IMAGE_BYTES = 4 << 30
_UNREADABLE = (
    cbor2.CBORDecodeError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    RecursionError,
)
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
    """Measurement, plan digest and schema digest (32 bytes each), most records, the mechanism's numbers."""

    measurement: bytes
    plan: bytes
    schema: bytes
    max_records: int
    mechanism: dict[str, Any]

    def event(self, dataset_size: int) -> DpEvent:
        """The event that this image executes on ``dataset_size`` records."""
        return DpEvent(dataset_size=dataset_size, **self.mechanism)


def read_image_facts(path: str | Path) -> ImageFacts:
    """Read an image file (``docs/abi.md``); :class:`~myelin.errors.InputError` if it is none."""
    data = read_bounded(path, _MOST_IMAGE_BYTES)
    try:
        elf = ELFFile(io.BytesIO(data))
        plan, manifest = (
            elf.get_section_by_name(name).data() for name in (".myelin.plan", ".myelin.manifest")
        )
        return _facts(data, plan, cbor2.loads(plan), cbor2.loads(manifest))
    except (ELFError, InputError, ProtocolError, *_UNREADABLE) as error:
        raise InputError(f"{path}: expected a Myelin image, but its plan cannot be read: {error}") from None


def _facts(data: bytes, raw: bytes, plan: Any, manifest: Any) -> ImageFacts:
    shape = Shape()
    tensors = plan["tensors"]
    parameters = sum(math.prod(tensors[p["value"]][2]) for p in plan["roles"]["parameters"])
    mechanism: dict[str, Any] = {name: shape.uint(plan["dp"][name], f"dp, {name}") for name in _DP_FIELDS}
    mechanism["correlation"] = tuple(shape.uint(n, "dp, correlation") for n in plan["dp"]["correlation"])
    mechanism["clipping"] = check_executed(plan["dp"]["clipping"], mechanism["clipping_norm_e9"])
    mechanism["views"] = shape.uint(plan["dp"]["views"], "dp, views")
    mechanism["augment"] = check_views(mechanism["views"], plan["dp"]["augment"])
    return ImageFacts(
        hashlib.sha256(data).digest(),
        hashlib.sha256(raw).digest(),
        shape.bytes(manifest["schema_digest"], "manifest, schema_digest", size=DIGEST_BYTES),
        shape.uint(plan["data"]["max_records"], "data, max_records"),
        {**mechanism, "parameters": shape.uint(parameters, "parameters", least=1)},
    )
