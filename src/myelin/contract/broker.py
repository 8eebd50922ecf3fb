"""An owner's key broker: the three requests of protocol section 4, each checked to the end before any effect.

Nothing here opens a socket, so everything can be tested as a function from request bytes to answer bytes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from myelin.attest import (
    MOST_EVIDENCE_BYTES,
    AppraisalPolicy,
    Evidence,
    Measurement,
    ReferenceValues,
    appraise,
)
from myelin.contract.agreement import MOST_CONTRACT_BYTES, SignedContract
from myelin.contract.event import Accountant, default_accountant
from myelin.contract.keys import Identity
from myelin.contract.ledger import Answer, Ledger, Share
from myelin.contract.store import Store
from myelin.errors import InputError, ProtocolError
from myelin.wire import (
    DIGEST_BYTES,
    MOST_BYTES,
    SEALING_KEY_BYTES,
    SEALING_OVERHEAD_BYTES,
    SIGNING_KEY_BYTES,
    Shape,
    Value,
    boot_id,
    decode,
    digest,
    encode,
    info,
    open_sealed,
    report_data,
    seal_to,
    sealing_key,
    sign1,
    verify1,
)

__all__ = ["DEPOSIT_TYPE", "RECEIPT_TYPE", "Broker", "Nonces"]

DEPOSIT_TYPE = "application/vnd.myelin.deposit+cbor"
"""Content type of an enclave's signature over a deposit."""

RECEIPT_TYPE = "application/vnd.myelin.deposit-receipt+cbor"
"""Content type of an owner's receipt for a deposit."""

_NONCE_LIFE_S = 600
_MOST_NONCES = 4096
_MOST_SEALED_BYTES = SEALING_OVERHEAD_BYTES + 512
_SHAPE = Shape()
_log = logging.getLogger("myelin.broker")


@final
@dataclass
class Nonces:
    """Nonces that were issued and not used: 32 random bytes, single use, ten minutes.

    They live in memory. A broker that restarts knows none of them, so it refuses them: the host asks again.
    """

    _issued: OrderedDict[bytes, float] = field(default_factory=OrderedDict, repr=False)

    def issue(self, now_s: float) -> bytes:
        """Draw a nonce. If too many are open, the oldest is forgotten."""
        while len(self._issued) >= _MOST_NONCES:
            self._issued.popitem(last=False)
        nonce = os.urandom(32)
        self._issued[nonce] = now_s
        return nonce

    def use(self, nonce: bytes, now_s: float) -> None:
        """Use up a nonce; raises ``nonce_unknown``."""
        issued_s = self._issued.pop(nonce, None)
        if issued_s is None:
            raise ProtocolError.named("nonce_unknown", "this nonce was not issued here, or was used before")
        if not 0 <= now_s - issued_s <= _NONCE_LIFE_S:
            raise ProtocolError.named("nonce_unknown", f"this nonce is older than {_NONCE_LIFE_S} s")


@dataclass(frozen=True)
class _Release:
    """A release request that has its form."""

    signed: SignedContract
    evidence: bytes
    hpke_key: bytes
    signing_key: bytes
    nonce: bytes
    mode: str

    @property
    def boot(self) -> bytes:
        return boot_id(self.hpke_key, self.signing_key)


