"""What an owner's store means: datasets and their keys, what is left of the budget, answers, shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from myelin.contract.agreement import Budget
from myelin.contract.dataset import SealedDataset
from myelin.contract.event import Accountant, DpEvent, default_accountant, epsilon_of
from myelin.contract.store import Entry, Store
from myelin.errors import ProtocolError
from myelin.wire import Shape, decode, encode

__all__ = ["Answer", "Debit", "Ledger", "Share"]


@dataclass(frozen=True)
class Debit:
    """One release that was paid for: which contract, which boot, when (Unix seconds), and the mechanism."""

    contract: bytes
    name: str
    boot: bytes
    at_s: int
    event: DpEvent


@dataclass(frozen=True)
class Answer:
    """A grant as it was given, kept so that the same boot gets the same bytes again."""

    grant: bytes
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
        """What was paid for, in order; of one contract or of all."""
        return [
            Debit(
                entry.body["contract"],
                entry.body["name"],
                entry.body["boot"],
                entry.body["at_s"],
                DpEvent.from_map(entry.body["event"], refusal="ledger_damaged"),
            )
            for entry in self.store.entries("release")
            if entry.body["event"] is not None and contract in (None, entry.body["contract"])
        ]

    def spent(self, delta: float | None = None) -> float:
        """ε of everything released so far, at the budget's δ or another."""
        events = [debit.event for debit in self.debits()]
        return epsilon_of(self.accountant, events, delta or self.budget.delta, "ledger") if events else 0.0

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
        return None

    def record_release(self, fields: dict[str, Any], event: DpEvent | None, answer: Answer) -> None:
        """Append a release within the caller's transaction; ``event`` is ``None`` when nothing is debited."""
        body = {
            **fields,
            "event": event.to_map() if event else None,
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
