"""Request frames and their refusals; a release request that has its form, and one that passed the checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from myelin.attest import MOST_EVIDENCE_BYTES
from myelin.contract.agreement import MOST_CONTRACT_BYTES, Contract, SignedContract
from myelin.errors import ProtocolError
from myelin.wire import (
    MOST_BYTES,
    SEALING_KEY_BYTES,
    SIGNING_KEY_BYTES,
    Shape,
    Value,
    boot_id,
    decode,
    digest,
    sealing_key,
)

__all__ = [
    "MOST_SIGNED_BYTES",
    "VERBS",
    "Case",
    "ReleaseRequest",
    "read_release",
    "read_request",
    "refused",
]

VERBS = {
    "challenge": (),
    "release": ("contract", "evidence", "hpke_key", "signing_key", "nonce", "mode"),
    "deposit": ("contract", "boot", "sealed", "signature"),
    "acknowledge": ("contract", "statement"),
}
"""What a broker answers, and the fields of each."""

MOST_SIGNED_BYTES = MOST_CONTRACT_BYTES + (16 << 10)
"""Longest signed contract in a request."""

_MOST_MESSAGE_CHARACTERS = 1024
_SHAPE = Shape()


def read_request(frame: bytes, verbs: Iterable[str]) -> tuple[str, dict[str, Value]]:
    """The verb of a request frame (without its length), one of ``verbs``, and all of its fields."""
    request = decode(frame, most_bytes=MOST_BYTES, what="request")
    if not isinstance(request, dict):
        raise _SHAPE.refuse("request", "a map", "something else")
    fields = {str(key): value for key, value in request.items()}
    verb = fields.get("verb")
    if not isinstance(verb, str) or verb not in verbs:
        raise ProtocolError.named("unknown_message", f"verb: expected one of {', '.join(verbs)}")
    return verb, fields


def refused(error: ProtocolError) -> dict[str, object]:
    """What the answer to a refused request says: a number, its name, and a message for people."""
    message = (error.detail or error.meaning)[:_MOST_MESSAGE_CHARACTERS]
    return {"error": error.number, "name": error.name, "message": message}


@dataclass(frozen=True)
class ReleaseRequest:
    """A release request that has its form."""

    signed: SignedContract
    evidence: bytes
    hpke_key: bytes
    signing_key: bytes
    nonce: bytes
    mode: str

    @property
    def contract(self) -> Contract:
        """The contract in it."""
        return self.signed.contract

    @property
    def researcher(self) -> bytes:
        """Digest of the researcher's signing key."""
        return digest(next(p.signing_key for p in self.contract.parties if p.role == "researcher"))

    @property
    def boot(self) -> bytes:
        """Which start of an enclave asks."""
        return boot_id(self.hpke_key, self.signing_key)


@dataclass(frozen=True)
class Case:
    """A request that passed every check but those of nonce and budget; which party this broker is in it."""

    request: ReleaseRequest
    party: int
    dataset: bytes


def read_release(fields: dict[str, Value]) -> ReleaseRequest:
    """Sizes first, then the contract's shape."""
    what = "request release"
    contract = _SHAPE.bytes(fields["contract"], f"{what}, contract", most=MOST_SIGNED_BYTES)
    evidence = _SHAPE.bytes(fields["evidence"], f"{what}, evidence", most=MOST_EVIDENCE_BYTES)
    hpke_key = _SHAPE.bytes(fields["hpke_key"], f"{what}, hpke_key", size=SEALING_KEY_BYTES)
    signing_key = _SHAPE.bytes(fields["signing_key"], f"{what}, signing_key", size=SIGNING_KEY_BYTES)
    nonce = _SHAPE.bytes(fields["nonce"], f"{what}, nonce", size=32)
    mode = _SHAPE.text(fields["mode"], f"{what}, mode", most=16)
    if mode not in ("fresh", "resume"):
        raise _SHAPE.refuse(f"{what}, mode", "fresh or resume", repr(mode))
    sealing_key(hpke_key, refusal="malformed_message", what=f"{what}, hpke_key")
    signed = SignedContract.from_bytes(contract)
    return ReleaseRequest(signed, evidence, hpke_key, signing_key, nonce, mode)
