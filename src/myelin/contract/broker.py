"""An owner's key broker: the requests of protocol sections 4 and 10, each checked to the end before any
effect.

Nothing here opens a socket, so everything can be tested as a function from request bytes to answer bytes.
Time, randomness and the places of files come from :class:`~myelin.contract.Surroundings` alone.

Two locks: one over the store, never held while another machine is waited for, so that brokers can be each
other's witnesses; and one over the anchors, so that they are advanced one release at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, final

from myelin.attest import (
    AppraisalPolicy,
    Evidence,
    Measurement,
    ReferenceValues,
    appraise,
)
from myelin.contract.agreement import Contract, SignedContract
from myelin.contract.anchor import Anchor, Occasion
from myelin.contract.deposit import MOST_SEALED_BYTES, Deposit, keep_deposit
from myelin.contract.event import Accountant, default_accountant
from myelin.contract.keys import Identity
from myelin.contract.ledger import Answer, Ledger, Reservation, Share
from myelin.contract.nonces import Nonces
from myelin.contract.request import (
    MOST_SIGNED_BYTES,
    VERBS,
    Case,
    ReleaseRequest,
    read_release,
    read_request,
    refused,
)
from myelin.contract.store import Store
from myelin.contract.surroundings import Surroundings
from myelin.contract.witness import MOST_STATEMENT_BYTES, Statement, acknowledge, remember
from myelin.contract.zcdp import micro_zcdp
from myelin.errors import InputError, ProtocolError
from myelin.wire import (
    DIGEST_BYTES,
    Shape,
    Value,
    digest,
    encode,
    info,
    report_data,
)

__all__ = ["Anchors", "Broker", "DataKeys", "Observe", "no_anchors"]

Observe: TypeAlias = Callable[[str, Mapping[str, object]], None]
"""Is told what happened (``released``, ``refused``, …) with facts that hold no secret. If it raises, the
answer does not leave."""

Anchors: TypeAlias = Callable[[Contract | None], tuple[Anchor, ...]]
"""Gives the anchors to use for a contract; for ``None`` those of the ledger alone."""

DataKeys: TypeAlias = Callable[[bytes], bytes]
"""Gives the data key of a dataset by the digest of its sealed file; raises ``dataset_unknown``."""

_SHAPE = Shape()
_log = logging.getLogger("myelin.broker")


def no_anchors(contract: Contract | None) -> tuple[Anchor, ...]:
    """No anchors: contracts that name any are refused."""
    return ()


def _unobserved(happened: str, facts: Mapping[str, object]) -> None:
    return None


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
        surroundings: clock, randomness, sealing.
        anchors: what the ledger is anchored by; a contract that names others is refused.
        data_keys: where data keys are, if not in the store.
        observe: is told what happened.
        rehearse: check everything, release nothing: every release is refused with what it would have been.
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
        surroundings: Surroundings | None = None,
        anchors: Anchors = no_anchors,
        data_keys: DataKeys | None = None,
        observe: Observe = _unobserved,
        rehearse: bool = False,
    ) -> None:
        self._identity = identity
        self._public = identity.public
        self._ledger = Ledger(store, accountant)
        self._policy = policy
        self._only = contract
        self._known = known
        self._endorsements = endorsements
        self._around = surroundings or Surroundings()
        self._anchors = anchors
        self._data_keys = data_keys or self._ledger.data_key
        self._observe = observe
        self._rehearse = rehearse
        self._nonces = Nonces(self._around.draw)
        self.lock = threading.RLock()
        """Held while the store is used; whoever reads it beside the broker takes it too."""
        self._anchoring = threading.Lock()

    def answer(self, frame: bytes) -> bytes:
        """Answer one request frame (without its length). A refusal is an answer too; nothing else is raised
        for what a stranger sent."""
        verb = "unreadable"
        try:
            try:
                verb, fields = read_request(frame, VERBS)
                return encode({"ok": True, **self._handle(verb, fields)})
            except InputError as error:  # the accountant refuses the contract's numbers
                raise ProtocolError.named("contract_malformed", str(error)) from None
        except ProtocolError as error:
            refusal = error
        told = refused(refusal)
        self._tell("refused", {"verb": verb, **told})
        return encode({"ok": False, **told})

    def settle(self) -> None:
        """Housekeeping at the start and every minute: settle reservations of expired contracts, and bring the
        ledger's own anchors to what was revoked or limited since. Raises what an anchor raises."""
        with self.lock:
            settled = self._ledger.settle(self._around.clock())
        for debit in settled:
            self._tell("charged", {"contract": debit.contract, "boot": debit.boot})
        anchors = self._anchors(None)
        if not anchors:
            return
        with self.lock, self._ledger.store.transaction():
            behind = [a.name for a in anchors if self._ledger.unanchored(a.name)]
            self._ledger.intend(behind)
        self._advance(anchors, Occasion(self._ledger.store.ledger_id))

    def outlook(self, signed: SignedContract) -> list[tuple[str, str]]:
        """What each rule that needs no enclave says of a contract: its name, and why not, if not. To be asked
        before serving."""
        contract, now_s = signed.contract, self._around.clock()

        def quotas() -> None:
            researcher = digest(next(p.signing_key for p in contract.parties if p.role == "researcher"))
            dataset = contract.datasets[contract.owners.index(self._own_party(signed))].digest
            self._ledger.check_revoked(signed.digest, contract.measurement, b"", researcher)
            self._ledger.check_quotas(contract.event, researcher, dataset, now_s)

        rules: list[tuple[str, Callable[[], object]]] = [
            ("every party has signed", signed.verify),
            ("this owner is in it, and its dataset's key is here", lambda: self._holds(signed)),
            ("it has not expired", lambda: _unexpired(contract, now_s)),
            ("its policy is this broker's", lambda: self._same_policy(contract)),
            ("its anchors are here and agree with the ledger", lambda: self._agree(signed)),
            (
                "the budget allows one more run",
                lambda: self._ledger.check(
                    signed.digest, contract.event, contract.budget_of(self._own_party(signed))
                ),
            ),
            ("nothing is revoked, and the quotas allow it", quotas),
        ]
        found = []
        for name, rule in rules:
            try:
                rule()
                found.append((name, ""))
            except (ProtocolError, InputError) as error:
                found.append((name, str(error)))
        return found

    def _holds(self, signed: SignedContract) -> None:
        contract = signed.contract
        self._data_keys(contract.datasets[contract.owners.index(self._own_party(signed))].digest)

    def _agree(self, signed: SignedContract) -> None:
        self._advance(self._anchors_of(signed.contract), Occasion(self._ledger.store.ledger_id, signed))

    def _same_policy(self, contract: Contract) -> None:
        if contract.policy != self._policy.digest:
            raise ProtocolError.named(
                "wrong_policy",
                f"expected the policy of this broker ({self._policy.name}), {self._policy.digest.hex()}, got "
                f"{contract.policy.hex()}",
            )

    def _tell(self, happened: str, facts: Mapping[str, object]) -> None:
        shown = (f"{k} {v.hex()[:16] if isinstance(v, bytes) else v}" for k, v in facts.items())
        _log.log(
            logging.WARNING if happened == "refused" else logging.INFO, "%s: %s", happened, ", ".join(shown)
        )
        self._observe(happened, facts)

    def _handle(self, verb: str, fields: dict[str, Value]) -> dict[str, object]:
        handles = {
            "challenge": self._challenge,
            "release": self._release,
            "deposit": self._deposit,
            "acknowledge": self._acknowledge,
        }
        return handles[verb](_SHAPE.map(fields, f"request {verb}", ("verb", *VERBS[verb])))

    def _challenge(self, fields: dict[str, Value]) -> dict[str, object]:
        with self.lock:
            nonce = self._nonces.issue(self._around.clock())
        return {"nonce": nonce, "policy": self._policy.digest}

    def _release(self, fields: dict[str, Value]) -> dict[str, object]:
        """Protocol section 4, step 3, in its order."""
        request = read_release(fields)
        request.signed.verify()
        with self.lock:
            case = self._check(request, self._around.clock())
        anchors = self._anchors_of(request.contract)
        occasion = Occasion(self._ledger.store.ledger_id, request.signed)
        self._advance(anchors, occasion)  # before anything is debited: they answer, and nothing was put back
        with self.lock:
            reserved = self._reserve(case, [anchor.name for anchor in anchors])
        proofs = self._advance(anchors, occasion) if reserved is not None else []
        with self.lock:
            answer, debited = self._finish(case, reserved, proofs)
        facts = {
            "contract": request.signed.digest,
            "measurement": request.contract.measurement,
            "boot": request.boot,
            "researcher": request.researcher,
            "dataset": case.dataset,
            "mode": request.mode,
            "debited": debited,
            "anchors": [anchor.name for anchor in anchors],
        }
        self._tell("released", facts)
        return {"grant": answer.grant, "party": answer.party, "debited": debited}

    def _check(self, request: ReleaseRequest, now_s: float) -> Case:
        """Everything but anchors, nonce and budget."""
        party = self._own_party(request.signed)
        contract = request.contract
        dataset = contract.datasets[contract.owners.index(party)].digest
        self._data_keys(dataset)
        _unexpired(contract, now_s)
        self._check_revoked(request)
        self._same_policy(contract)
        self._appraise(request, int(now_s))
        return Case(request, party, dataset)

    def _check_revoked(self, request: ReleaseRequest) -> None:
        runs = [request.boot]
        if request.mode == "resume":
            runs += [share.run for share in self._ledger.shares(request.signed.digest)[-1:]]
        for run in runs:
            self._ledger.check_revoked(
                request.signed.digest, request.contract.measurement, run, request.researcher
            )

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

    def _appraise(self, request: ReleaseRequest, now_s: int) -> None:
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

    def _anchors_of(self, contract: Contract) -> tuple[Anchor, ...]:
        anchors = self._anchors(contract)
        missing = [kind for kind in contract.anchors if kind not in {anchor.kind for anchor in anchors}]
        if missing:
            raise ProtocolError.named(
                "anchor_unavailable",
                f"the contract wants the ledger anchored by {', '.join(missing)}, which this broker was not "
                "given; start it with them (docs/broker.md)",
            )
        return anchors

    def _advance(self, anchors: Iterable[Anchor], occasion: Occasion) -> list[tuple[str, bytes]]:
        """Bring every anchor to the last head that is intended for it."""
        proofs = []
        with self._anchoring:
            for anchor in anchors:
                with self.lock:
                    heads = self._ledger.heads(anchor.name)
                proofs.append((anchor.name, anchor.advance(heads, occasion)))
        return proofs

    def _reserve(self, case: Case, anchors: list[str]) -> int | None:
        """Use up the nonce, check the budget, and reserve the debit in one durable transaction.

        Gives the reservation's number; ``None`` where nothing is debited.
        """
        request, now_s = case.request, self._around.clock()
        contract, fresh = request.contract, request.mode == "fresh"
        self._nonces.use(request.nonce, now_s)
        with self._ledger.store.transaction():
            if self._ledger.answer(request.signed.digest, request.boot, request.mode) is not None:
                return None
            if not fresh:
                self._last_share(request.signed.digest)
                self._rehearsed(case, None)
                return None
            reserved = self._ledger.reserved(request.signed.digest, request.boot)
            if reserved is not None:
                return reserved.number
            total = self._ledger.check(request.signed.digest, contract.event, contract.budget_of(case.party))
            self._ledger.check_quotas(contract.event, request.researcher, case.dataset, now_s)
            self._rehearsed(case, total)
            reservation = Reservation(
                request.signed.digest,
                contract.name,
                contract.measurement,
                request.boot,
                int(now_s),
                contract.expires_s,
                contract.event,
                case.dataset,
                request.researcher,
                case.party,
                request.signing_key,
            )
            number = self._ledger.reserve(reservation, anchors).number
        facts = {"contract": request.signed.digest, "boot": request.boot, "epsilon": f"{total:.6g}"}
        self._tell("reserved", {**facts, "zcdp_u": micro_zcdp(contract.event)})
        return number

    def _rehearsed(self, case: Case, total: float | None) -> None:
        if self._rehearse:
            cost = "at no new cost" if total is None else f"the ledger would be at ε {total:.6g}"
            raise ProtocolError.named(
                "rehearsal",
                f"would release the key of dataset {case.dataset.hex()[:16]}… to boot "
                f"{case.request.boot.hex()[:16]}… of image {case.request.contract.measurement.hex()[:16]}… "
                f"under contract {case.request.signed.digest.hex()[:16]}…; {cost}",
            )

    def _finish(
        self, case: Case, reserved: int | None, proofs: list[tuple[str, bytes]]
    ) -> tuple[Answer, bool]:
        """Write the grant in one durable transaction, and only then give it."""
        request, now_s = case.request, int(self._around.clock())
        contract_digest = request.signed.digest
        self._check_revoked(request)
        with self._ledger.store.transaction():
            given = self._ledger.answer(contract_digest, request.boot, request.mode)
            if given is not None:
                return given, False
            share = None if request.mode == "fresh" else self._last_share(contract_digest)
            grant = self._grant(request, case.party, self._data_keys(case.dataset), share)
            answer = Answer(grant, case.party, request.signing_key)
            if reserved is not None:
                self._ledger.commit(reserved, grant, proofs, at_s=now_s)
                return answer, True
            fields: dict[str, Any] = {
                "contract": contract_digest,
                "name": request.contract.name,
                "measurement": request.contract.measurement,
                "boot": request.boot,
                "mode": request.mode,
                "at_s": now_s,
            }
            self._ledger.record_release(fields, answer)
            return answer, False

    def _last_share(self, contract: bytes) -> Share:
        shares = self._ledger.shares(contract)
        if not shares:
            raise ProtocolError.named("no_share", "no share was deposited under this contract; ask for fresh")
        return shares[-1]

    def _grant(self, request: ReleaseRequest, party: int, data_key: bytes, share: Share | None) -> bytes:
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
        return self._around.seal(request.hpke_key, plain, context, what="hpke_key")

    def _deposit(self, fields: dict[str, Value]) -> dict[str, object]:
        """Protocol section 4, step 7."""
        contract = _SHAPE.bytes(fields["contract"], "request deposit, contract", size=DIGEST_BYTES)
        run = _SHAPE.bytes(fields["boot"], "request deposit, boot", size=DIGEST_BYTES)
        sealed = _SHAPE.bytes(fields["sealed"], "request deposit, sealed", most=MOST_SEALED_BYTES)
        signature = _SHAPE.bytes(fields["signature"], "request deposit, signature", most=512)
        with self.lock:
            at_s = int(self._around.clock())
            deposit = Deposit(contract, run, sealed, signature)
            receipt, new = keep_deposit(self._ledger, self._identity, deposit, at_s=at_s)
        if new:
            self._tell("kept", {"contract": contract, "run": run})
        return {"receipt": receipt}

    def _acknowledge(self, fields: dict[str, Value]) -> dict[str, object]:
        """Protocol section 10: witness another owner's ledger, for a contract that both have signed."""
        what = "request acknowledge"
        raw = _SHAPE.bytes(fields["contract"], f"{what}, contract", most=MOST_SIGNED_BYTES)
        signed = _SHAPE.bytes(fields["statement"], f"{what}, statement", most=MOST_STATEMENT_BYTES)
        contract = SignedContract.from_bytes(raw)
        contract.verify()
        own = self._own_party(contract)
        for party in contract.contract.owners:
            if party == own:
                continue
            key = contract.contract.parties[party].signing_key
            try:
                statement = Statement.read(signed, key)
            except ProtocolError as error:
                if error.name == "signature_invalid":
                    continue
                raise
            if statement.contract != contract.digest:
                raise ProtocolError.named("wrong_contract", "the statement was made for another contract")
            with self.lock:
                now_s = int(self._around.clock())
                remember(self._ledger.store, statement, f"witness {self._identity.name!r}", at_s=now_s)
            self._tell("acknowledged", {"ledger": statement.ledger, "contract": contract.digest})
            return {"acknowledgement": acknowledge(signed, statement, self._identity.signing)}
        raise ProtocolError.named("signature_invalid", "no other owner of the contract signed the statement")


def _unexpired(contract: Contract, now_s: float) -> None:
    if now_s >= contract.expires_s:
        raise ProtocolError.named(
            "contract_expired", f"it expired at {contract.expires_s}, now is {int(now_s)} (Unix seconds)"
        )
