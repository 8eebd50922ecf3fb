"""A run between the Rust state machine and the second implementation: each opens what the other seals."""

from __future__ import annotations

from dataclasses import dataclass, field

import cbor2
import pytest
from enclave_process import (
    EVENT_NUMBERS,
    MODEL_HEADER,
    PLAN_DIGEST,
    RECORD_BYTES,
    STEPS,
    EnclaveProcess,
    RefusedError,
)
from second_implementation import (
    Party,
    SealedFile,
    cbor,
    is_check_of,
    join_shares,
    open_evidence,
    report_data,
    run_keys,
    seal_dataset,
    seal_to,
    sha256,
    sign,
    verify,
)

MEASUREMENT = sha256(b"image")
POLICY = sha256(b"policy")
SCHEMA = sha256(b"schema")
RECORDS = (4, 20_000, 7_282)
TYPES = "application/vnd.myelin."


@dataclass
class World:
    parties: list[Party] = field(
        default_factory=lambda: [Party(n, "owner") for n in "ABC"] + [Party("R", "researcher")]
    )
    files: list[SealedFile] = field(default_factory=list)

    def __post_init__(self) -> None:
        for i, (party, records) in enumerate(zip(self.parties, RECORDS, strict=False)):
            plain = bytes((j * 7 + i) % 256 for j in range(records * RECORD_BYTES))
            self.files.append(
                seal_dataset(party.data_key, plain, RECORD_BYTES, SCHEMA, sha256(party.name.encode()))
            )

    @property
    def event(self) -> dict[str, object]:
        return {
            "type": "truncated-poisson-gaussian",
            "neighboring_relation": "replace-special",
            "dataset_size": sum(RECORDS),
            **EVENT_NUMBERS,
            "clipping": ["flat"],
            "correlation": [],
            "augment": [],
            "views": 1,
        }

    @property
    def contract(self) -> bytes:
        return cbor(
            {
                "version": 2,
                "name": "hôpitaux",
                "measurement": MEASUREMENT,
                "plan": PLAN_DIGEST,
                "parties": [
                    {
                        "name": p.name,
                        "role": p.role,
                        "signing_key": p.signing_key,
                        "sealing_key": p.sealing_key,
                    }
                    for p in self.parties
                ],
                "datasets": [
                    {"owner": i, "digest": f.digest, "schema": SCHEMA, "records": f.records}
                    for i, f in enumerate(self.files)
                ],
                "event": self.event,
                "budgets": [{"owner": i, "epsilon_e6": 3_000_000, "delta_e15": 10**10} for i in range(3)],
                "recipients": [3],
                "release_records": True,
                "release_nonfinite": False,
                "policy": POLICY,
                "expires_s": 2_000_000_000,
                "anchors": ["tpm", "witnesses"],
            }
        )

    @property
    def digest(self) -> bytes:
        return sha256(self.contract)


def contract_signatures(world: World) -> list[bytes]:
    kind = TYPES + "contract+cbor"
    return [sign(p.signing, kind, world.contract, detached=True) for p in world.parties]


def bind(world: World, enclave: EnclaveProcess) -> tuple[bytes, bytes]:
    assert enclave.call(0, MEASUREMENT, 2) == [1]
    hpke_key, signing_key, plan, state = enclave.call(1)
    assert (plan, state) == (PLAN_DIGEST, "launched")
    assert enclave.call(2, world.contract, contract_signatures(world)) == [world.digest]
    return hpke_key, signing_key


def grant_all(world: World, enclave: EnclaveProcess, hpke_key: bytes, boot: bytes, *, resume: bool) -> None:
    for i, party in enumerate(world.parties[:3]):
        grant: dict[str, object] = {"data_key": party.data_key, "mode": "resume" if resume else "fresh"}
        grant |= party.share if resume and party.share else dict.fromkeys(("run", "share", "check"))
        sealed = seal_to(hpke_key, ["myelin/grant/v1", world.digest, MEASUREMENT, boot, i], cbor(grant))
        assert enclave.call(4, i, sealed) == [2 - i]


def deposit_all(world: World, enclave: EnclaveProcess, signing_key: bytes, boot: bytes) -> None:
    run, deposits = enclave.call(5)
    assert run == boot
    for i, sealed, signature in deposits:
        party = world.parties[i]
        signed = verify(signing_key, TYPES + "deposit+cbor", signature)
        assert signed == cbor([run, i, sha256(sealed)])
        party.share = cbor2.loads(party.open(["myelin/share/v1", world.digest, run, i], sealed))
        assert sorted(party.share) == ["check", "run", "share"]
        receipt = cbor([world.digest, run, i, sha256(sealed)])
        signed_receipt = sign(party.signing, TYPES + "deposit-receipt+cbor", receipt)
        assert enclave.call(6, i, signed_receipt) == [2 - i]


def load_all(world: World, enclave: EnclaveProcess) -> None:
    for i, file in enumerate(world.files):
        assert enclave.call(7, i, file.prefix) == [len(file.chunks)]
        for j, chunk in enumerate(file.chunks):
            assert enclave.call(8, j, chunk) == [len(file.chunks) - j - 1]


