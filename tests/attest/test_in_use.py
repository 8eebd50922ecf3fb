"""Broker and verifier with hardware's evidence: what policy, reference values and endorsements do there.

The evidence is made under roots of the tests' own. Only where a test puts those in the place of the pinned
ones is it accepted; everywhere else the root is the one thing that is refused.
"""

import sys

import numpy as np
import pytest
from vendors.snp import Machine, roots

from myelin.attest import MEDIA_TYPES, Evidence, Measurement, MinimumTcb, Policy, RealEvidence
from myelin.certificate import verify
from myelin.contract.draft import Draft
from myelin.errors import InputError, ProtocolError
from reference_enclave import NOW_S, ReferenceEnclave, make_agreement, one_each, safetensors

MACHINE = Machine("genoa")
LEAST = {name: MACHINE.tcb[name] for name in ("bootloader", "tee", "snp", "microcode")}
POLICY = Policy(
    name="hospitals",
    accepts={RealEvidence.SEV_SNP},
    minimum_tcb=(MinimumTcb(kind="sev-snp", product="genoa", components=LEAST),),
    platforms={MACHINE.chip_id},
)
ENDORSEMENTS = MACHINE.endorsements(listed_s=NOW_S - 86_400)
MODEL = safetensors(np.arange(6, dtype=np.float32).reshape(2, 3))


class HardwareEnclave(ReferenceEnclave):
    """The reference enclave in a SEV-SNP guest."""

    def evidence(self, data, **_):
        return Evidence(MEDIA_TYPES[RealEvidence.SEV_SNP], MACHINE.report(report_data=data)).to_cmw()


@pytest.fixture
def trusting(monkeypatch):
    """Puts the tests' roots in the place of the pinned ones."""
    monkeypatch.setattr(sys.modules["myelin.attest.appraise"], "PINNED_ROOTS", roots())


@pytest.fixture
def agreed(tmp_path):
    agreement = make_agreement(tmp_path)
    signed = agreement.changed(policy=POLICY.digest)
    known = Measurement(
        kind="sev-snp", registers={"measurement": b"m" * 48}, image=signed.contract.measurement
    )
    return agreement, signed, known


def restarted(owner, **options):
    owner.restart(policy=POLICY, **options)
    return owner


def test_a_broker_releases_to_hardware_that_its_policy_trusts(agreed, trusting):
    agreement, signed, known = agreed
    owner = restarted(agreement.owners[0], known=(known,), endorsements=lambda: ENDORSEMENTS)
    enclave = HardwareEnclave(signed)
    answer = owner.ask(enclave.request(owner))
    assert answer["debited"] is True
    assert enclave.accept(answer)["data_key"] == owner.data_key


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "certificate chain: root"),
        ({"endorsements": tuple}, "evidence signature"),
        ({"known": ()}, "measurement"),
    ],
)
def test_a_broker_releases_to_nobody_else(agreed, options, reason):
    agreement, signed, known = agreed
    given = {"known": (known,), "endorsements": lambda: ENDORSEMENTS, **options}
    owner = restarted(agreement.owners[0], **given)
    with pytest.raises(ProtocolError) as caught:
        owner.ask(HardwareEnclave(signed).request(owner))
    assert caught.value.name in ("evidence_refused", "wrong_measurement")
    assert reason in caught.value.detail
    assert owner.debits() == 0


def test_endorsements_that_cannot_be_read_release_nothing(agreed, trusting):
    agreement, signed, known = agreed

    def missing():
        raise InputError("vcek.der: cannot be read: No such file or directory")

    owner = restarted(agreement.owners[0], known=(known,), endorsements=missing)
    with pytest.raises(ProtocolError, match="evidence_refused") as caught:
        owner.ask(HardwareEnclave(signed).request(owner))
    assert "vcek.der" in caught.value.detail
    assert owner.debits() == 0


def test_a_broker_of_another_policy(agreed, trusting):
    agreement, _, known = agreed
    owner = restarted(agreement.owners[0], known=(known,), endorsements=lambda: ENDORSEMENTS)
    with pytest.raises(ProtocolError, match="wrong_policy"):
        owner.ask(HardwareEnclave(agreement.signed).request(owner))


def verified(agreed, policy=POLICY, endorsements=ENDORSEMENTS, contract=True):
    _, signed, known = agreed
    bundle = HardwareEnclave(signed).finish(MODEL)[0]
    return verify(
        bundle,
        signed if contract else None,
        policy=policy,
        known=(known,),
        endorsements=endorsements,
        now_s=NOW_S,
        accountant=one_each,
    )


def test_a_certificate_of_hardware(agreed, trusting):
    result = verified(agreed)
    assert result.verified, [check.name for check in result.checks.failures()]
    assert not result.simulated
    assert not any("hardware" in item for item in result.not_checked)
    assert verified(agreed, contract=False).verified


def test_what_a_certificate_of_hardware_is_refused_for(agreed, trusting):
    others = POLICY.model_copy(update={"platforms": frozenset({bytes(64)})})
    names = [check.name for check in verified(agreed, policy=others).checks.failures()]
    assert names == ["platform", "appraisal policy"]
    names = [check.name for check in verified(agreed, endorsements=()).checks.failures()]
    assert names == ["evidence signature"]


def test_a_certificate_under_the_vendors_roots(agreed):
    names = [check.name for check in verified(agreed).checks.failures()]
    assert names == ["certificate chain: root", "signature", "revocation"]


def test_a_contract_names_a_policy_by_its_file(tmp_path):
    text = 'version = 1\nname = "hospitals"\naccepts = ["tdx"]\n'
    (tmp_path / "policy.toml").write_text(text)
    draft = Draft.model_validate(
        {
            "name": "hospitals",
            "policy": "policy.toml",
            "expires": "2100-01-01T00:00:00Z",
            "recipients": ["a"],
            "parties": [{"name": name, "role": "researcher", "public_key": name} for name in ("a", "b")],
        }
    )
    assert draft.policy_digest(tmp_path) == Policy.from_toml(text).digest
    missing = draft.model_copy(update={"policy": "none.toml"})
    with pytest.raises(InputError, match="cannot be read"):
        missing.policy_digest(tmp_path)
