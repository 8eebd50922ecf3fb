"""What crosses trust boundaries, encoded one way: deterministic CBOR, digests, COSE_Sign1, HPKE.

The Python twin of the crate ``enclave/wire``. Everything here is pure; nothing here holds a policy.
"""

from myelin.wire.cbor import MOST_BYTES, Value, decode, encode
from myelin.wire.cose import SIGNATURE_BYTES, SIGNING_KEY_BYTES, sign1, signed_payload, verify1
from myelin.wire.digest import DIGEST_BYTES, boot_id, digest, info, report_data
from myelin.wire.hpke import (
    SEALING_KEY_BYTES,
    SEALING_OVERHEAD_BYTES,
    SealingKey,
    open_sealed,
    seal_to,
    sealing_key,
)
from myelin.wire.shape import Shape

__all__ = [
    "DIGEST_BYTES",
    "MOST_BYTES",
    "SEALING_KEY_BYTES",
    "SEALING_OVERHEAD_BYTES",
    "SIGNATURE_BYTES",
    "SIGNING_KEY_BYTES",
    "SealingKey",
    "Shape",
    "Value",
    "boot_id",
    "decode",
    "digest",
    "encode",
    "info",
    "open_sealed",
    "report_data",
    "seal_to",
    "sealing_key",
    "sign1",
    "signed_payload",
    "verify1",
]