def fetch_all(enclave: EnclaveProcess) -> list[bytes]:
    (lengths,) = enclave.call(10)
    return [bytes(enclave.call(11, i, 0, length)[0]) for i, length in enumerate(lengths)]


def expected_model(world: World) -> bytes:
    """What the small engine computes from the keys that the owners' shares together give."""
    shares = [p.share for p in world.parties[:3] if p.share is not None]
    job_key = join_shares([s["share"] for s in shares])
    assert all(is_check_of(s["check"], job_key, world.digest) for s in shares)
    keys = run_keys(job_key, MEASUREMENT, world.digest, [f.digest for f in world.files])
    return MODEL_HEADER + sha256(b"".join(keys) + b"".join(f.plain for f in world.files))


def run(world: World, seed: int, *, resume: bool) -> tuple[bytes, list[bytes], tuple[bytes, bytes]]:
    """One boot from launch to release: boot id, outputs, public keys."""
    with EnclaveProcess(seed) as enclave:
        hpke_key, signing_key = bind(world, enclave)
        boot = sha256(cbor(["myelin/boot/v1", hpke_key, signing_key]))
        grant_all(world, enclave, hpke_key, boot, resume=resume)
        if not resume:
            deposit_all(world, enclave, signing_key, boot)
        load_all(world, enclave)
        assert enclave.call(9, 2) == [2, STEPS]
        assert enclave.call(9, 100) == [STEPS, STEPS]
        return boot, fetch_all(enclave), (hpke_key, signing_key)


def open_model(world: World, output: bytes, run_id: bytes) -> bytes:
    label, contract, got_run, party, sealed = cbor2.loads(output)
    assert (label, contract, got_run, party) == ("myelin-sealed-model", world.digest, run_id, 3)
    return world.parties[3].open(["myelin/model/v1", contract, got_run, party], sealed)


def test_a_whole_run_and_its_certificate():
    world = World()
    boot, (bundle, sealed_model), keys = run(world, 11, resume=False)
    model = open_model(world, sealed_model, boot)
    assert model == expected_model(world)
    label, sign1, cmw = cbor2.loads(bundle)
    assert label == "myelin-certificate"
    certificate = verify(keys[1], TYPES + "certificate+cbor", sign1)
    assert certificate == cbor(
        {
            "version": 1,
            "measurement": MEASUREMENT,
            "contract": world.digest,
            "plan": PLAN_DIGEST,
            "run": boot,
            "hpke_key": keys[0],
            "signing_key": keys[1],
            "event": world.event,
            "model": sha256(model),
            "sealed_models": [{"recipient": 3, "digest": sha256(sealed_model)}],
            "records": list(RECORDS),
            "nonfinite": None,
        }
    )
    claims = open_evidence(cmw)
    assert claims["measurement"] == MEASUREMENT
    assert claims["report_data"] == report_data(1, sha256(sign1), *keys, MEASUREMENT, world.digest, POLICY)


def test_evidence_binds_the_brokers_nonce_and_policy():
    world = World()
    with EnclaveProcess(12) as enclave:
        keys = bind(world, enclave)
        for nonce, policy in ((sha256(b"1"), POLICY), (sha256(b"2"), sha256(b"another"))):
            (cmw,) = enclave.call(3, nonce, policy)
            claims = open_evidence(cmw)
            assert claims["report_data"] == report_data(0, nonce, *keys, MEASUREMENT, world.digest, policy)


def test_a_resumed_run_gives_the_same_model():
    world = World()
    first_boot, (_, first), _ = run(world, 13, resume=False)
    boot, (bundle, second), _ = run(world, 14, resume=True)
    assert boot != first_boot
    assert (
        open_model(world, first, first_boot) == open_model(world, second, first_boot) == expected_model(world)
    )
    assert cbor2.loads(cbor2.loads(cbor2.loads(bundle)[1])[2])["run"] == first_boot


def test_a_share_of_another_run_is_refused():
    world = World()
    run(world, 15, resume=False)
    old = world.parties[1].share
    run(world, 16, resume=False)
    world.parties[1].share = old
    with EnclaveProcess(17) as enclave:
        hpke_key, signing_key = bind(world, enclave)
        boot = sha256(cbor(["myelin/boot/v1", hpke_key, signing_key]))
        with pytest.raises(RefusedError, match=r"^503: "):
            grant_all(world, enclave, hpke_key, boot, resume=True)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"\x9f\x01\xff", 102),
        (b"\x81\x18\x01", 102),
        (cbor([1.5]), 102),
        (cbor([99]), 104),
        (cbor([1]) + b"\x00", 102),
        (b"\x81" * (1 << 20) + b"\x81", 101),
        (cbor2.dumps(cbor2.CBORTag(24, [1])), 102),
    ],
)
def test_what_is_not_deterministic_cbor_is_refused(value: bytes, number: int):
    with EnclaveProcess(18) as enclave:
        enclave.call(0, MEASUREMENT, 1)
        assert cbor2.loads(enclave.send(value))[:2] == [1, number]
        assert enclave.call(1)[3] == "launched"
