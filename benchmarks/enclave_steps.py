"""Steps of a workload's image in an enclave: real image, loader, contract, broker and sealed data."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from myelin.attest import Policy
from myelin.contract import (
    Budget,
    Contract,
    Dataset,
    Identity,
    Party,
    SignedContract,
    read_image_facts,
    seal_dataset,
)
from myelin.contract.broker import Broker
from myelin.contract.ledger import Ledger
from myelin.contract.store import Store
from myelin.host import Enclave, EnclaveSession
from myelin.wire import boot_id, decode, encode

from .myelin_build import schema_of
from .native_steps import records
from .workloads import Workload

_BUDGET = Budget.of("1000000", "0.5")
_EXPIRES_S = 4_000_000_000
_KEY = bytes(range(32))


def _free(events: object, delta: float) -> float:
    """An accountant for whom everything is free."""
    return 0.0


def open_enclave(
    folder: Path, workload: Workload, threads: int, backend: str = "process"
) -> tuple[Callable[[], None], int]:
    """Start the image, agree, provision; a function that does one step, and the enclave's process number."""
    workplace = Path(tempfile.mkdtemp(prefix="myelin-bench-"))
    image = folder / "job.myelin"
    facts, schema, policy = (
        read_image_facts(image),
        schema_of(workload),
        Policy.insecure_accepting_simulated_evidence(),
    )
    owner, researcher = Identity.generate("owner"), Identity.generate("researcher")
    store = Store.create(workplace / "owner.ledger", owner, _BUDGET, at_s=0)
    # Accounting happens before the first step, so a budget without end changes no time.
    ledger = Ledger(store, _free)
    content = np.frombuffer(b"".join(records(workload, workload.dataset_size)), schema.record_dtype)
    sealed = seal_dataset(
        lambda: iter([content]),
        schema,
        workplace / "owner.sealed",
        _KEY,
        keep=lambda dataset: ledger.add_dataset(dataset, _KEY, at_s=0),
    )
    contract = Contract(
        name=workload.name,
        measurement=facts.measurement,
        plan=facts.plan,
        parties=tuple(
            Party(who.public.name, role, who.public.signing_key, who.public.sealing_key)
            for who, role in ((owner, "owner"), (researcher, "researcher"))
        ),
        datasets=(Dataset(0, sealed.digest, schema.digest, workload.dataset_size),),
        event=facts.event(workload.dataset_size),
        budgets=(_BUDGET,),
        recipients=(1,),
        release_records=True,
        release_nonfinite=False,
        policy=policy.digest,
        expires_s=_EXPIRES_S,
    )
    signed = SignedContract.unsigned(contract).sign(owner).sign(researcher)
    enclave = Enclave.start(image, threads=threads, backend=backend)
    atexit.register(enclave.kill)
    session = EnclaveSession(enclave)
    session.bind_contract(signed.contract_bytes, signed.signatures)
    _provision(session, Broker(owner, store, policy, accountant=_free), signed)
    session.send_dataset(0, sealed.path)

    def step() -> None:
        session.train(1)

    return step, enclave.pid


def _provision(session: EnclaveSession, broker: Broker, signed: SignedContract) -> None:
    """The owner's grant and deposit, as the host carries them."""

    def ask(**request: object) -> dict[str, bytes]:
        answer = decode(broker.answer(encode(request)))
        assert isinstance(answer, dict)
        assert answer["ok"], answer
        return answer

    challenge = ask(verb="challenge")
    keys = session.describe()
    answer = ask(
        verb="release",
        contract=signed.to_bytes(),
        evidence=session.attest(challenge["nonce"], challenge["policy"]),
        hpke_key=keys.hpke_key,
        signing_key=keys.signing_key,
        nonce=challenge["nonce"],
        mode="fresh",
    )
    session.grant(0, answer["grant"])
    boot = boot_id(keys.hpke_key, keys.signing_key)
    for deposit in session.shares().deposits:
        receipt = ask(
            verb="deposit",
            contract=signed.digest,
            boot=boot,
            sealed=deposit.sealed,
            signature=deposit.signature,
        )
        session.deposited(deposit.party, receipt["receipt"])