@final
class Broker:
    """One owner's broker over an open store.

    Args:
        identity: the owner's keys.
        store: the owner's store; closed by the caller.
        policy: the appraisal policy; a contract must name its digest.
        contract: digest of the only contract to serve, or ``None`` for any that the owner has signed.
        known: reference values for hardware registers, beside those in the policy.
        endorsements: gives what manufacturers say about the hardware (certificates, collateral), anew for
            each request, since it goes out of date.
        accountant: gives ε of composed events; by default the package's.
        clock: gives the Unix time in seconds.
    """

    def __init__(
        self,
        identity: Identity,
        store: Store,
        policy: AppraisalPolicy,
        *,
        contract: bytes | None = None,
        known: tuple[Measurement, ...] = (),
        endorsements: Callable[[], tuple[bytes, ...]] = tuple,
        accountant: Accountant = default_accountant,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._public = identity.public
        self._ledger = Ledger(store, accountant)
        self._policy = policy
        self._only = contract
        self._known = known
        self._endorsements = endorsements
        self._clock = clock
        self._nonces = Nonces()
        self._lock = threading.Lock()

    def answer(self, frame: bytes) -> bytes:
        """Answer one request frame (without its length). A refusal is an answer too; nothing else is raised
        for what a stranger sent."""
        with self._lock:
            try:
                return encode({"ok": True, **self._handle(frame)})
            except ProtocolError as error:
                refusal = error
            except InputError as error:  # the accountant refuses the contract's numbers
                refusal = ProtocolError.named("contract_malformed", str(error))
        _log.warning("refused: %s", refusal)
        return encode(
            {
                "ok": False,
                "error": refusal.number,
                "name": refusal.name,
                "message": (refusal.detail or refusal.meaning)[:1024],
            }
        )

    def _handle(self, frame: bytes) -> dict[str, object]:
        request = decode(frame, most_bytes=MOST_BYTES, what="request")
        if not isinstance(request, dict):
            raise _SHAPE.refuse("request", "a map", "something else")
        fields = {str(key): value for key, value in request.items()}
        verbs: dict[str, tuple[Callable[[dict[str, Value]], dict[str, object]], tuple[str, ...]]] = {
            "challenge": (self._challenge, ()),
            "release": (
                self._release,
                ("contract", "evidence", "hpke_key", "signing_key", "nonce", "mode"),
            ),
            "deposit": (self._deposit, ("contract", "boot", "sealed", "signature")),
        }
        verb = fields.get("verb")
        if not isinstance(verb, str) or verb not in verbs:
            raise ProtocolError.named("unknown_message", "verb: expected challenge, release or deposit")
        handle, keys = verbs[verb]
        return handle(_SHAPE.map(fields, f"request {verb}", ("verb", *keys)))

    def _challenge(self, fields: dict[str, Value]) -> dict[str, object]:
        return {"nonce": self._nonces.issue(self._clock()), "policy": self._policy.digest}

    def _release(self, fields: dict[str, Value]) -> dict[str, object]:
        """Protocol section 4, step 3, in its order."""
        now_s = self._clock()
        request = _read_release(fields)
        request.signed.verify()
        party = self._own_party(request.signed)
        contract = request.signed.contract
        data_key = self._ledger.data_key(contract.datasets[contract.owners.index(party)].digest)
        if now_s >= contract.expires_s:
            raise ProtocolError.named(
                "contract_expired", f"it expired at {contract.expires_s}, now is {int(now_s)} (Unix seconds)"
            )
        if contract.policy != self._policy.digest:
            raise ProtocolError.named(
                "wrong_policy",
                f"expected the policy of this broker ({self._policy.name}), {self._policy.digest.hex()}, got "
                f"{contract.policy.hex()}",
            )
        self._appraise(request, int(now_s))
        self._nonces.use(request.nonce, now_s)
        answer, debited = self._debit(request, party, data_key, int(now_s))
        return {"grant": answer.grant, "party": answer.party, "debited": debited}

    def _own_party(self, signed: SignedContract) -> int:
        if self._only is not None and signed.digest != self._only:
            raise ProtocolError.named(
                "wrong_contract",
                f"this broker serves the contract {self._only.hex()}, not {signed.digest.hex()}",
            )
        party = signed.party_of(self._public.signing_key, self._public.sealing_key)
        if party not in signed.contract.owners:
            raise ProtocolError.named(
                "not_a_party", "this broker's keys are the researcher's, not an owner's"
            )
        return party

    def _appraise(self, request: _Release, now_s: int) -> None:
        contract = request.signed.contract
        expected = report_data(
            0,
            nonce=request.nonce,
            hpke_key=request.hpke_key,
            signing_key=request.signing_key,
            measurement=contract.measurement,
            contract=request.signed.digest,
            policy=self._policy.digest,
        )
        reference = ReferenceValues(frozenset({contract.measurement}), (expected,), self._known)
        evidence = Evidence.from_cmw(request.evidence)
        try:
            endorsements = self._endorsements()
        except InputError as error:
            raise ProtocolError.named("evidence_refused", f"endorsements: {error}") from None
        result = appraise(evidence, endorsements, reference, self._policy, now_s)
        if not result.trusted:
            failed = list(result.checks.failures())
            text = "; ".join(f"{c.name}: expected {c.expected[:140]}, got {c.got[:140]}" for c in failed)
            other_image = [c.name for c in failed][:1] == ["measurement"]
            raise ProtocolError.named("wrong_measurement" if other_image else "evidence_refused", text)

    def _debit(self, request: _Release, party: int, data_key: bytes, now_s: int) -> tuple[Answer, bool]:
        """Check the budget, write debit and answer in one durable transaction, and only then return it."""
        contract, contract_digest = request.signed.contract, request.signed.digest
        fresh = request.mode == "fresh"
        with self._ledger.store.transaction():
            given = self._ledger.answer(contract_digest, request.boot, request.mode)
            if given is not None:
                _log.info(
                    "same answer again: contract %.16s boot %.16s", contract_digest.hex(), request.boot.hex()
                )
                return given, False
            share = None if fresh else self._last_share(contract_digest)
            total = None
            if fresh:
                total = self._ledger.check(contract_digest, contract.event, contract.budget_of(party))
            answer = Answer(self._grant(request, party, data_key, share), party, request.signing_key)
            fields: dict[str, Any] = {
                "contract": contract_digest,
                "name": contract.name,
                "measurement": contract.measurement,
                "boot": request.boot,
                "mode": request.mode,
                "at_s": now_s,
            }
            self._ledger.record_release(fields, contract.event if fresh else None, answer)
        _log.info(
            "released: contract %.16s boot %.16s mode %s ledger ε %s of %.6g",
            contract_digest.hex(),
            request.boot.hex(),
            request.mode,
            "unchanged" if total is None else f"{total:.6g}",
            self._ledger.budget.epsilon,
        )
        return answer, fresh

    def _last_share(self, contract: bytes) -> Share:
        shares = self._ledger.shares(contract)
        if not shares:
            raise ProtocolError.named("no_share", "no share was deposited under this contract; ask for fresh")
        return shares[-1]

    def _grant(self, request: _Release, party: int, data_key: bytes, share: Share | None) -> bytes:
        contract_digest = request.signed.digest
        plain = encode(
            {
                "data_key": data_key,
                "mode": request.mode,
                "run": share.run if share else None,
                "share": share.share if share else None,
                "check": share.check if share else None,
            }
        )
        measurement = request.signed.contract.measurement
        context = info("myelin/grant/v1", contract_digest, measurement, request.boot, party)
        return seal_to(request.hpke_key, plain, context, what="hpke_key")

    def _deposit(self, fields: dict[str, Value]) -> dict[str, object]:
        """Protocol section 4, step 7."""
        contract = _SHAPE.bytes(fields["contract"], "request deposit, contract", size=DIGEST_BYTES)
        run = _SHAPE.bytes(fields["boot"], "request deposit, boot", size=DIGEST_BYTES)
        sealed = _SHAPE.bytes(fields["sealed"], "request deposit, sealed", most=_MOST_SEALED_BYTES)
        signature = _SHAPE.bytes(fields["signature"], "request deposit, signature", most=512)
        given = self._ledger.answer(contract, run, "fresh")
        if given is None:
            raise ProtocolError.named(
                "out_of_order", "no fresh key was released to this boot under this contract"
            )
        expected = encode([run, given.party, digest(sealed)])
        signed = verify1(signature, DEPOSIT_TYPE, given.signing_key, what="signature of the deposit")
        if signed != expected:
            raise ProtocolError.named("signature_invalid", "the deposit's signature is over other content")
        for kept in self._ledger.shares(contract):
            if kept.run == run:
                if kept.sealed_digest != digest(sealed):
                    raise ProtocolError.named(
                        "already_given", "another share of this run was deposited before"
                    )
                return {"receipt": kept.receipt}
        share = self._open_deposit(contract, run, given.party, sealed)
        self._ledger.record_share(contract, share, at_s=int(self._clock()))
        _log.info("share kept: contract %.16s run %.16s", contract.hex(), run.hex())
        return {"receipt": share.receipt}

    def _open_deposit(self, contract: bytes, run: bytes, party: int, sealed: bytes) -> Share:
        shape = Shape("deposit_unsealable", "deposit_unsealable")
        context = info("myelin/share/v1", contract, run, party)
        plain = open_sealed(
            self._identity.sealing, sealed, context, refusal="deposit_unsealable", what="deposit"
        )
        value = decode(plain, refusal="deposit_unsealable", what="deposit")
        fields = shape.map(value, "deposit", ("run", "share", "check"))
        if shape.bytes(fields["run"], "deposit, run", size=DIGEST_BYTES) != run:
            raise ProtocolError.named("deposit_unsealable", "the deposit inside is of another run")
        receipt = encode([contract, run, party, digest(sealed)])
        return Share(
            run,
            shape.bytes(fields["share"], "deposit, share", size=32),
            shape.bytes(fields["check"], "deposit, check", size=32),
            digest(sealed),
            sign1(receipt, RECEIPT_TYPE, self._identity.signing),
        )


def _read_release(fields: dict[str, Value]) -> _Release:
    """Sizes first, then the contract's shape."""
    what = "request release"
    contract = _SHAPE.bytes(fields["contract"], f"{what}, contract", most=MOST_CONTRACT_BYTES + (16 << 10))
    evidence = _SHAPE.bytes(fields["evidence"], f"{what}, evidence", most=MOST_EVIDENCE_BYTES)
    hpke_key = _SHAPE.bytes(fields["hpke_key"], f"{what}, hpke_key", size=SEALING_KEY_BYTES)
    signing_key = _SHAPE.bytes(fields["signing_key"], f"{what}, signing_key", size=SIGNING_KEY_BYTES)
    nonce = _SHAPE.bytes(fields["nonce"], f"{what}, nonce", size=32)
    mode = _SHAPE.text(fields["mode"], f"{what}, mode", most=16)
    if mode not in ("fresh", "resume"):
        raise _SHAPE.refuse(f"{what}, mode", "fresh or resume", repr(mode))
    sealing_key(hpke_key, refusal="malformed_message", what=f"{what}, hpke_key")
    signed = SignedContract.from_bytes(contract)
    return _Release(signed, evidence, hpke_key, signing_key, nonce, mode)
