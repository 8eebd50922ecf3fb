"""The log of a trust domain's boot (ACPI table CCEL), which replays to RTMR0 to RTMR3.

It has the TPM's format, with other registers: 1 stands for RTMR0, and so on to 4 for RTMR3; 0 is MRTD, which
nothing extends (UEFI 2.10, section 38.4.1). Linux has it at ``/sys/firmware/acpi/tables/data/CCEL``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from myelin.attest.event_log import MOST_EVENT_LOG_BYTES, EventLog
from myelin.errors import InputError, ProtocolError

__all__ = ["MOST_CCEL_BYTES", "CcelEvent", "extended", "read_ccel", "replayed"]

MOST_CCEL_BYTES = 1 << 20
"""Longest table that is looked at; most of it is padding."""

_SHA384 = 0x000C
_RTMRS = range(1, 5)


@dataclass(frozen=True)
class CcelEvent:
    """One measurement: which RTMR it extended, the TCG's event type, its digest, and the data beside it."""

    rtmr: int
    type: int
    digest: bytes
    data: bytes


def read_ccel(data: bytes) -> tuple[CcelEvent, ...]:
    """Read a log; :class:`~myelin.errors.InputError` names the field that is wrong."""
    if len(data) > MOST_CCEL_BYTES:
        raise InputError(f"event log: expected at most {MOST_CCEL_BYTES} bytes, got {len(data)}")
    rest = len(data) - MOST_EVENT_LOG_BYTES
    if rest > 0 and data.count(0xFF, MOST_EVENT_LOG_BYTES) == rest:
        data = data[:MOST_EVENT_LOG_BYTES]
    try:
        log = EventLog.read(data, _SHA384, ccel=True)
    except ProtocolError as error:
        raise InputError(error.detail) from None
    outside = sorted(log.registers - set(_RTMRS))
    if outside:
        raise InputError(f"event log, register: expected 1 to 4 (RTMR0 to RTMR3), got {outside[0]}")
    return tuple(CcelEvent(event.pcr - 1, event.type, event.digest, event.data) for event in log.events)


def replayed(events: tuple[CcelEvent, ...]) -> tuple[bytes, ...]:
    """RTMR0 to RTMR3 after these events, 48 bytes each."""
    return tuple(extended(event.digest for event in events if event.rtmr == rtmr) for rtmr in range(4))


def extended(digests: Iterable[bytes]) -> bytes:
    """A register that began with zeros, after these digests."""
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value
