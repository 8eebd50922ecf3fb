"""Owners whose ledgers are anchored, each on files that a test may copy, put back, or lose."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myelin.broker import LogAnchor, TpmAnchor, exchange_with, peer_anchors
from myelin.contract import Anchor, Contract, Identity, Ledger, SignedContract, Store, Surroundings
from myelin.errors import HostError
from myelin.log import Journal, Log, LogClient
from reference_enclave import NOW_S, Agreement, Owner, ReferenceEnclave, make_agreement, one_each


@contextlib.contextmanager
def software_tpm(folder: Path) -> Iterator[Path]:
    """swtpm, a whole TPM 2.0 in a process; its state lies in ``folder`` and outlives it."""
    folder.mkdir(exist_ok=True)
    socket = folder / "tpm.sock"
    process = subprocess.Popen(
        [
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}",
            "--flags", "not-need-init,startup-clear", "--server", f"type=unixio,path={socket}",
        ]
    )  # fmt: skip
    try:
        for _ in range(200):
            if socket.is_socket():
                break
            time.sleep(0.02)
        yield socket
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class Network:
    """Addresses that answer, by functions; one that is taken out does not."""

    answers: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def connect(self, address: str) -> Any:
        if address in self.down:
            raise HostError(f"nobody answers at {address}")
        return _Wire(address, self)


@dataclass
class _Wire:
    where: str
    network: Network

    def send(self, verb: str, frame: bytes) -> bytes:
        self.network.asked.append(f"{self.where} {verb}")
        return self.network.answers[self.where](frame)

    def close(self) -> None: ...


@dataclass
class AnchoredWorld:
    """Two owners and a researcher, whose contract names ``kinds``."""

    folder: Path
    kinds: tuple[str, ...]
    tpm: Path | None
    network: Network = field(default_factory=Network)
    now_s: float = NOW_S

    def __post_init__(self) -> None:
        self.around = Surroundings(clock=lambda: self.now_s)
        self.agreement: Agreement = make_agreement(self.folder)
        self.signed: SignedContract = self.agreement.changed(anchors=self.kinds)
        self.log_key = Identity.generate("public log")
        self.open_log()
        for owner in self.agreement.owners:
            owner.store.close()
            self.start(owner)

    def open_log(self) -> None:
        self.journal = Journal.open(self.folder / "public.log", surroundings=self.around)
        self.network.answers["log"] = Log(self.log_key, self.journal, surroundings=self.around).answer

    @property
    def owner(self) -> Owner:
        return self.agreement.owners[0]

    def path(self, owner: Owner) -> Path:
        return self.folder / f"{owner.identity.name}.store"

    def client(self, owner: Owner) -> LogClient:
        seen = self.folder / f"{owner.identity.name}.seen"
        return LogClient("log", self.log_key.public.signing_key, self.network.connect, self.around, seen)

    def anchors(self, owner: Owner) -> Callable[[Contract | None], tuple[Anchor, ...]]:
        names = {other.identity.name: other.identity.name for other in self.agreement.owners}

        def of(contract: Contract | None) -> tuple[Anchor, ...]:
            found: list[Anchor] = []
            if "log" in self.kinds:
                found.append(LogAnchor(self.client(owner), owner.identity))
            if "tpm" in self.kinds and owner is self.owner and self.tpm is not None:
                found.append(TpmAnchor(exchange_with(self.tpm), 0x01800042, owner.identity))
            if "witnesses" in self.kinds and contract is not None:
                found += peer_anchors(contract, names, owner.identity, self.network.connect, self.around)
            return tuple(found)

        return of

    def start(self, owner: Owner, **options: Any) -> None:
        """Open the owner's files and start its broker, as after its machine booted."""
        owner.store = Store.open(self.path(owner), owner.identity, surroundings=self.around)
        owner.restart(surroundings=self.around, anchors=self.anchors(owner), **options)
        self.network.answers[owner.identity.name] = owner.broker.answer

    def stop(self, owner: Owner) -> None:
        owner.store.close()

    def copy(self, owner: Owner, name: str) -> None:
        """Stop the broker, copy its files, start it again."""
        self.stop(owner)
        shutil.copy(self.path(owner), self.folder / name)
        self.start(owner)

    def put_back(self, owner: Owner, name: str) -> None:
        """Stop the broker, put an older copy of its files in place, start it again."""
        self.stop(owner)
        shutil.copy(self.folder / name, self.path(owner))
        self.start(owner)

    def boot(self) -> ReferenceEnclave:
        return ReferenceEnclave(self.signed)

    def release(
        self, owner: Owner, boot: ReferenceEnclave | None = None, mode: str = "fresh"
    ) -> dict[str, Any]:
        boot = boot or self.boot()
        answer = owner.ask(boot.request(owner, mode))
        return boot.accept(answer)

    def states(self, owner: Owner) -> list[str]:
        return [debit.state for debit in Ledger(owner.store, one_each).debits()]
