"""What a log's leaves say: contracts, heads of ledgers, releases. Each is made from a document that shows
it."""

from __future__ import annotations

from typing import Any

from myelin.contract import Head, SignedContract, Statement
from myelin.errors import ProtocolError
from myelin.wire import DIGEST_BYTES, SIGNING_KEY_BYTES, Shape, Value, decode, digest, encode, verify1
from myelin.wire import signed_payload as payload_of

__all__ = ["CERTIFICATE_TYPE", "contract_leaf", "head_leaf", "read_leaf", "release_leaf"]

CERTIFICATE_TYPE = "application/vnd.myelin.certificate+cbor"
"""Content type of an enclave's signature over a certificate."""

_SHAPE = Shape()
_KEYS = {
    "contract": ("contract", "measurement", "plan", "owners"),
    "head": ("contract", "ledger", "owner", "count", "head"),
    "release": ("contract", "measurement", "run", "certificate"),
}


def _leaf(kind: str, **fields: object) -> bytes:
    return encode({"log": "myelin/log/v1", "kind": kind, **fields})


def contract_leaf(signed: SignedContract) -> bytes:
    """A contract that every party signed, with the measurement that it names, and the owners' keys."""
    contract = signed.contract
    owners = [contract.parties[owner].signing_key for owner in contract.owners]
    named = {"measurement": contract.measurement, "plan": contract.plan, "owners": owners}
    return _leaf("contract", contract=signed.digest, **named)


def head_leaf(statement: Statement, owner: bytes, head: Head) -> bytes:
    """The head of an owner's ledger, with the grants in it, under the contract that it was stated for."""
    of = {"contract": statement.contract, "ledger": statement.ledger, "owner": owner}
    return _leaf("head", **of, count=head.count, head=head.digest)


def release_leaf(certificate: bytes) -> bytes:
    """What an enclave released, from its signed certificate (COSE_Sign1), by the key that the certificate
    names.

    That the key is an enclave's is not judged here: ``verify`` does that, with the evidence.
    """
    what = "certificate"
    value = decode(payload_of(certificate, what=what), what=what)
    if not isinstance(value, dict):
        raise _SHAPE.refuse(what, "a map", "something else")
    fields: dict[Any, Value] = dict(value)
    key = _SHAPE.bytes(fields.get("signing_key"), f"{what}, signing_key", size=SIGNING_KEY_BYTES)
    verify1(certificate, CERTIFICATE_TYPE, key, what=what)
    named = {
        name: _SHAPE.bytes(fields.get(name), f"{what}, {name}", size=DIGEST_BYTES)
        for name in ("contract", "measurement", "run")
    }
    return _leaf("release", **named, certificate=digest(certificate))


def read_leaf(leaf: bytes, *, refusal: str = "malformed_message") -> dict[str, Any]:
    """Read a leaf; raises the error named ``refusal`` unless it is exactly one of the above."""
    shape = Shape(refusal, refusal)
    value = decode(leaf, most_bytes=8192, refusal=refusal, what="leaf")
    kind = dict[Any, Value](value).get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ProtocolError.named(refusal, "leaf: expected a contract, a head or a release")
    fields = shape.map(value, "leaf", ("log", "kind", *_KEYS[kind]))
    if fields["log"] != "myelin/log/v1":
        raise shape.refuse("leaf", "version 1", "another")
    for name in _KEYS[kind]:
        if name == "owners":
            for owner in shape.array(fields[name], "leaf, owners", most=32):
                shape.bytes(owner, "leaf, owners", size=SIGNING_KEY_BYTES)
        elif name == "count":
            shape.uint(fields[name], "leaf, count")
        elif not (kind == "head" and name == "contract" and fields[name] is None):
            size = SIGNING_KEY_BYTES if name == "owner" else DIGEST_BYTES
            shape.bytes(fields[name], f"leaf, {name}", size=size)
    return {str(name): item for name, item in fields.items()}
