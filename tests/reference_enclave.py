"""The enclave's side of the protocol in Python, written from docs/protocol.md, for tests of the other sides.

It keeps secrets from nobody and exists only here. Two owners and a researcher come with it.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from myelin.attest import SIMULATED_MEDIA_TYPE, Evidence, Policy
from myelin.certificate import CERTIFICATE_TYPE, Certificate, CertificateBundle, SealedModel, SealedModelRef
from myelin.contract import (
    DEPOSIT_TYPE,
    Broker,
    Budget,
    Contract,
    DataSchema,
    Dataset,
    DpEvent,
    Identity,
    Ledger,
    Party,
    SignedContract,
    Store,
    Surroundings,
    seal_dataset,
)
from myelin.errors import ProtocolError
from myelin.wire import boot_id, decode, digest, encode, info, open_sealed, report_data, seal_to, sign1

NOW_S = 1_800_000_000
POLICY = Policy.insecure_accepting_simulated_evidence()
BUDGET = Budget.of("3", "1e-5")
EVENT = DpEvent(
    dataset_size=30,
    sampling_threshold=1 << 61,
    capacity=16,
    noise_multiplier_e9=3_000_000_000,
    clipping_norm_e9=1_000_000_000,
    sensitivity_e9=1_000_001_000,
    expected_batch_size=4,
    steps=10,
    parameters=100,
)


def one_each(events: list[dict[str, object]], delta: float) -> float:
    """An accountant that is easy to foresee: every event costs ε = 1, and they add."""
    return float(len(events))


def schema() -> DataSchema:
    columns = [{"name": f"x{i}", "lower": -1.0, "upper": 1.0} for i in range(3)]
    return DataSchema.model_validate({"columns": columns, "label": {"column": "y", "classes": ["a", "b"]}})


def records(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    block = np.zeros(count, schema().record_dtype)
    block["features"] = random.uniform(-1, 1, (count, 3))
    block["label"] = random.integers(0, 2, count)
    return block


def safetensors(values: np.ndarray[Any, Any]) -> bytes:
    raw = values.astype("<f4").tobytes()
    table = {"weight": {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, len(raw)]}}
    header = json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + raw


@dataclass
class Owner:
    """An owner with a sealed dataset, a store, and a broker over it."""

    identity: Identity
    store: Store
    sealed: Path
    data_key: bytes
    digest: bytes
    now_s: float = NOW_S
    broker: Broker = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, **options: Any) -> None:
        """Start the broker anew, as after its process died."""
        given = {"accountant": one_each, "surroundings": Surroundings(clock=lambda: self.now_s), **options}
        self.broker = Broker(self.identity, self.store, given.pop("policy", POLICY), **given)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request; a refusal is raised."""
        answer = decode(self.broker.answer(encode(request)))
        assert isinstance(answer, dict)
        if not answer["ok"]:
            raise ProtocolError(answer["error"], answer["message"])
        return answer

    def debits(self) -> int:
        return len(Ledger(self.store, one_each).debits())


@dataclass
class Agreement:
    """Everybody, and the contract that they signed."""

    owners: list[Owner]
    researcher: Identity
    contract: Contract
    signed: SignedContract

    @property
    def parties(self) -> list[Identity]:
        return [*(owner.identity for owner in self.owners), self.researcher]

    def sign(self, contract: Contract, skip: str = "") -> SignedContract:
        signed = SignedContract.unsigned(contract)
        for identity in self.parties:
            if identity.name != skip:
                signed = signed.sign(identity)
        return signed

    def changed(self, **fields: Any) -> SignedContract:
        return self.sign(replace(self.contract, **fields))


def make_agreement(folder: Path, budget: Budget = BUDGET) -> Agreement:
    """Two owners of 10 and 20 records, and a researcher who gets the model."""
    owners, datasets = [], []
    for index, (name, count) in enumerate((("north", 10), ("south", 20))):
        identity, key = Identity.generate(name), os.urandom(32)
        store = Store.create(folder / f"{name}.store", identity, budget, at_s=NOW_S)

        def keep(sealed: Any, store: Store = store, key: bytes = key) -> None:
            Ledger(store).add_dataset(sealed, key, at_s=NOW_S)

        def read(count: int = count, seed: int = index) -> Any:
            return iter([records(count, seed)])

        sealed = seal_dataset(read, schema(), folder / f"{name}.sealed", key, keep=keep)
        owners.append(Owner(identity, store, sealed.path, key, sealed.digest))
        datasets.append(Dataset(index, sealed.digest, schema().digest, count))
    researcher = Identity.generate("researcher")
    everyone = [(owner.identity, "owner") for owner in owners] + [(researcher, "researcher")]
    contract = Contract(
        name="two hospitals",
        measurement=digest(b"image"),
        plan=digest(b"plan"),
        parties=tuple(
            Party(i.name, role, i.public.signing_key, i.public.sealing_key) for i, role in everyone
        ),
        datasets=tuple(datasets),
        event=EVENT,
        budgets=(budget, budget),
        recipients=(2,),
        release_records=True,
        release_nonfinite=False,
        policy=POLICY.digest,
        expires_s=NOW_S + 3600,
    )
    agreement = Agreement(owners, researcher, contract, SignedContract.unsigned(contract))
    agreement.signed = agreement.sign(contract)
    return agreement


