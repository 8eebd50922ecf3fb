"""What an owner's store means: datasets and their keys, what is left of the budget, answers, shares.

*Two phases.* A debit is **reserved** (durable, counted in full from then on), then every anchor is brought to
it, then it is **committed** together with the grant (durable), and only then does the grant leave. No grant
exists before the commit, so nothing can be read out of the file before its debit is anchored.

*Settlement.* Nothing is ever refunded, since what may have left cannot be called back and a refund would be
worth a rollback. A reservation that was not committed is finished by the same boot asking again, until the
contract expires; then it is settled as **charged**: it counts for ever, and no key can be had for it. A debit
that was committed counts whether or not its job finished; where the job's share was deposited it can be
resumed for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from myelin.contract.agreement import Budget
from myelin.contract.anchor import Head
from myelin.contract.dataset import SealedDataset
from myelin.contract.event import Accountant, DpEvent, default_accountant, epsilon_of
from myelin.contract.limits import Quota, check_quotas, quotas, revocation
from myelin.contract.store import Entry, Store
from myelin.contract.zcdp import micro_zcdp
from myelin.errors import ProtocolError
from myelin.wire import Shape, decode, digest, encode

__all__ = ["Answer", "Debit", "Ledger", "Reservation", "Share"]


@dataclass(frozen=True)
class Debit:
    """One release that was paid for: which contract, which boot, when (Unix seconds), and the mechanism.

    ``zcdp_u`` is its ρ in millionths. ``state`` is ``reserved``, ``charged`` (never answered, counted),
    ``released``, or ``kept`` (released, and the run's share is here, so it can be resumed). ``dataset`` and
    ``researcher`` (digest of the signing key) are ``None`` for what the first format wrote.
    """

    number: int
    contract: bytes
    name: str
    boot: bytes
    at_s: int
    event: DpEvent
    zcdp_u: int
    state: str
    dataset: bytes | None
    researcher: bytes | None


@dataclass(frozen=True)
class Answer:
    """A grant as it was given, kept so that the same boot gets the same bytes again."""

    grant: bytes
    party: int
    signing_key: bytes


@dataclass(frozen=True)
class Reservation:
    """What a debit is for. ``researcher`` is the digest of the researcher's signing key."""

    contract: bytes
    name: str
    measurement: bytes
    boot: bytes
    at_s: int
    expires_s: int
    event: DpEvent
    dataset: bytes
    researcher: bytes
    party: int
    signing_key: bytes


@dataclass(frozen=True)
class Share:
    """An owner's share of a run's job key, as deposited, and the receipt that was given for it."""

    run: bytes
    share: bytes
    check: bytes
    sealed_digest: bytes
    receipt: bytes

    def __repr__(self) -> str:
        """Name the run, never the share."""
        return f"Share(run={self.run.hex()})"


@final
@dataclass(frozen=True)
class Ledger:
    """The meaning of a :class:`~myelin.contract.Store`. All debits of a store compose, whatever the dataset:
    sealing the same table again does not make its people's privacy new."""

    store: Store
    accountant: Accountant = default_accountant

    @property
    def budget(self) -> Budget:
        """The bound on everything that is ever released from this store."""
        return self.store.budget

    def debits(self, contract: bytes | None = None) -> list[Debit]:
        """What was paid for or is reserved, in order; of one contract or of all."""
        entries = self.store.entries()
        committed = {e.body["of"] for e in entries if e.kind == "commit"}
        charged = {e.body["of"] for e in entries if e.kind == "settle"}
        kept = {(e.body["contract"], e.body["run"]) for e in entries if e.kind == "share"}
        found = []
        for entry in entries:
            body = entry.body
            first_format = entry.kind == "release" and body["event"] is not None
            if not (first_format or entry.kind == "reserve") or contract not in (None, body["contract"]):
                continue
            state = "released" if first_format or entry.number in committed else "reserved"
            if state == "released" and (body["contract"], body["boot"]) in kept:
                state = "kept"
            if state == "reserved" and entry.number in charged:
                state = "charged"
            event = DpEvent.from_map(body["event"], refusal="ledger_damaged")
            found.append(
                Debit(
                    entry.number,
                    body["contract"],
                    body["name"],
                    body["boot"],
                    body["at_s"],
                    event,
                    body["zcdp_u"] if "zcdp_u" in body else micro_zcdp(event),
                    state,
                    body.get("dataset"),
                    body.get("researcher"),
                )
            )
        return found

    def spent(self, delta: float | None = None) -> float:
        """ε of everything reserved or released so far, at the budget's δ or another. This decides."""
        events = [debit.event for debit in self.debits()]
        return epsilon_of(self.accountant, events, delta or self.budget.delta, "ledger") if events else 0.0

    def zcdp_u(self, dataset: bytes | None = None) -> int:
        """ρ of everything so far in millionths, of one dataset or all: exact, for people and quotas."""
        return sum(debit.zcdp_u for debit in self.debits() if dataset in (None, debit.dataset))

    def check(self, contract: bytes, event: DpEvent, agreed: Budget) -> float:
        """Check one more ``event`` against the ledger's budget, and all runs of the contract against its own.

        Returns ε of everything with it. Raises ``budget_exhausted`` with the figures.
        """
        events = [debit.event for debit in self.debits()]
        total = epsilon_of(self.accountant, [*events, event], self.budget.delta, "ledger and contract")
        if not self.budget.allows(total):
            before = self.spent()
            raise ProtocolError.named(
                "budget_exhausted",
                f"ledger: spent ε {before:.6g}, with this run ε {total:.6g}, budget ε "
                f"{self.budget.epsilon:.6g} at δ {self.budget.delta:.3g}",
            )
        runs = [debit.event for debit in self.debits(contract)]
        of_contract = epsilon_of(self.accountant, [*runs, event], agreed.delta, "contract")
        if not agreed.allows(of_contract):
            raise ProtocolError.named(
                "budget_exhausted",
                f"contract: {len(runs)} runs before, with this one ε {of_contract:.6g}, agreed ε "
                f"{agreed.epsilon:.6g} at δ {agreed.delta:.3g}",
            )
        return total

    def check_quotas(self, event: DpEvent, researcher: bytes, dataset: bytes, now_s: float) -> None:
        """Check one more event against the quotas of its researcher and dataset; raises
        ``quota_exhausted``."""
        past = [(d.zcdp_u, d.researcher, d.dataset) for d in self.debits()]
        check_quotas(quotas(self.store), past, (micro_zcdp(event), researcher, dataset), now_s)

    def set_quota(self, quota: Quota, *, at_s: int) -> None:
        """Set or replace a quota, durably."""
        with self.store.transaction():
            self.store.append("quota", {**quota.to_map(), "at_s": at_s})

    def revoke(self, what: str, named: bytes, reason: str, *, at_s: int) -> None:
        """Never release anything again under a contract, for a measurement, a run (boot) or a researcher."""
        with self.store.transaction():
            self.store.append("revoke", revocation(what, named, reason, at_s))

    def check_revoked(self, contract: bytes, measurement: bytes, run: bytes, researcher: bytes) -> None:
        """Raise ``revoked`` if any of these was."""
        of = {"contract": contract, "measurement": measurement, "run": run, "researcher": researcher}
        for entry in self.store.entries("revoke"):
            if of.get(entry.body["what"]) == entry.body["digest"]:
                raise ProtocolError.named(
                    "revoked", f"this {entry.body['what']} was revoked by the owner: {entry.body['reason']}"
                )

    def add_dataset(self, dataset: SealedDataset, data_key: bytes, *, at_s: int) -> None:
        """Keep the key of a sealed dataset, durably."""
        body = {
            "digest": dataset.digest,
            "schema": dataset.header.schema,
            "records": dataset.header.records,
            "name": dataset.path.name,
            "at_s": at_s,
        }
        with self.store.transaction():
            self.store.append("dataset", body, data_key)

    def data_key(self, digest: bytes) -> bytes:
        """Key of a dataset, by the digest of its sealed file; raises ``dataset_unknown``."""
        for entry in self.store.entries("dataset"):
            if entry.body["digest"] == digest:
                return self.store.secret(entry)
        raise ProtocolError.named("dataset_unknown", f"no key here for the dataset {digest.hex()[:16]}…")

    def answer(self, contract: bytes, boot: bytes, mode: str | None = None) -> Answer | None:
        """What was answered to this boot, if anything; in one mode or any."""
        for entry in self.store.entries("release"):
            body = entry.body
            if (body["contract"], body["boot"]) == (contract, boot) and mode in (None, body["mode"]):
                return Answer(body["answer"], body["party"], body["signing_key"])
        if mode in (None, "fresh"):
            reserved = self.reserved(contract, boot)
            for entry in self.store.entries("commit") if reserved is not None else []:
                if reserved is not None and entry.body["of"] == reserved.number:
                    return Answer(entry.body["answer"], reserved.body["party"], reserved.body["signing_key"])
        return None

    def reserved(self, contract: bytes, boot: bytes) -> Entry | None:
        """The reservation of this boot, committed or not."""
        for entry in self.store.entries("reserve"):
            if (entry.body["contract"], entry.body["boot"]) == (contract, boot):
                return entry
        return None

    def reserve(self, reservation: Reservation, anchors: Iterable[str]) -> Entry:
        """Append a reservation, and its head as an intent for each anchor, within the caller's
        transaction."""
        body = {
            **{k: v for k, v in vars(reservation).items() if k != "event"},
            "event": reservation.event.to_map(),
            "zcdp_u": micro_zcdp(reservation.event),
        }
        entry = self.store.append("reserve", body)
        self.intend(anchors)
        return entry

    def intend(self, anchors: Iterable[str]) -> None:
        """Note the store's head as what each anchor is brought to next, within the caller's transaction."""
        last = self.store.entries()[-1]
        for name in anchors:
            body = {"anchor": name, "count": last.number + 1, "head": digest(last.chain)}
            self.store.append("anchor", body)

    def unanchored(self, anchor: str) -> bool:
        """Whether a revocation, a quota or a settlement is younger than the last head of this anchor."""
        heads = self.heads(anchor)
        entries = self.store.entries()[heads[-1].count if heads else 0 :]
        return any(entry.kind in ("revoke", "quota", "settle") for entry in entries)

    def heads(self, anchor: str) -> list[Head]:
        """All heads that an anchor was ever to be brought to, oldest first."""
        of = [e.body for e in self.store.entries("anchor") if e.body["anchor"] == anchor]
        return [Head(body["count"], body["head"]) for body in of]

    def commit(self, of: int, answer: bytes, proofs: Sequence[tuple[str, bytes]], *, at_s: int) -> None:
        """Append the commit of a reservation within the caller's transaction; refused once it is settled."""
        if any(entry.body["of"] == of for entry in self.store.entries("settle")):
            raise ProtocolError.named("contract_expired", "this reservation was settled as charged")
        pairs = [[name, proof] for name, proof in proofs]
        self.store.append("commit", {"of": of, "answer": answer, "proofs": pairs, "at_s": at_s})

    def settle(self, now_s: float) -> list[Debit]:
        """Settle, durably, every reservation whose contract has expired; gives them."""
        open_ones = {debit.number: debit for debit in self.debits() if debit.state == "reserved"}
        late = [
            open_ones[entry.number]
            for entry in self.store.entries("reserve")
            if entry.number in open_ones and now_s >= entry.body["expires_s"]
        ]
        if late:
            with self.store.transaction():
                for debit in late:
                    body = {"of": debit.number, "outcome": "charged", "at_s": int(now_s)}
                    self.store.append("settle", body)
        return late

    def record_release(self, fields: dict[str, Any], answer: Answer) -> None:
        """Append a release that costs nothing (a resume) within the caller's transaction."""
        body = {
            **fields,
            "event": None,
            "answer": answer.grant,
            "party": answer.party,
            "signing_key": answer.signing_key,
        }
        self.store.append("release", body)

    def shares(self, contract: bytes) -> list[Share]:
        """Shares deposited under a contract, in order."""
        return [self._share(e) for e in self.store.entries("share") if e.body["contract"] == contract]

    def _share(self, entry: Entry) -> Share:
        shape = Shape("ledger_damaged", "ledger_damaged")
        value = decode(self.store.secret(entry), refusal="ledger_damaged", what="share")
        secret = shape.map(value, "share", ("share", "check"))
        return Share(
            entry.body["run"],
            shape.bytes(secret["share"], "share", size=32),
            shape.bytes(secret["check"], "check", size=32),
            entry.body["sealed"],
            entry.body["receipt"],
        )

    def record_share(self, contract: bytes, share: Share, *, at_s: int) -> None:
        """Keep a deposited share, durably."""
        body = {
            "contract": contract,
            "run": share.run,
            "sealed": share.sealed_digest,
            "receipt": share.receipt,
            "at_s": at_s,
        }
        with self.store.transaction():
            self.store.append("share", body, encode({"share": share.share, "check": share.check}))
