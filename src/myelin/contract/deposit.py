"""Keeping an owner's share of a run's job key (protocol section 4, step 7)."""

from __future__ import annotations

from dataclasses import dataclass

from myelin.contract.keys import Identity
from myelin.contract.ledger import Ledger, Share
from myelin.errors import ProtocolError
from myelin.wire import (
    DIGEST_BYTES,
    SEALING_OVERHEAD_BYTES,
    Shape,
    decode,
    digest,
    encode,
    info,
    open_sealed,
    sign1,
    verify1,
)

__all__ = ["DEPOSIT_TYPE", "MOST_SEALED_BYTES", "RECEIPT_TYPE", "Deposit", "keep_deposit"]

DEPOSIT_TYPE = "application/vnd.myelin.deposit+cbor"
"""Content type of an enclave's signature over a deposit."""

RECEIPT_TYPE = "application/vnd.myelin.deposit-receipt+cbor"
"""Content type of an owner's receipt for a deposit."""

MOST_SEALED_BYTES = SEALING_OVERHEAD_BYTES + 512
"""Longest sealed share."""


@dataclass(frozen=True)
class Deposit:
    """A deposit as it was sent: under which contract, of which run, sealed, and signed by the run's
    enclave."""

    contract: bytes
    run: bytes
    sealed: bytes
    signature: bytes


def keep_deposit(ledger: Ledger, identity: Identity, deposit: Deposit, *, at_s: int) -> tuple[bytes, bool]:
    """Check a deposit, keep its share durably, and give the receipt, and whether it is new."""
    given = ledger.answer(deposit.contract, deposit.run, "fresh")
    if given is None:
        raise ProtocolError.named(
            "out_of_order", "no fresh key was released to this boot under this contract"
        )
    sealed_digest = digest(deposit.sealed)
    signed = verify1(deposit.signature, DEPOSIT_TYPE, given.signing_key, what="signature of the deposit")
    if signed != encode([deposit.run, given.party, sealed_digest]):
        raise ProtocolError.named("signature_invalid", "the deposit's signature is over other content")
    for kept in ledger.shares(deposit.contract):
        if kept.run == deposit.run:
            if kept.sealed_digest != sealed_digest:
                raise ProtocolError.named("already_given", "another share of this run was deposited before")
            return kept.receipt, False
    share = _opened(identity, deposit, given.party)
    ledger.record_share(deposit.contract, share, at_s=at_s)
    return share.receipt, True


def _opened(identity: Identity, deposit: Deposit, party: int) -> Share:
    shape = Shape("deposit_unsealable", "deposit_unsealable")
    context = info("myelin/share/v1", deposit.contract, deposit.run, party)
    plain = open_sealed(
        identity.sealing, deposit.sealed, context, refusal="deposit_unsealable", what="deposit"
    )
    value = decode(plain, refusal="deposit_unsealable", what="deposit")
    fields = shape.map(value, "deposit", ("run", "share", "check"))
    if shape.bytes(fields["run"], "deposit, run", size=DIGEST_BYTES) != deposit.run:
        raise ProtocolError.named("deposit_unsealable", "the deposit inside is of another run")
    receipt = encode([deposit.contract, deposit.run, party, digest(deposit.sealed)])
    return Share(
        deposit.run,
        shape.bytes(fields["share"], "deposit, share", size=32),
        shape.bytes(fields["check"], "deposit, check", size=32),
        digest(deposit.sealed),
        sign1(receipt, RECEIPT_TYPE, identity.signing),
    )
