"""One training run, step by step, from a signed contract to the files that it released."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myelin.contract import SignedContract
from myelin.contract.files import write_whole
from myelin.errors import HostError, InputError
from myelin.host import Enclave, EnclaveSession
from myelin.train.brokers import BrokerConnection
from myelin.wire import boot_id

__all__ = ["TrainEvent", "TrainJob", "TrainResult", "train"]

SLICE_TARGET_S = 0.2
"""How long one `train` message should take: short enough for a live progress bar and a quick Ctrl-C."""


@dataclass(frozen=True)
class TrainEvent:
    """One thing that happened: `step` names it, with `done` of `total` where it counts."""

    step: str
    detail: str = ""
    done: int = 0
    total: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainJob:
    """What a run needs. `brokers` (addresses) and `data` are keyed by the owner's name in the contract; `ca`
    is a file of certificates to trust for brokers with TLS, in place of the system's."""

    contract: Path
    image: Path
    brokers: Mapping[str, str | Path]
    data: Mapping[str, Path]
    out: Path
    threads: int | None = None
    resume: bool = False
    backend: str = "process"
    ca: Path | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind. `sealed_models` is keyed by the recipient's name."""

    certificate: Path
    sealed_models: Mapping[str, Path]
    measurement: bytes
    steps: int
    seconds: float
    host: Mapping[str, Any]


Watch = Callable[[TrainEvent], None]


def train(job: TrainJob, watch: Watch = lambda _: None) -> TrainResult:
    """Carry a run from contract to certificate.

    Every owner in the contract needs a broker socket and a sealed dataset. Nothing is written to `job.out`
    until the enclave has released; then each file appears whole. With `resume` the owners' brokers are asked
    for the shares of the last run's job key, nothing is debited, and the result is bit-identical to what that
    run would have given.

    Raises:
        InputError: a file or socket is missing, or the contract cannot be read.
        ProtocolError: the enclave or a broker refused; nothing was released.
        HostError: the loader or the enclave failed.
    """
    started = time.monotonic()
    contract = SignedContract.load(job.contract)
    _check_inputs(job, contract)
    with Enclave.start(job.image, threads=job.threads, backend=job.backend) as enclave:
        watch(TrainEvent("enclave", "locked down and measured", facts=enclave.report))
        session = EnclaveSession(enclave)
        description = session.describe()
        session.bind_contract(contract.contract_bytes, contract.signatures)
        watch(TrainEvent("contract", "every signature checked inside"))
        _collect_grants(job, contract, session, description.hpke_key, description.signing_key, watch)
        _deposit_shares(job, contract, session, boot_id(description.hpke_key, description.signing_key), watch)
        _send_data(job, contract, session, watch)
        steps = _run_steps(session, watch)
        lengths = session.release()
        outputs = [session.fetch_all(i, length) for i, length in enumerate(lengths)]
        watch(TrainEvent("release", f"{sum(lengths):,} bytes, all sealed or signed"))
        certificate, sealed = _write_outputs(job, contract, outputs)
        return TrainResult(
            certificate=certificate,
            sealed_models=sealed,
            measurement=bytes.fromhex(enclave.report["measurement"]),
            steps=steps,
            seconds=time.monotonic() - started,
            host=enclave.report,
        )


def _owners(contract: SignedContract) -> list[tuple[int, str]]:
    parties = contract.contract.parties
    return [(i, party.name) for i, party in enumerate(parties) if party.role == "owner"]


def _check_inputs(job: TrainJob, contract: SignedContract) -> None:
    for _, name in _owners(contract):
        if name not in job.brokers:
            raise InputError(f"no broker given for owner {name!r}: expected --broker {name}=SOCKET")
        if name not in job.data:
            raise InputError(f"no sealed dataset given for owner {name!r}: expected --data {name}=FILE")
        if not job.data[name].is_file():
            raise InputError(f"sealed dataset of {name!r}: no file at {job.data[name]}")
    if not job.image.exists():
        raise InputError(f"no image at {job.image}; make it with `myelin build`")


def _collect_grants(
    job: TrainJob,
    contract: SignedContract,
    session: EnclaveSession,
    hpke: bytes,
    signing: bytes,
    watch: Watch,
) -> None:
    mode = "resume" if job.resume else "fresh"
    owners = _owners(contract)
    for done, (party, name) in enumerate(owners, 1):
        with BrokerConnection(job.brokers[name], ca=job.ca) as broker:
            nonce, policy = broker.challenge()
            evidence = session.attest(nonce, policy)
            grant = broker.release(contract.to_bytes(), evidence, hpke, signing, nonce, mode)
        if grant.party != party:
            raise HostError(
                f"the broker at {job.brokers[name]} answers for party {grant.party}, not {name!r}"
            )
        session.grant(party, grant.sealed)
        watch(TrainEvent("grant", name, done, len(owners), {"debited": grant.debited, "evidence": evidence}))


def _deposit_shares(
    job: TrainJob, contract: SignedContract, session: EnclaveSession, boot: bytes, watch: Watch
) -> None:
    names = dict(_owners(contract))
    deposits = session.shares().deposits
    for done, deposit in enumerate(deposits, 1):
        with BrokerConnection(job.brokers[names[deposit.party]], ca=job.ca) as broker:
            receipt = broker.deposit(contract.digest, boot, deposit.sealed, deposit.signature)
        session.deposited(deposit.party, receipt)
        watch(TrainEvent("share", names[deposit.party], done, len(deposits)))


def _send_data(job: TrainJob, contract: SignedContract, session: EnclaveSession, watch: Watch) -> None:
    parties = contract.contract.parties
    for index, dataset in enumerate(contract.contract.datasets):
        name = parties[dataset.owner].name

        def progress(done: int, total: int, name: str = name) -> None:
            watch(TrainEvent("data", name, done, total))

        session.send_dataset(index, job.data[name], progress)


def _run_steps(session: EnclaveSession, watch: Watch) -> int:
    done, total, most = 0, 1, 1
    while done < total:
        before, started = done, time.monotonic()
        done, total = session.train(most)
        elapsed_s = time.monotonic() - started
        watch(TrainEvent("train", done=done, total=total))
        rate = (done - before) / max(elapsed_s, 1e-6)
        most = max(1, min(4 * most, int(rate * SLICE_TARGET_S)))
    return total


def _write_outputs(
    job: TrainJob, contract: SignedContract, outputs: list[bytes]
) -> tuple[Path, dict[str, Path]]:
    names = [contract.contract.parties[i].name for i in contract.contract.recipients]
    job.out.mkdir(parents=True, exist_ok=True)
    certificate = job.out / "certificate.cbor"
    sealed = {name: job.out / f"model-{_file_name(name)}.sealed" for name in names}
    for path, content in zip([certificate, *sealed.values()], outputs, strict=True):
        write_whole(path, content)
    return certificate, sealed


def _file_name(name: str) -> str:
    """A party's name as a file name: what is not plain ASCII is replaced; a digest keeps two names apart."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
