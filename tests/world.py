"""A small world for attacks and audits: real image, loader, brokers and stores; a host free to do anything.

Two owners of 4,000 records each, one researcher, a few steps. `Host.run` is an honest run in which every
value that crosses a boundary goes through `alter` first; an attack is an `alter`, or another order of the
same calls.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myelin.attest import AppraisalPolicy, Policy
from myelin.contract import (
    Budget,
    Contract,
    DataSchema,
    DpEvent,
    Identity,
    NumericLabel,
    Party,
    SignedContract,
    seal_dataset,
)
from myelin.contract import Dataset as AgreedDataset
from myelin.contract.broker import Broker
from myelin.contract.ledger import Ledger
from myelin.contract.store import Store
from myelin.contract.surroundings import Surroundings
from myelin.errors import ProtocolError
from myelin.host import Enclave, EnclaveSession
from myelin.image import BuiltImage, build_job
from myelin.wire import boot_id, decode, encode, report_data

POLICY = Policy.insecure_accepting_simulated_evidence()
OWNERS = ("north", "south")
RECORDS = 4000  # two chunks each
FAR_FUTURE_S = 4_000_000_000
BUDGET = Budget.of("0.13", "0.00001")  # four runs

JOB = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 8)
        self.output = nn.Linear(8, 3)

    def forward(self, features):
        return self.output(nn.relu(self.hidden(features)))

job = Job(
    name="attacked", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(0.5, momentum=0.5),
    plan=DpPlan(dataset_size=8000, expected_batch_size=64, capacity=128, microbatch=32, steps={steps},
                noise_multiplier=1.5, clipping_norm=1.0, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

SCHEMA = """
version = 1
[label]
column = "kind"
classes = ["a", "b", "c"]
""" + "".join(f'[[columns]]\nname = "x{i}"\nlower = -1.0\nupper = 1.0\n' for i in range(4))


def build_platform_image(folder: Path) -> BuiltImage:
    """An image of the small job without the simulated attester: it asks what runs it for evidence."""
    pytest.importorskip("tvm")
    (folder / "job.py").write_text(JOB.format(steps=6))
    (folder / "schema.toml").write_text(SCHEMA)
    return build_job(folder / "job.py", folder / "small.myelin", "x86-64-v3", simulated=False)


@dataclass
class Owner:
    """One owner: keys, store, and the broker over it."""

    identity: Identity
    store: Store
    sealed: Path
    records: int
    digest: bytes
    clock: Callable[[], float] = time.time
    policy: AppraisalPolicy = POLICY
    broker: Broker = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The broker's process is started anew: what it had in memory is gone."""
        self.broker = Broker(
            self.identity, self.store, self.policy, surroundings=Surroundings(clock=lambda: self.clock())
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer; a refusal raises its numbered error, as the host's client does."""
        answer = decode(self.broker.answer(encode(request)))
        assert isinstance(answer, dict)
        if not answer["ok"]:
            raise ProtocolError(int(answer["error"]), str(answer["message"]))
        return {str(key): value for key, value in answer.items()}

    def debits(self) -> int:
        """How often the ledger was debited."""
        return len(Ledger(self.store, lambda events, delta: 0.0).debits())


Records = Callable[[int, DataSchema], np.ndarray]
"""An owner's records, by party id."""


@dataclass
class World:
    """Everything that exists before the host begins."""

    image: Path
    manifest: dict[str, Any]
    measurement: bytes
    schema: DataSchema
    owners: list[Owner]
    researcher: Identity
    contract: Contract
    signed: SignedContract
    records: Records

    def sign(self, contract: Contract, skip: tuple[str, ...] = ()) -> SignedContract:
        """Have all parties sign, but those in `skip`."""
        signed = SignedContract.unsigned(contract)
        for identity in [*(owner.identity for owner in self.owners), self.researcher]:
            if identity.public.name not in skip:
                signed = signed.sign(identity)
        return signed

    def changed(self, **fields: Any) -> SignedContract:
        """A contract with other fields, signed by all."""
        return self.sign(dataclasses.replace(self.contract, **fields))

    def debits(self) -> list[int]:
        return [owner.debits() for owner in self.owners]


def records_of(owner: int, schema: DataSchema) -> np.ndarray:
    """The records of an owner by party id, the same in every world: ``[RECORDS]`` of the schema's dtype."""
    random = np.random.default_rng(owner)
    records = np.zeros(RECORDS, schema.record_dtype)
    records["features"] = random.uniform(-1, 1, (RECORDS, 4))
    label = schema.label
    if isinstance(label, NumericLabel):
        records["label"] = random.uniform(label.lower, label.upper, RECORDS)
    else:
        records["label"] = random.integers(0, 3, RECORDS)
    return records


def make_world(
    folder: Path,
    image: Path,
    manifest: dict[str, Any],
    measurement: bytes,
    plan: bytes,
    schema: DataSchema | None = None,
    records_of: Records = records_of,
    budget: Budget = BUDGET,
    policy: AppraisalPolicy = POLICY,
) -> World:
    """Keys, sealed data, stores, and a contract that all have signed."""
    if schema is None:
        schema_file = folder / "schema.toml"
        schema_file.write_text(SCHEMA)
        schema = DataSchema.load(schema_file)
    owners = []
    for seed, name in enumerate(OWNERS):
        identity = Identity.generate(name)
        store = Store.create(folder / f"{name}.ledger", identity, budget, at_s=int(time.time()))
        records = records_of(seed, schema)
        key = np.random.default_rng([seed, 1]).bytes(32)
        ledger = Ledger(store, lambda events, delta: 0.0)
        sealed = seal_dataset(
            lambda records=records: iter([records]),
            schema,
            folder / f"{name}.sealed",
            key,
            keep=lambda s, ledger=ledger, key=key: ledger.add_dataset(s, key, at_s=0),
        )
        owners.append(Owner(identity, store, sealed.path, len(records), sealed.digest, policy=policy))
    researcher = Identity.generate("researcher")
    parties = tuple(
        Party(i.public.name, role, i.public.signing_key, i.public.sealing_key)
        for i, role in [*((o.identity, "owner") for o in owners), (researcher, "researcher")]
    )
    contract = Contract(
        name="attacked",
        measurement=measurement,
        plan=plan,
        parties=parties,
        datasets=tuple(AgreedDataset(n, o.digest, schema.digest, o.records) for n, o in enumerate(owners)),
        event=DpEvent.from_map(manifest["event"]),
        budgets=(budget,) * len(owners),
        recipients=(2,),
        release_records=True,
        release_nonfinite=False,
        policy=policy.digest,
        expires_s=FAR_FUTURE_S,
    )
    world = World(image, manifest, measurement, schema, owners, researcher, contract, None, records_of)  # type: ignore[arg-type]
    world.signed = world.sign(contract)
    return world


def keep(name: str, value: Any) -> Any:
    """The honest `alter`."""
    return value


class Host:
    """Carries a run. `alter(name, value)` sees every value at the moment it crosses a boundary."""

    def __init__(
        self,
        world: World,
        alter: Callable[[str, Any], Any] = keep,
        threads: int = 1,
        backend: str = "process",
        enclave: Enclave | None = None,
    ) -> None:
        self.world, self.alter = world, alter
        self.enclave = enclave or Enclave.start(world.image, threads=threads, backend=backend)
        self.session = EnclaveSession(self.enclave)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.enclave.kill()

    def bind(self, signed: SignedContract | None = None) -> None:
        signed = signed or self.world.signed
        self.signed = signed
        self.session.bind_contract(
            self.alter("contract to enclave", signed.contract_bytes),
            [self.alter(f"signature {n} to enclave", s) for n, s in enumerate(signed.signatures)],
        )

    def report_data(self, nonce: bytes, policy: AppraisalPolicy) -> bytes:
        """What evidence for a broker must be bound to."""
        keys = self.session.describe()
        return report_data(
            0,
            nonce=nonce,
            hpke_key=keys.hpke_key,
            signing_key=keys.signing_key,
            measurement=self.world.measurement,
            contract=self.world.signed.digest,
            policy=policy.digest,
        )

    def release_request(self, owner: Owner, mode: str = "fresh") -> dict[str, Any]:
        """What an honest host asks an owner's broker for."""
        challenge = owner.ask(verb="challenge")
        keys = self.session.describe()
        nonce = self.alter("nonce to enclave", challenge["nonce"])
        evidence = self.session.attest(nonce, self.alter("policy to enclave", challenge["policy"]))
        return {
            "verb": "release",
            "contract": self.alter("contract to broker", self.signed.to_bytes()),
            "evidence": self.alter("evidence to broker", evidence),
            "hpke_key": self.alter("hpke key to broker", keys.hpke_key),
            "signing_key": self.alter("signing key to broker", keys.signing_key),
            "nonce": self.alter("nonce to broker", challenge["nonce"]),
            "mode": mode,
        }

    def grant(self, party: int, mode: str = "fresh") -> dict[str, Any]:
        owner = self.world.owners[party]
        answer = owner.ask(**self.release_request(owner, mode))
        self.session.grant(
            self.alter("party to enclave", party), self.alter("grant to enclave", answer["grant"])
        )
        return answer

    def grants(self, mode: str = "fresh") -> None:
        for party in range(len(self.world.owners)):
            self.grant(party, mode)

    def deposits(self) -> None:
        keys = self.session.describe()
        boot = boot_id(keys.hpke_key, keys.signing_key)
        for deposit in self.session.shares().deposits:
            answer = self.world.owners[deposit.party].ask(
                verb="deposit",
                contract=self.signed.digest,
                boot=self.alter("boot to broker", boot),
                sealed=self.alter("share to broker", deposit.sealed),
                signature=self.alter("share signature to broker", deposit.signature),
            )
            self.session.deposited(deposit.party, self.alter("receipt to enclave", answer["receipt"]))

    def pieces(self, index: int) -> tuple[bytes, list[bytes]]:
        """A sealed file as the part before its chunks, and its chunks."""
        content = self.world.owners[index].sealed.read_bytes()
        start = 12 + int.from_bytes(content[8:12], "little")
        size = 65_536 + 16
        return content[:start], [content[i : i + size] for i in range(start, len(content), size)]

    def data(self) -> None:
        for index in range(len(self.world.owners)):
            header, chunks = self.pieces(index)
            self.session.data_begin(index, self.alter("header to enclave", header))
            for number, chunk in enumerate(chunks):
                self.session.data_chunk(number, self.alter("chunk to enclave", chunk))

    def steps(self) -> None:
        done, total = 0, 1
        while done < total:
            done, total = self.session.train(2)

    def outputs(self) -> list[bytes]:
        return [self.session.fetch_all(n, length) for n, length in enumerate(self.session.release())]

    def run(self, mode: str = "fresh", signed: SignedContract | None = None) -> list[bytes]:
        """The whole run: certificate bundle, then the sealed model."""
        self.bind(signed)
        self.grants(mode)
        if mode == "fresh":
            self.deposits()
        self.data()
        self.steps()
        return self.outputs()
