"""Certificates: good ones pass, each lie alone is refused by the check that names it."""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myelin.attest import SIMULATED_MEDIA_TYPE, Evidence, Policy
from myelin.certificate import CERTIFICATE_TYPE, Certificate, CertificateBundle, verify
from myelin.contract import Budget, Identity
from myelin.errors import InputError, ProtocolError
from myelin.wire import decode, digest, encode, sign1
from reference_enclave import (
    EVENT,
    NOW_S,
    POLICY,
    Agreement,
    ReferenceEnclave,
    make_agreement,
    one_each,
    safetensors,
)

MODEL = safetensors(np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.fixture(scope="module")
def agreement(tmp_path_factory) -> Agreement:
    return make_agreement(tmp_path_factory.mktemp("agreement"))


@pytest.fixture(scope="module")
def bundle(agreement) -> bytes:
    return ReferenceEnclave(agreement.signed).finish(MODEL)[0]


def checked(bundle, contract=None, allow_simulated=True, accountant=one_each, **options):
    return verify(
        bundle, contract, allow_simulated=allow_simulated, now_s=NOW_S, accountant=accountant, **options
    )


def failed(result):
    assert not result.verified
    return [check.name for check in result.checks.failures()]


def test_good_certificate(agreement, bundle):
    result = checked(bundle, agreement.signed)
    assert result.verified
    assert result.simulated
    assert [(f.of, f.delta, f.epsilon, f.budget) for f in result.privacy] == [
        ("north", 1e-5, 1.0, 3.0),
        ("south", 1e-5, 1.0, 3.0),
    ]
    assert result.certificate.records == (10, 20)
    assert [item.split(":")[0] for item in result.not_checked] == [
        "that the keys in the contract are those of the people named",
        "that any of this ran in protected hardware",
    ]
    names = [check.name for check in result.checks.children]
    assert names == ["certificate signature", "attestation", "contract", "privacy"]


def test_without_a_contract_it_says_what_was_not_checked(bundle):
    result = checked(bundle, delta=1e-6)
    assert result.verified
    assert "give the contract" in result.not_checked[0]
    assert [(f.of, f.delta) for f in result.privacy] == [("every owner", 1e-6)]


def test_real_accountant(agreement, bundle):
    from myelin.privacy import epsilon

    result = verify(bundle, agreement.signed, allow_simulated=True, now_s=NOW_S)
    expected = epsilon([EVENT.to_map()], 1e-5)
    assert result.privacy[0].epsilon == expected > 0


def test_simulated_is_refused_by_default_with_the_whole_tree(agreement, bundle):
    result = checked(bundle, agreement.signed, allow_simulated=False)
    assert failed(result) == ["kind of evidence", "appraisal policy"]
    assert result.simulated
    assert len(result.checks.children) == 4
    assert checked(bundle, allow_simulated=False).verified is False
    listed = result.to_dict()
    assert (listed["verified"], listed["simulated"]) == (False, True)


CHANGES = [
    ({"measurement": digest(b"other")}, ["report data", "image measurement"]),
    ({"plan": digest(b"other")}, ["plan"]),
    ({"contract": digest(b"other")}, ["report data", "contract digest"]),
    ({"event": replace(EVENT, steps=11)}, ["executed mechanism"]),
    ({"event": replace(EVENT, noise_multiplier_e9=10)}, ["executed mechanism"]),
    ({"sealed_models": ()}, ["recipients of the model"]),
    ({"records": None}, ["records per owner"]),
    ({"records": (20, 10)}, ["records per owner"]),
    ({"nonfinite": 0}, ["non-finite contributions"]),
    ({"hpke_key": Identity.generate("x").public.sealing_key}, ["report data"]),
]


@pytest.mark.parametrize(("change", "names"), CHANGES)
def test_an_enclave_that_did_something_else(agreement, change, names):
    bundle, _ = ReferenceEnclave(agreement.signed).finish(MODEL, lambda c: replace(c, **change))
    assert failed(checked(bundle, agreement.signed)) == names


def test_another_image_ran(agreement):
    enclave = ReferenceEnclave(agreement.signed, measurement=digest(b"other"))
    assert failed(checked(enclave.finish(MODEL)[0], agreement.signed)) == ["measurement", "image measurement"]


def test_keys_and_evidence_of_another_boot(agreement, bundle):
    other = CertificateBundle.from_bytes(ReferenceEnclave(agreement.signed).finish(MODEL)[0])
    mine = CertificateBundle.from_bytes(bundle)
    mixed = replace(mine, evidence=other.evidence).to_bytes()
    assert failed(checked(mixed, agreement.signed)) == ["report data"]
    # signed by a key that is not the one in the payload
    signed = sign1(mine.certificate.to_bytes(), CERTIFICATE_TYPE, Identity.generate("x").signing)
    forged = replace(mine, signed=signed).to_bytes()
    assert failed(checked(forged, agreement.signed)) == ["certificate signature", "report data"]
    # signed for another purpose
    enclave = ReferenceEnclave(agreement.signed)
    certificate = CertificateBundle.from_bytes(enclave.finish(MODEL)[0]).certificate
    signed = sign1(certificate.to_bytes(), "application/other", enclave.keys.signing)
    wrong = CertificateBundle(signed, enclave.attest(digest(signed), POLICY.digest, 1), certificate)
    assert failed(checked(wrong.to_bytes(), agreement.signed)) == ["certificate signature"]


def test_evidence_for_key_release_is_not_for_a_certificate(agreement):
    enclave = ReferenceEnclave(agreement.signed)
    mine = CertificateBundle.from_bytes(enclave.finish(MODEL)[0])
    evidence = enclave.attest(digest(mine.signed), POLICY.digest, purpose=0)
    assert failed(checked(replace(mine, evidence=evidence).to_bytes())) == ["report data"]


def test_another_contract_or_an_unsigned_one(agreement, bundle):
    other = agreement.changed(name="another")
    assert failed(checked(bundle, other)) == ["contract digest"]
    unsigned = agreement.sign(agreement.contract, skip="south")
    assert failed(checked(bundle, unsigned)) == ["signature of south"]


def test_contract_under_the_production_policy(agreement):
    signed = agreement.changed(policy=Policy.production().digest)
    bundle, _ = ReferenceEnclave(signed).finish(MODEL)
    assert failed(checked(bundle, signed)) == ["appraisal policy"]
    assert failed(checked(bundle, signed, allow_simulated=False)) == ["kind of evidence"]


def test_privacy_beyond_a_budget(agreement):
    signed = agreement.changed(budgets=(Budget.of("3", "1e-5"), Budget.of("0.5", "1e-6")))
    bundle, _ = ReferenceEnclave(signed).finish(MODEL)
    assert failed(checked(bundle, signed)) == ["privacy of south's records"]
    assert failed(checked(bundle, accountant=lambda e, d: float("inf"))) == ["privacy loss"]
    assert failed(checked(bundle, accountant=lambda e, d: float("nan"))) == ["privacy loss"]

    def refuses(events, delta):
        raise InputError("no")

    assert failed(checked(bundle, accountant=refuses)) == ["privacy loss"]


def test_evidence_of_an_unknown_kind(agreement, bundle):
    mine = CertificateBundle.from_bytes(bundle)
    other = replace(mine, evidence=Evidence("application/vnd.other", b"x").to_cmw()).to_bytes()
    assert failed(checked(other))[0] == "kind of evidence"
    nonsense = replace(mine, evidence=Evidence(SIMULATED_MEDIA_TYPE, b"x").to_cmw()).to_bytes()
    with pytest.raises(InputError, match="certificate"):
        checked(nonsense)


def test_every_flipped_byte_is_refused(agreement, bundle):
    for place in range(0, len(bundle), 3):
        flipped = bytearray(bundle)
        flipped[place] ^= 1 << (place % 8)
        try:
            result = checked(bytes(flipped), agreement.signed)
        except InputError:
            continue
        assert not result.verified, place


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_certificate(data):
    with pytest.raises(InputError):
        checked(data)


@settings(max_examples=200)
@given(st.data())
def test_mutated_payloads_are_read_whole_or_refused(bundle, data):
    raw = bytearray(CertificateBundle.from_bytes(bundle).certificate.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert Certificate.from_bytes(bytes(raw)).to_bytes() == bytes(raw)
    except ProtocolError as error:
        assert error.name in ("malformed_message", "unknown_field")


def test_form(bundle):
    good = decode(bundle)
    for bad in (["other", *good[1:]], good[:2], {"a": 1}, [*good, b""]):
        with pytest.raises(InputError):
            checked(encode(bad))
    with pytest.raises(InputError, match="at most"):
        checked(os.urandom((1 << 20) + 1))
