"""SIGSTRUCT: the signed structure with which an enclave is started (Intel SDM volume 3D, section 37.14).

The processor starts an enclave only with a structure that names its MRENCLAVE and attributes and is signed
by some key. Whose it is does not matter to Myelin: a policy names MRENCLAVE, and anybody may sign an image
for their own machine. RSA-3072 with exponent 3 and PKCS #1 v1.5, as the processor wants it; the same key and
enclave give the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ...errors import InputError

__all__ = ["SIGSTRUCT_BYTES", "Sigstruct", "make_key", "read_key", "read_sigstruct", "sign_enclave"]

SIGSTRUCT_BYTES = 1808

_KEY_BITS, _KEY_BYTES, _EXPONENT = 3072, 384, 3
_HEADERS = (
    bytes.fromhex("06000000e10000000000010000000000"),
    bytes.fromhex("01010000600000006000000001000000"),
)
_HEAD = struct.Struct("<16sII16sI84x")  # header, vendor, date, header2, software-defined
_KEY = struct.Struct("<384sI384s")  # modulus, exponent, signature
_BODY = struct.Struct("<II4x16sQQQQ32s16x16sHH12x384s384s")
_SIGNED = (slice(0, 128), slice(900, 1028))
_RESERVED = (slice(44, 128), slice(908, 912), slice(992, 1008), slice(1028, 1040))
_EVERY_BIT, _EVERY_SELECT_BIT = (1 << 64) - 1, (1 << 32) - 1
_MOST_VERSION = 0xFFFF
_MOST_KEY_FILE_BYTES = 16 << 10


@dataclass(frozen=True)
class Sigstruct:
    """A structure that has been read and whose signature holds.

    ``attributes`` and ``xfrm`` are the two words of ATTRIBUTES, all of whose bits are enforced; ``mrsigner``
    is the SHA-256 of the key's modulus, the name of whoever signed.
    """

    mrenclave: bytes
    mrsigner: bytes
    attributes: int
    xfrm: int
    misc_select: int
    product_id: int
    security_version: int


def make_key() -> bytes:
    """A new signing key, PEM (PKCS #8, not encrypted)."""
    key = rsa.generate_private_key(public_exponent=_EXPONENT, key_size=_KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> rsa.RSAPrivateKey:
    """Read a signing key; InputError where it is not what the processor takes."""
    if len(pem) > _MOST_KEY_FILE_BYTES:
        raise InputError(f"signing key: {len(pem)} bytes, expected at most {_MOST_KEY_FILE_BYTES}")
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise InputError("signing key: expected an RSA key in PEM, without a passphrase") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise InputError("signing key: expected an RSA key, got one of another kind")
    exponent = key.public_key().public_numbers().e
    if (key.key_size, exponent) != (_KEY_BITS, _EXPONENT):
        raise InputError(
            f"signing key: expected RSA with {_KEY_BITS} bits and exponent {_EXPONENT}, which is all that "
            f"SGX takes, got {key.key_size} bits and exponent {exponent}. --make-key makes one"
        )
    return key


def sign_enclave(
    mrenclave: bytes,
    key: rsa.RSAPrivateKey,
    *,
    attributes: int,
    xfrm: int,
    misc_select: int = 0,
    product_id: int = 0,
    security_version: int = 0,
) -> bytes:
    """Make and sign the structure for an enclave, with every bit of its attributes enforced.

    Raises:
        InputError: a version does not fit its field.
    """
    for name, value in (("product id", product_id), ("security version", security_version)):
        if not 0 <= value <= _MOST_VERSION:
            raise InputError(f"{name} is {value}, expected 0 to {_MOST_VERSION}")
    modulus = key.public_key().public_numbers().n
    head = _HEAD.pack(_HEADERS[0], 0, 0, _HEADERS[1], 0)

    def body(first: int, second: int) -> bytes:
        quotients = (value.to_bytes(_KEY_BYTES, "little") for value in (first, second))
        return _BODY.pack(
            misc_select,
            _EVERY_SELECT_BIT,
            bytes(16),
            attributes,
            xfrm,
            _EVERY_BIT,
            _EVERY_BIT,
            mrenclave,
            bytes(16),
            product_id,
            security_version,
            *quotients,
        )

    unsigned = head + bytes(_KEY.size) + body(0, 0)
    signature = int.from_bytes(key.sign(_signed(unsigned), padding.PKCS1v15(), hashes.SHA256()), "big")
    # With these the processor cubes the signature without dividing.
    first, rest = divmod(signature**2, modulus)
    second = signature * rest // modulus
    middle = _KEY.pack(
        modulus.to_bytes(_KEY_BYTES, "little"), _EXPONENT, signature.to_bytes(_KEY_BYTES, "little")
    )
    return head + middle + body(first, second)


def _signed(structure: bytes) -> bytes:
    return b"".join(structure[part] for part in _SIGNED)


def read_sigstruct(data: bytes) -> Sigstruct:
    """Read a structure and check all that the processor would of it alone.

    Raises:
        InputError: names the field that is wrong, or says that the signature does not hold.
    """
    if len(data) != SIGSTRUCT_BYTES:
        raise InputError(f"SIGSTRUCT: expected {SIGSTRUCT_BYTES} bytes, got {len(data)}")
    header, vendor, _date, header2, _software = _HEAD.unpack_from(data)
    if (header, header2) != _HEADERS or vendor not in (0, 0x8086):
        raise InputError("SIGSTRUCT: expected the two headers that the processor wants, got others")
    if any(any(data[part]) for part in _RESERVED):
        raise InputError("SIGSTRUCT: expected zeros in its reserved fields, got others; sign the image again")
    modulus, exponent, signature = _KEY.unpack_from(data, _HEAD.size)
    body = _BODY.unpack_from(data, _HEAD.size + _KEY.size)
    select, select_mask, _family, attributes, xfrm, mask, xfrm_mask, measured = body[:8]
    if exponent != _EXPONENT or (select_mask, mask, xfrm_mask) != (
        _EVERY_SELECT_BIT,
        _EVERY_BIT,
        _EVERY_BIT,
    ):
        raise InputError("SIGSTRUCT: expected exponent 3 and every attribute enforced; sign the image again")
    n, s, first, second = (
        int.from_bytes(number, "little") for number in (modulus, signature, body[11], body[12])
    )
    try:
        public = rsa.RSAPublicNumbers(_EXPONENT, n).public_key()
        public.verify(signature[::-1], _signed(data), padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        raise InputError("SIGSTRUCT: the signature does not hold; sign the image again") from None
    quotient, rest = divmod(s**2, n)
    if n.bit_length() != _KEY_BITS or (first, second) != (quotient, s * rest // n):
        raise InputError("SIGSTRUCT: Q1 and Q2 are not those of the signature; sign the image again")
    signer = hashlib.sha256(modulus).digest()
    return Sigstruct(measured, signer, attributes, xfrm, select, body[9], body[10])