class ReferenceEnclave:
    """One boot of the image that ``signed`` names (or of another)."""

    def __init__(self, signed: SignedContract, measurement: bytes | None = None) -> None:
        self.signed = signed
        self.measurement = measurement or signed.contract.measurement
        self.keys = Identity.generate("boot")
        self.attester = Identity.generate("attester")
        self.hpke_key, self.signing_key = self.keys.public.sealing_key, self.keys.public.signing_key
        self.boot = boot_id(self.hpke_key, self.signing_key)
        self.grants: dict[int, dict[str, Any]] = {}
        self.job_key: bytes | None = None
        self.run = self.boot

    def evidence(self, data: bytes, **changes: Any) -> bytes:
        """Simulated evidence over given report data."""
        claims = {
            "key": self.attester.public.signing_key,
            "measurement": self.measurement,
            "report_data": data,
        }
        body = sign1(encode({**claims, **changes}), SIMULATED_MEDIA_TYPE, self.attester.signing)
        return Evidence(SIMULATED_MEDIA_TYPE, body).to_cmw()

    def attest(self, nonce: bytes, policy: bytes, purpose: int = 0) -> bytes:
        return self.evidence(
            report_data(
                purpose,
                nonce=nonce,
                hpke_key=self.hpke_key,
                signing_key=self.signing_key,
                measurement=self.measurement,
                contract=self.signed.digest,
                policy=policy,
            )
        )

    def request(self, owner: Owner, mode: str = "fresh") -> dict[str, Any]:
        """A release request, with a nonce that this asks for."""
        challenge = owner.ask({"verb": "challenge"})
        return {
            "verb": "release",
            "contract": self.signed.to_bytes(),
            "evidence": self.attest(challenge["nonce"], challenge["policy"]),
            "hpke_key": self.hpke_key,
            "signing_key": self.signing_key,
            "nonce": challenge["nonce"],
            "mode": mode,
        }

    def accept(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Open a grant."""
        party = answer["party"]
        context = info("myelin/grant/v1", self.signed.digest, self.measurement, self.boot, party)
        plain = open_sealed(
            self.keys.sealing, answer["grant"], context, refusal="grant_unsealable", what="grant"
        )
        grant = decode(plain)
        assert isinstance(grant, dict)
        assert set(grant) == {"data_key", "mode", "run", "share", "check"}
        self.grants[party] = grant
        return grant

    def _check_of(self, job_key: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, self.signed.digest, b"myelin/job-key-check/v1").derive(job_key)

    def shares(self) -> list[tuple[int, bytes, bytes]]:
        """Fresh: draw the job key, split it, and seal a share to every owner."""
        owners = self.signed.contract.owners
        self.job_key = secrets.token_bytes(32)
        parts = [secrets.token_bytes(32) for _ in owners[1:]]
        last = self.job_key
        for part in parts:
            last = bytes(a ^ b for a, b in zip(last, part, strict=True))
        deposits = []
        for party, share in zip(owners, [*parts, last], strict=True):
            plain = encode({"run": self.run, "share": share, "check": self._check_of(self.job_key)})
            context = info("myelin/share/v1", self.signed.digest, self.run, party)
            sealed = seal_to(self.signed.contract.parties[party].sealing_key, plain, context)
            deposits.append((party, sealed, self.sign_deposit(party, sealed)))
        return deposits

    def sign_deposit(self, party: int, sealed: bytes) -> bytes:
        return sign1(encode([self.run, party, digest(sealed)]), DEPOSIT_TYPE, self.keys.signing)

    def deposit_request(self, sealed: bytes, signature: bytes) -> dict[str, Any]:
        fields = {"contract": self.signed.digest, "boot": self.boot, "sealed": sealed, "signature": signature}
        return {"verb": "deposit", **fields}

    def resume(self) -> bytes:
        """Join the shares of all grants; the job key must match its check."""
        job_key = bytes(32)
        for grant in self.grants.values():
            job_key = bytes(a ^ b for a, b in zip(job_key, grant["share"], strict=True))
        assert all(grant["check"] == self._check_of(job_key) for grant in self.grants.values())
        (self.run,) = {grant["run"] for grant in self.grants.values()}
        self.job_key = job_key
        return job_key

    def finish(
        self, model: bytes, change: Callable[[Certificate], Certificate] = lambda c: c
    ) -> tuple[bytes, list[bytes]]:
        """Certificate bundle, and the model sealed to each recipient."""
        contract = self.signed.contract
        sealed = []
        for party in contract.recipients:
            context = info("myelin/model/v1", self.signed.digest, self.run, party)
            content = seal_to(contract.parties[party].sealing_key, model, context)
            sealed.append(SealedModel(self.signed.digest, self.run, party, content).to_bytes())
        certificate = Certificate(
            measurement=self.measurement,
            contract=self.signed.digest,
            plan=contract.plan,
            run=self.run,
            hpke_key=self.hpke_key,
            signing_key=self.signing_key,
            event=contract.event,
            model=digest(model),
            sealed_models=tuple(
                SealedModelRef(p, digest(s)) for p, s in zip(contract.recipients, sealed, strict=True)
            ),
            records=tuple(d.records for d in contract.datasets) if contract.release_records else None,
            nonfinite=0 if contract.release_nonfinite else None,
        )
        certificate = change(certificate)
        signed = sign1(certificate.to_bytes(), CERTIFICATE_TYPE, self.keys.signing)
        evidence = self.attest(digest(signed), contract.policy, purpose=1)
        return CertificateBundle(signed, evidence, certificate).to_bytes(), sealed
