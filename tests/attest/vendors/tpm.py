"""A TPM that does not exist: real keys and signatures, registers that it makes up, a firmware's event log."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from myelin.wire import encode

SHA1, SHA256, SHA384 = 0x0004, 0x000B, 0x000C
RSASSA, RSAPSS, ECDSA, NULL = 0x0014, 0x0016, 0x0018, 0x0010
HASHES = {SHA256: hashes.SHA256(), SHA384: hashes.SHA384()}
NAMES = {SHA1: "sha1", SHA256: "sha256", SHA384: "sha384"}
SIGNER = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 16 | 1 << 18
EV_NO_ACTION, EV_SEPARATOR, EV_IPL = 3, 4, 13


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


@dataclass
class Tpm:
    """A TPM with one attestation key, and a log of what it was told."""

    scheme: int = RSASSA
    hash: int = SHA256
    bank: int = SHA256
    attributes: int = SIGNER
    locality: int = 0
    events: list[tuple[int, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key: Any = (
            ec.generate_private_key(ec.SECP256R1() if self.hash == SHA256 else ec.SECP384R1())
            if self.scheme == ECDSA
            else rsa.generate_private_key(65537, 2048)
        )
        size = hashlib.new(NAMES[self.bank]).digest_size
        self.pcrs = {index: bytes(size) for index in range(24)}
        self.pcrs[0] = bytes(size - 1) + bytes([self.locality])
        for pcr in range(10):
            self.measure(pcr, EV_SEPARATOR, b"event of %d" % pcr)

    def measure(self, pcr: int, kind: int, data: bytes) -> None:
        """Extend a register and log it."""
        self.events.append((pcr, kind, data))
        digest = hashlib.new(NAMES[self.bank], data).digest()
        self.pcrs[pcr] = hashlib.new(NAMES[self.bank], self.pcrs[pcr] + digest).digest()

    def event_log(self) -> bytes:
        """The log, with a bank of SHA-1 beside the quoted one, as firmware often has it."""
        banks = sorted({SHA1, self.bank})
        sizes = b"".join(struct.pack("<HH", b, hashlib.new(NAMES[b]).digest_size) for b in banks)
        header = b"Spec ID Event03\0" + bytes(5) + b"\2\0\2" + struct.pack("<I", len(banks)) + sizes + b"\0"
        log = struct.pack("<II20sI", 0, EV_NO_ACTION, bytes(20), len(header)) + header
        locality = [(0, EV_NO_ACTION, b"StartupLocality\0" + bytes([self.locality]))] if self.locality else []
        for pcr, kind, data in locality + self.events:
            log += struct.pack("<III", pcr, kind, len(banks))
            for bank in banks:
                log += struct.pack("<H", bank) + hashlib.new(NAMES[bank], data).digest()
            log += struct.pack("<I", len(data)) + data
        return log

    def public(self) -> bytes:
        """``TPMT_PUBLIC``."""
        kind = 0x0023 if self.scheme == ECDSA else 0x0001
        head = struct.pack(">HHI", kind, SHA256, self.attributes) + sized(b"") + struct.pack(">H", NULL)
        head += struct.pack(">HH", self.scheme, self.hash)
        numbers = self.key.public_key().public_numbers()
        if self.scheme == ECDSA:
            size = 32 if self.hash == SHA256 else 48
            x, y = (sized(value.to_bytes(size, "big")) for value in (numbers.x, numbers.y))
            return head + struct.pack(">HH", 3 if self.hash == SHA256 else 4, NULL) + x + y
        return head + struct.pack(">HI", 2048, 0) + sized(numbers.n.to_bytes(256, "big"))

    def quote(self, nonce: bytes, selection: tuple[int, ...], **changes: Any) -> bytes:
        """``TPMS_ATTEST`` over the registers as they are."""
        size = changes.get("select_bytes", 3)
        bitmap = sum(1 << index for index in selection).to_bytes(size, "little")
        values = b"".join(self.pcrs[index] for index in selection)
        return (
            changes.get("magic", b"\xffTCG")
            + changes.get("type", b"\x80\x18")
            + sized(b"\0\x0b" + bytes(32))
            + sized(nonce)
            + struct.pack(">QIIB", 123_456_789, 7, 1, changes.get("safe", 1))
            + bytes(8)
            + struct.pack(">IHB", changes.get("count", 1), changes.get("bank", self.bank), size)
            + bitmap
            + sized(hashlib.new(NAMES[self.hash], values).digest())
        )

    def sign(self, quote: bytes) -> bytes:
        """``TPMT_SIGNATURE``."""
        head, algorithm = struct.pack(">HH", self.scheme, self.hash), HASHES[self.hash]
        if self.scheme == ECDSA:
            r, s = decode_dss_signature(self.key.sign(quote, ec.ECDSA(algorithm)))
            size = 32 if self.hash == SHA256 else 48
            return head + sized(r.to_bytes(size, "big")) + sized(s.to_bytes(size, "big"))
        pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        scheme = pss if self.scheme == RSAPSS else padding.PKCS1v15()
        return head + sized(self.key.sign(quote, scheme, algorithm))

    def parts(
        self, nonce: bytes, selection: tuple[int, ...] = tuple(range(10)), **changes: Any
    ) -> dict[str, Any]:
        """The evidence's fields."""
        quote = self.quote(nonce, selection, **changes)
        return {
            "ak_public": self.public(),
            "event_log": self.event_log(),
            "pcrs": {index: self.pcrs[index] for index in selection},
            "quote": quote,
            "signature": self.sign(quote),
        }

    def evidence(self, nonce: bytes, selection: tuple[int, ...] = tuple(range(10)), **changes: Any) -> bytes:
        """The evidence."""
        return encode(self.parts(nonce, selection, **changes))
