"""COSE_Sign1 and HPKE as the protocol uses them: known structure, and refusal of everything else."""

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from myelin.contract import Identity
from myelin.errors import ProtocolError
from myelin.wire import (
    SEALING_OVERHEAD_BYTES,
    boot_id,
    decode,
    digest,
    encode,
    info,
    open_sealed,
    report_data,
    seal_to,
    sign1,
    signed_payload,
    verify1,
)

IDENTITY = Identity.generate("north")
PUBLIC = IDENTITY.public
TYPE = "application/test"


def test_cose_sign1_by_hand():
    """The signature verifies over the structure of RFC 9052 section 4.4, written out here."""
    array = cbor2.loads(sign1(b"payload", TYPE, IDENTITY.signing))
    assert (cbor2.loads(array[0]), array[1], array[2]) == ({1: -7, 3: TYPE}, {}, b"payload")
    over = cbor2.dumps(["Signature1", array[0], b"", b"payload"])
    r, s = (int.from_bytes(array[3][i : i + 32], "big") for i in (0, 32))
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), PUBLIC.signing_key)
    key.verify(encode_dss_signature(r, s), over, ec.ECDSA(hashes.SHA256()))


def test_signatures_are_deterministic_and_verify():
    first, again = (sign1(b"p", TYPE, IDENTITY.signing) for _ in range(2))
    assert first == again
    assert verify1(first, TYPE, PUBLIC.signing_key) == signed_payload(first) == b"p"
    detached = sign1(b"p", TYPE, IDENTITY.signing, detached=True)
    assert verify1(detached, TYPE, PUBLIC.signing_key, payload=b"p") == b"p"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("signature_invalid", lambda a: [a[0], a[1], b"other", a[3]]),
        ("signature_invalid", lambda a: [a[0], a[1], a[2], bytes(64)]),
        ("signature_invalid", lambda a: [a[0], a[1], a[2], b"\xff" * 64]),
        ("signature_invalid", lambda a: [encode({1: -7}), a[1], a[2], a[3]]),
        ("signature_invalid", lambda a: [encode({1: -8, 3: TYPE}), a[1], a[2], a[3]]),
        ("malformed_message", lambda a: [a[0], {4: b"kid"}, a[2], a[3]]),
        ("malformed_message", lambda a: [a[0], a[1], None, a[3]]),
        ("malformed_message", lambda a: [a[0], a[1], a[2], a[3][:63]]),
        ("malformed_message", lambda a: a[:3]),
        ("malformed_message", lambda a: {"a": 1}),
    ],
)
def test_altered_signatures(name, change):
    array = decode(sign1(b"payload", TYPE, IDENTITY.signing))
    with pytest.raises(ProtocolError) as caught:
        verify1(encode(change(array)), TYPE, PUBLIC.signing_key)
    assert caught.value.name == name


def test_signature_for_another_purpose_key_or_form():
    signed = sign1(b"payload", TYPE, IDENTITY.signing)
    other = Identity.generate("south").public.signing_key
    for content_type, key in [("application/other", PUBLIC.signing_key), (TYPE, other), (TYPE, b"\x04" * 65)]:
        with pytest.raises(ProtocolError, match="signature_invalid"):
            verify1(signed, content_type, key)
    with pytest.raises(ProtocolError, match="detached"):
        verify1(signed, TYPE, PUBLIC.signing_key, payload=b"payload")
    with pytest.raises(ProtocolError, match="malformed"):
        verify1(cbor2.dumps(cbor2.CBORTag(18, cbor2.loads(signed))), TYPE, PUBLIC.signing_key)


def test_sealing_is_bound_to_key_info_and_content():
    context = info("test", b"place")
    sealed = seal_to(PUBLIC.sealing_key, b"secret", context)
    assert len(sealed) == len(b"secret") + SEALING_OVERHEAD_BYTES
    assert sealed != seal_to(PUBLIC.sealing_key, b"secret", context)

    def opened(content, where=context, key=IDENTITY):
        return open_sealed(key.sealing, content, where, refusal="grant_unsealable", what="it")

    assert opened(sealed) == b"secret"
    flipped = [
        sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]
        for i in (0, 600, 1100, 1119, 1120, -1 % len(sealed))
    ]
    for content in [*flipped, sealed[:-1], sealed + b"x", b"", bytes(1120)]:
        with pytest.raises(ProtocolError, match="grant_unsealable"):
            opened(content)
    with pytest.raises(ProtocolError, match="grant_unsealable"):
        opened(sealed, info("test", b"elsewhere"))
    with pytest.raises(ProtocolError, match="grant_unsealable"):
        opened(sealed, key=Identity.generate("south"))
    for key in (bytes(1215), b"\xff" * 1216):
        with pytest.raises(ProtocolError, match="no X-Wing public key"):
            seal_to(key, b"secret", context)
    small_order = PUBLIC.sealing_key[:1184] + bytes(32)
    with pytest.raises(ProtocolError, match="malformed_message"):
        seal_to(small_order, b"secret", context)


def test_digests_by_hand():
    hpke, signing = b"h" * 1216, b"s" * 65
    assert boot_id(hpke, signing) == digest(cbor2.dumps(["myelin/boot/v1", hpke, signing]))
    parts = {"nonce": b"n" * 32, "measurement": b"m" * 32, "contract": b"c" * 32, "policy": b"p" * 32}
    import hashlib

    expected = hashlib.sha512(
        cbor2.dumps(["myelin/report/v1", 1, parts["nonce"], hpke, signing, *list(parts.values())[1:]])
    ).digest()
    assert report_data(1, hpke_key=hpke, signing_key=signing, **parts) == expected
