"""The log that firmware keeps of what it measured (TCG PC Client Platform Firmware Profile, section 10).

A log proves nothing by itself. Replayed, it must come to the registers that a quote signed; then every
event is what went into them. Digests are compared, never event data: whether data hash to their digest is
another matter, and for most events they do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from myelin.attest.kind import unreadable
from myelin.attest.octets import Octets
from myelin.attest.tpm_structures import HASH_BYTES, HASH_NAMES, MOST_PCRS

__all__ = ["MOST_EVENT_LOG_BYTES", "Event", "EventLog"]

MOST_EVENT_LOG_BYTES = 128 << 10
"""Longest log that is looked at."""

_MOST_EVENTS = 4096
_MOST_BANKS = 5
_NO_ACTION = 0x0000_0003
_SIGNATURE = b"Spec ID Event03\0"
_LOCALITY = b"StartupLocality\0"
_DIGEST_BYTES: Mapping[int, int] = {0x0004: 20, **HASH_BYTES, 0x0012: 32, 0x0027: 32, 0x0028: 48, 0x0029: 64}
"""Digest lengths of the banks that a log may name: SHA-1, SHA-2, SM3 and SHA-3."""


@dataclass(frozen=True)
class Event:
    """One ``TCG_PCR_EVENT2``: register, type, its digest in the chosen bank, and the data beside it."""

    pcr: int
    type: int
    digest: bytes
    data: bytes


@dataclass(frozen=True)
class EventLog:
    """The events of one bank. ``startup_locality`` is what register 0 began with."""

    bank: int
    events: tuple[Event, ...]
    startup_locality: int

    @classmethod
    def read(cls, data: bytes, bank: int, *, ccel: bool = False) -> EventLog:
        """Read a crypto-agile log for one bank; raises ``evidence_unreadable``.

        ``ccel`` says that it is a confidential VM's (ACPI table CCEL): its header may name register 1, and
        bytes of 0xff fill what firmware set aside for the log and did not need.
        """
        what = "event log"
        if len(data) > MOST_EVENT_LOG_BYTES:
            raise unreadable(what, f"at most {MOST_EVENT_LOG_BYTES} bytes", str(len(data)))
        octets = Octets(data, what, "little")
        sizes = _header(octets, most_register=1 if ccel else 0)
        if bank not in sizes:
            banks = ", ".join(f"0x{number:04x}" for number in sizes)
            raise unreadable(f"{what}, banks", f"{HASH_NAMES[bank]} among them", banks)
        events: list[Event] = []
        locality: int | None = None
        while octets.left and not (ccel and _only_padding(octets)):
            if len(events) == _MOST_EVENTS:
                raise unreadable(what, f"at most {_MOST_EVENTS} events", "more")
            event = _event(octets, sizes, bank)
            if event.type != _NO_ACTION:
                events.append(event)
            elif event.data[:16] == _LOCALITY:
                if locality is not None or len(event.data) != 17 or event.data[16] not in (0, 3, 4):
                    raise unreadable(f"{what}, startup locality", "once: 0, 3 or 4", event.data[16:].hex())
                locality = event.data[16]
        return cls(bank, tuple(events), locality or 0)

    @property
    def registers(self) -> frozenset[int]:
        """The registers that the log extends."""
        return frozenset(event.pcr for event in self.events)

    def replay(self, pcr: int) -> bytes:
        """What a register holds after all of its events: each one hashed onto the value before."""
        size = HASH_BYTES[self.bank]
        value = bytes(size - 1) + bytes([self.startup_locality if pcr == 0 else 0])
        for event in self.events:
            if event.pcr == pcr:
                value = hashlib.new(HASH_NAMES[self.bank], value + event.digest).digest()
        return value


def _only_padding(octets: Octets) -> bool:
    start = b"\xff" * min(4, octets.left)
    return octets.data.startswith(start, octets.at) and octets.data.count(0xFF, octets.at) == octets.left


def _header(octets: Octets, most_register: int) -> dict[int, int]:
    """The first event, in the old layout: which banks follow, and how long their digests are."""
    octets.uint(4, "header, register", most=most_register)
    octets.constant(_NO_ACTION.to_bytes(4, "little"), "header, type EV_NO_ACTION")
    octets.constant(bytes(20), "header, digest of zeros")
    body = Octets(octets.sized(4, "header, event", most=512), "event log, header", "little")
    body.constant(_SIGNATURE, "signature 'Spec ID Event03'")
    body.take(8, "platform class and version")
    count = body.uint(4, "number of banks", least=1, most=_MOST_BANKS)
    sizes: dict[int, int] = {}
    for _ in range(count):
        number, size = body.uint(2, "bank"), body.uint(2, "digest size")
        if _DIGEST_BYTES.get(number) != size or number in sizes:
            raise unreadable("event log, header, bank", "a known digest, once", f"0x{number:04x} of {size}")
        sizes[number] = size
    body.sized(1, "vendor's own", most=255)
    body.end()
    return sizes


def _event(octets: Octets, sizes: dict[int, int], bank: int) -> Event:
    pcr = octets.uint(4, "event, register", most=0xFFFF_FFFF)
    kind = octets.uint(4, "event, type")
    if pcr >= MOST_PCRS and kind != _NO_ACTION:
        raise unreadable("event log, event, register", f"below {MOST_PCRS}", str(pcr))
    count = octets.uint(4, "event, number of digests", least=1, most=_MOST_BANKS)
    digests: dict[int, bytes] = {}
    for _ in range(count):
        number = octets.uint(2, "event, bank")
        if number not in sizes or number in digests:
            raise unreadable("event log, event, bank", "one of the header's, once", f"0x{number:04x}")
        digests[number] = octets.take(sizes[number], "event, digest")
    if bank not in digests:
        raise unreadable("event log, event", f"a digest for {HASH_NAMES[bank]}", "none")
    data = octets.sized(4, "event, data", most=MOST_EVENT_LOG_BYTES)
    return Event(pcr, kind, digests[bank], data)
