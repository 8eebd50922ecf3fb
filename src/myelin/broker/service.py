"""A broker, put together to be left running: anchors, audit log, metrics, housekeeping, HTTP."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from starlette.types import ASGIApp

from myelin.attest import AppraisalPolicy
from myelin.broker.application import Face, application
from myelin.broker.audit import AuditLog
from myelin.broker.limits import Rates
from myelin.broker.logged import LogAnchor
from myelin.broker.metrics import Metrics
from myelin.broker.peers import peer_anchors
from myelin.broker.tpm import TpmAnchor
from myelin.broker.tpm_commands import Exchange
from myelin.contract import (
    Anchor,
    Broker,
    Connect,
    Contract,
    Identity,
    Ledger,
    Store,
    Surroundings,
    default_accountant,
)
from myelin.contract.request import VERBS
from myelin.errors import MyelinError
from myelin.log import LogClient

__all__ = ["AnchorSettings", "Service"]

_HOUSEKEEPING_S = 60.0
_log = logging.getLogger("myelin.broker")


@dataclass(frozen=True)
class AnchorSettings:
    """What a ledger is anchored by, whatever the contract: every anchor given here is used for every release.

    ``witnesses`` are addresses by the owner's name in a contract, asked where the contract names witnesses.
    """

    tpm: Exchange | None = None
    tpm_index: int = 0x01800100
    log: LogClient | None = None
    witnesses: Mapping[str, str] = field(default_factory=dict)

    def of(
        self, identity: Identity, connect: Connect, surroundings: Surroundings
    ) -> Callable[[Contract | None], tuple[Anchor, ...]]:
        """The anchors for a contract, or for ``None`` those of the ledger alone."""

        def anchors(contract: Contract | None) -> tuple[Anchor, ...]:
            found: list[Anchor] = []
            if self.log is not None:
                found.append(LogAnchor(self.log, identity))
            if self.tpm is not None:
                found.append(TpmAnchor(self.tpm, self.tpm_index, identity))
            if contract is not None and "witnesses" in contract.anchors:
                found += peer_anchors(contract, self.witnesses, identity, connect, surroundings)
            return tuple(found)

        return anchors


@final
class Service:
    """One owner's broker with everything around it.

    Args:
        identity, store, policy: as for :class:`~myelin.contract.Broker`.
        anchors: what the ledger is anchored by.
        connect: opens transports to witnesses.
        audit: file of the audit log.
        surroundings: clock, randomness, files.
        options: more for the broker (``contract``, ``known``, ``endorsements``, ``rehearse``, …).
    """

    def __init__(
        self,
        identity: Identity,
        store: Store,
        policy: AppraisalPolicy,
        *,
        anchors: AnchorSettings,
        connect: Connect,
        audit: Path,
        surroundings: Surroundings,
        **options: Any,
    ) -> None:
        self.metrics = Metrics()
        self.audit = AuditLog(audit, surroundings)
        self._rates = Rates(surroundings.timer)
        self._trouble: str | None = "starting"
        self._stopping = threading.Event()
        self.broker = Broker(
            identity,
            store,
            policy,
            surroundings=surroundings,
            anchors=anchors.of(identity, connect, surroundings),
            observe=self._observe,
            **options,
        )
        self._ledger = Ledger(store, options.get("accountant", default_accountant))
        self._store_lock = self.broker.lock

    def application(self) -> ASGIApp:
        """The HTTP face."""
        face = Face(self.broker.answer, VERBS, self._rates, self.metrics, ready=lambda: self._trouble)
        return application(face)

    def keep_house(self) -> None:
        """Settle and anchor what is due, and measure the ledger; trouble is told by ``/readyz``, never
        raised."""
        try:
            self.broker.settle()
            with self._store_lock:
                debits = self._ledger.debits()
                budget = self._ledger.budget.epsilon
            states = [debit.state for debit in debits]
            self.metrics.set("zcdp", "Spent rho, rounded up.", sum(d.zcdp_u for d in debits) / 1e6)
            self.metrics.set("epsilon_budget", "Epsilon that the owner allows in all.", budget)
            self.metrics.set("reserved", "Debits that are not answered yet.", states.count("reserved"))
            self._trouble = None
        except MyelinError as error:
            self._trouble = f"{error}"[:1024]
            _log.warning("housekeeping: %s", error)
        self.metrics.set("ready", "Whether keys can be released.", float(self._trouble is None))

    def start(self) -> threading.Thread:
        """Keep house now, and every minute in a thread until :meth:`stop`."""
        self.audit.write("started", {})
        self.keep_house()

        def run() -> None:
            while not self._stopping.wait(_HOUSEKEEPING_S):
                self.keep_house()

        thread = threading.Thread(target=run, daemon=True, name="housekeeping")
        thread.start()
        return thread

    def stop(self) -> None:
        """Say so in the audit log; nothing else has to be done, since all that counts is durable."""
        self._stopping.set()
        self.audit.write("stopped", {})

    def _observe(self, happened: str, facts: Mapping[str, object]) -> None:
        self.metrics.count(happened, facts)
        error = facts.get("error")
        if happened == "refused" and isinstance(error, int) and error < 200:
            return  # out of form, by anybody: counted, and kept from filling the disk
        self.audit.write(happened, facts)
