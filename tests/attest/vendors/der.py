"""The few lines of DER that it takes to write what vendors write, mistakes included."""

from datetime import datetime, timezone

RSA_PSS_SHA384 = bytes.fromhex(
    "304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d0609"
    "6086480165030402020500a203020130"
)


def tlv(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    size = (len(content).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(content).to_bytes(size, "big") + content


def sequence(*parts: bytes) -> bytes:
    return tlv(0x30, b"".join(parts))


def integer(value: int) -> bytes:
    bits_ = (~value if value < 0 else value).bit_length()
    return tlv(0x02, value.to_bytes(bits_ // 8 + 1, "big", signed=True))


def boolean(value: bool) -> bytes:
    return tlv(0x01, b"\xff" if value else b"\0")


def octets(content: bytes) -> bytes:
    return tlv(0x04, content)


def bits(content: bytes, unused: int = 0) -> bytes:
    return tlv(0x03, bytes([unused]) + content)


def text(content: str) -> bytes:
    return tlv(0x0C, content.encode())


def ia5(content: str) -> bytes:
    return tlv(0x16, content.encode())


def oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = b""
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return tlv(0x06, content)


def time(at_s: int) -> bytes:
    return tlv(0x18, datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y%m%d%H%M%SZ").encode())


def name(common: str) -> bytes:
    return sequence(tlv(0x31, sequence(oid("2.5.4.3"), text(common))))
