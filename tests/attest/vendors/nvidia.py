"""A GPU that does not exist: SPDM 1.1 reports and a device's chain, laid out like NVIDIA's."""

from __future__ import annotations

import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vendors.certificates import Issued, issue, raw_signature, root

SHA384_OID = bytes.fromhex("0609608648016503040202")
FIRMWARE = bytes([0xF1] * 48)


def der(tag: int, content: bytes) -> bytes:
    """One DER element, of at most 255 bytes of content."""
    return bytes([tag]) + (b"\x81" if len(content) > 127 else b"") + bytes([len(content)]) + content


def composite_device_id(key: ec.EllipticCurvePrivateKey, firmware: bytes = FIRMWARE) -> x509.ExtensionType:
    """Hopper's extension."""
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pair = der(0x30, SHA384_OID + der(0x04, firmware))
    value = der(0x30, b"\2\1\1" + info + pair)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), value)


def dice_tcb_info(firmware: bytes = FIRMWARE, flags: int = 0x80) -> x509.ExtensionType:
    """Blackwell's extension, with a second digest of zeros as there."""
    digests = b"".join(der(0x30, SHA384_OID + der(0x04, digest)) for digest in (firmware, bytes(48)))
    value = der(0x30, der(0x80, b"VENDOR") + der(0xA6, digests) + der(0x87, bytes([0, flags, 0, 0, 1])))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1.1"), value)


class Gpu:
    """A GPU with a chain of five, as NVIDIA's have."""

    def __init__(self, extension: x509.ExtensionType | None = None, **leaf: Any) -> None:
        self.root = root("vendor test root (nvidia)")
        above, self.authorities = self.root, []
        for name in ("Identity", "Provisioner ICA 1", "GX100 A01 GSP BROM"):
            above = issue(name, above)
            self.authorities.append(above)
        key = ec.generate_private_key(ec.SECP384R1())
        extension = extension or composite_device_id(key)
        settings = {"authority": False, "key": key, "extensions": ((extension, False),), **leaf}
        self.leaf = issue("GX100 A01 GSP FMC LF", above, **settings)
        self.roots = self.root.pinned_as("nvidia")

    @property
    def chain(self) -> bytes:
        """The chain in PEM, the leaf first and the root last."""
        return b"".join(issued.pem for issued in (self.leaf, *reversed(self.authorities), self.root))

    def report(self, nonce: bytes, signer: Issued | None = None, **changes: Any) -> bytes:
        """A signed report; ``blocks`` and ``fields`` may be given, as pairs where one comes twice."""
        blocks = changes.get("blocks", blocks_of(3))
        record = b"".join(
            struct.pack("<BBHBH", index, 1, len(value) + 3, 1, len(value)) + value
            for index, value in pairs(blocks)
        )
        fields = changes.get("fields", FIELDS)
        opaque = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in pairs(fields))
        signed = changes.get("request", b"\x11\xe0\x01\xff" + nonce + b"\0")
        signed += changes.get("response", b"\x11\x60\0\0") + bytes([changes.get("count", len(blocks))])
        signed += len(record).to_bytes(3, "little") + record + bytes([0xEE] * 32)
        signed += struct.pack("<H", len(opaque)) + opaque
        return signed + raw_signature((signer or self.leaf).key, signed)


def pairs(items: Any) -> list[tuple[int, bytes]]:
    return list(items.items()) if isinstance(items, dict) else list(items)


FIELDS = {6: bytes.fromhex("005e009601000000"), 3: b"535.86.09\0", 20: FIRMWARE, 11: b"\x55"}


def blocks_of(measured: int, count: int = 64) -> dict[int, bytes]:
    """Blocks from 1, of which the first few measured something."""
    return {index: bytes([index if index <= measured else 0] * 48) for index in range(1, count + 1)}
