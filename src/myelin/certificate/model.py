"""Opening a sealed model: only its recipient can, and what comes out is checked before it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass

from myelin.certificate.claims import Certificate
from myelin.contract import Identity, SignedContract
from myelin.errors import CheckError, InputError, ProtocolError
from myelin.wire import DIGEST_BYTES, Shape, decode, digest, encode, info, open_sealed

__all__ = ["MOST_MODEL_BYTES", "SealedModel", "open_model"]

MOST_MODEL_BYTES = 1 << 32
"""Longest sealed model file."""

_SHAPE = Shape()
_MOST_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class SealedModel:
    """A model file as sealed to one recipient: of which contract and run, to which party id."""

    contract: bytes
    run: bytes
    recipient: int
    sealed: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> SealedModel:
        """Read the file's form; raises ``malformed_message``."""
        value = decode(data, most_bytes=MOST_MODEL_BYTES, what="sealed model")
        array = _SHAPE.array(value, "sealed model", size=5)
        if array[0] != "myelin-sealed-model":
            raise _SHAPE.refuse("sealed model", "a Myelin sealed model", "another document")
        return cls(
            _SHAPE.bytes(array[1], "sealed model, contract", size=DIGEST_BYTES),
            _SHAPE.bytes(array[2], "sealed model, run", size=DIGEST_BYTES),
            _SHAPE.uint(array[3], "sealed model, recipient", most=31),
            _SHAPE.bytes(array[4], "sealed model, content", most=MOST_MODEL_BYTES),
        )

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return encode(["myelin-sealed-model", self.contract, self.run, self.recipient, self.sealed])

    @property
    def info(self) -> bytes:
        """What the sealing is bound to."""
        return info("myelin/model/v1", self.contract, self.run, self.recipient)


def open_model(
    data: bytes,
    identity: Identity,
    *,
    contract: SignedContract | None = None,
    certificate: Certificate | None = None,
) -> bytes:
    """Open a sealed model file with the recipient's keys and give back the safetensors file in it.

    With ``contract`` the file must be of that contract and addressed to these keys; with ``certificate``
    (verify it first) the sealed and the plain model must be the ones that it names. Raises
    :class:`~myelin.errors.InputError` for a file that is no sealed model, :class:`~myelin.errors.CheckError`
    if it does not open or is another model.
    """
    try:
        sealed = SealedModel.from_bytes(data)
    except ProtocolError as error:
        raise InputError(f"expected a Myelin sealed model: {error.detail}") from None
    if contract is not None:
        _check_contract(sealed, identity, contract)
    if certificate is not None:
        _check_place(sealed, data, certificate)
    try:
        plain = open_sealed(
            identity.sealing, sealed.sealed, sealed.info, refusal="grant_unsealable", what="the sealed model"
        )
    except ProtocolError as error:
        raise CheckError(f"{error.detail}; only the key of recipient {sealed.recipient} opens it") from None
    if certificate is not None and digest(plain) != certificate.model:
        raise CheckError(
            f"model: expected the one in the certificate, {certificate.model.hex()}, got "
            f"{digest(plain).hex()}"
        )
    _check_safetensors(plain)
    return plain


def _check_contract(sealed: SealedModel, identity: Identity, contract: SignedContract) -> None:
    if sealed.contract != contract.digest:
        raise CheckError(
            f"sealed model: expected of contract {contract.digest.hex()}, got of {sealed.contract.hex()}"
        )
    public = identity.public
    party = contract.party_of(public.signing_key, public.sealing_key)
    if party != sealed.recipient:
        names = [p.name for p in contract.contract.parties]
        to = names[sealed.recipient] if sealed.recipient < len(names) else str(sealed.recipient)
        raise CheckError(f"sealed model: it is sealed to {to!r}, this is the key of {names[party]!r}")


def _check_place(sealed: SealedModel, data: bytes, certificate: Certificate) -> None:
    named = {ref.recipient: ref.digest for ref in certificate.sealed_models}
    places = ((sealed.contract, certificate.contract, "contract"), (sealed.run, certificate.run, "run"))
    for got, expected, what in places:
        if got != expected:
            raise CheckError(f"sealed model: expected of {what} {expected.hex()}, got of {got.hex()}")
    if named.get(sealed.recipient) != digest(data):
        raise CheckError(
            f"sealed model: expected the file that the certificate names for recipient {sealed.recipient}, "
            f"got {digest(data).hex()}"
        )


def _check_safetensors(plain: bytes) -> None:
    """Check the form of the file, so that a reader that trusts it is not led out of bounds."""
    length = int.from_bytes(plain[:8], "little")
    if len(plain) < 8 or not 2 <= length <= min(_MOST_HEADER_BYTES, len(plain) - 8):
        raise CheckError("model: expected a safetensors file, got bytes without its header")
    try:
        header = json.loads(plain[8 : 8 + length])
        spans = sorted(tuple(t["data_offsets"]) for name, t in header.items() if name != "__metadata__")
        at = 0
        for start, end in spans:
            if start != at or end < start:
                raise ValueError("offsets")
            at = end
        if at != len(plain) - 8 - length:
            raise ValueError("length")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckError(
            "model: expected a safetensors file, got a header that does not fit its data"
        ) from None
