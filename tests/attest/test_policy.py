"""The policy language: typed, strict, all of it in the digest; no word of it admits a simulated enclave."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from myelin.attest import (
    MEDIA_TYPES,
    REGISTERS,
    SIMULATED_MEDIA_TYPE,
    Evidence,
    Measurement,
    MinimumTcb,
    Policy,
    RealEvidence,
    ReferenceValues,
    SimulatedPolicy,
    appraise,
    load_measurements,
)
from myelin.attest.policy import built_in_minima
from myelin.contract import Identity
from myelin.errors import InputError
from myelin.wire import digest, encode, sign1

WHOLE = """
version = 1
name = "three hospitals"
accepts = ["sev-snp", "tdx"]
tcb_statuses = ["UpToDate", "SWHardeningNeeded"]
advisories = ["INTEL-SA-00615"]
platforms = ["00ff", "0102030405060708090a0b0c0d0e0f10"]
maximum_evidence_age_s = 60
maximum_collateral_age_s = 86400
maximum_revocation_age_s = 172800
allow_unchecked_revocation = ["nitro"]
allow_smt = true
allow_dynamic_platform = true
allow_cached_keys = true

[[measurements]]
kind = "sev-snp"
registers = { measurement = "aabb", host_data = "00" }
minimum_security_version = 3
image = "1111111111111111111111111111111111111111111111111111111111111111"

[[minimum_tcb]]
kind = "sev-snp"
product = "turin"
components = { fmc = 1, bootloader = 1, tee = 1, snp = 4, microcode = 81 }
mitigations = 6
features = ["alias-check", "ciphertext-hiding"]
"""
MINIMAL = 'version = 1\naccepts = ["tdx"]\n'


def test_every_field_of_a_policy():
    policy = Policy.from_toml(WHOLE)
    assert set(Policy.model_fields) == policy.model_fields_set
    assert policy.accepts == {RealEvidence.SEV_SNP, RealEvidence.TDX}
    assert policy.platforms == {b"\0\xff", bytes(range(1, 17))}
    assert policy.measurements == (
        Measurement(
            kind="sev-snp",
            registers={"host_data": b"\0", "measurement": b"\xaa\xbb"},
            minimum_security_version=3,
            image=b"\x11" * 32,
        ),
    )
    assert policy.minimum_tcb[0].mitigations == 6


def test_what_is_left_out_is_strictest():
    policy = Policy.from_toml(MINIMAL)
    assert policy.tcb_statuses == {"UpToDate"}
    assert policy.advisories == frozenset()
    assert not (policy.allow_smt or policy.allow_dynamic_platform or policy.allow_cached_keys)
    assert policy.measurements == ()
    assert policy.maximum_evidence_age_s == 300
    assert policy.minimum_tcb == ()
    assert policy.allow_unchecked_revocation == frozenset()


def test_production():
    policy = Policy.production()
    assert RealEvidence.TPM not in policy.accepts
    assert policy.tcb_statuses == {"UpToDate"}
    assert policy.advisories == frozenset()
    assert {minimum.product for minimum in policy.minimum_tcb} == {"genoa", "genoa-x", "turin"}
    assert all(minimum.mitigations and minimum.features for minimum in policy.minimum_tcb)
    assert not {minimum.product for minimum in policy.minimum_tcb} & set(built_in_minima().without_minimum)
    assert policy.allow_unchecked_revocation == {RealEvidence.NITRO}
    assert not any("debug" in name for name in Policy.model_fields)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("version = 1", "", "version"),
        ("version = 1", "version = 2", "version"),
        ("version = 1", "version = true", "version"),
        ("version = 1", "version = 1\ndebug = false", "debug"),
        ('"tdx"]', '"tdx", "simulated"]', "accepts"),
        ('accepts = ["sev-snp", "tdx"]', "accepts = []", "accepts"),
        ('accepts = ["sev-snp", "tdx"]', "", "accepts"),
        ('accepts = ["sev-snp", "tdx"]', 'accepts = "tdx"', "accepts"),
        ("allow_smt = true", "allow_smt = 1", "allow_smt"),
        ("allow_smt = true", 'allow_smt = "yes"', "allow_smt"),
        ('["nitro"]', '["simulated"]', "allow_unchecked_revocation"),
        ("_age_s = 172800", "_age_s = 0", "maximum_revocation_age_s"),
        ("_age_s = 60", "_age_s = 60.0", "maximum_evidence_age_s"),
        ("_age_s = 60", "_age_s = 0", "maximum_evidence_age_s"),
        ("_age_s = 60", "_age_s = -1", "maximum_evidence_age_s"),
        ("_age_s = 60", "_age_s = 99999999999", "maximum_evidence_age_s"),
        ('"00ff"', '"00FF"', "platforms"),
        ('"00ff"', '"0x00"', "platforms"),
        ('"00ff"', '""', "platforms"),
        ('"00ff"', "255", "platforms"),
        ('["00ff", "0102030405060708090a0b0c0d0e0f10"]', "[]", "platforms"),
        ("measurement = ", "measuremint = ", "measurements.0"),
        ("host_data = ", "HOST = ", "measurements.0.registers"),
        ('kind = "sev-snp"\nregisters', 'kind = "simulated"\nregisters', "measurements.0.kind"),
        ("minimum_security_version = 3", "minimum_security_version = -3", "measurements.0"),
        ("1111111111", "11", "measurements.0.image"),
        ("mitigations = 6", 'mitigations = "6"', "minimum_tcb.0.mitigations"),
        ('"alias-check", ', '"no such", ', "minimum_tcb.0.features"),
        ("snp = 4", "snp = true", "minimum_tcb.0.components"),
        ('product = "turin"', 'product = "turin"\nextra = 1', "minimum_tcb.0.extra"),
        ("version = 1", "version = ", "TOML"),
        ("[[minimum_tcb]]", '[[minimum_tcb]]\nkind="sev-snp"\nproduct="turin"\ncomponents={x=1}\n[[minimum_tcb]]',  # noqa: E501
         "twice"),
    ],
)  # fmt: skip
def test_what_a_policy_may_not_say(old, new, place):
    assert old in WHOLE
    with pytest.raises(InputError) as refusal:
        Policy.from_toml(WHOLE.replace(old, new, 1), where="hospital.toml")
    assert str(refusal.value).startswith("hospital.toml: ")
    assert place in str(refusal.value)


def test_files(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(WHOLE)
    assert Policy.load(path) == Policy.from_toml(WHOLE)
    for data, reason in ((b"\xff", "UTF-8"), (b"#" * (1 << 21), "at most"), (b"a = " + b"[" * 9999, "TOML")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=reason):
            Policy.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Policy.load(tmp_path)


def test_reference_values(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('version = 1\n[[measurements]]\nkind = "sgx"\nregisters.mrenclave = "aa"\n')
    assert load_measurements(path) == (Measurement(kind="sgx", registers={"mrenclave": b"\xaa"}),)
    path.write_text('version = 1\naccepts = ["sgx"]\n')
    with pytest.raises(InputError, match=r"r\.toml: "):
        load_measurements(path)


@pytest.mark.parametrize("kind", RealEvidence)
def test_a_measurement_names_what_its_kind_must_name(kind):
    whole = dict.fromkeys(REGISTERS[kind], b"x")
    Measurement(kind=kind, registers=whole)
    for name in whole:
        with pytest.raises(ValidationError, match=name):
            Measurement(kind=kind, registers={k: v for k, v in whole.items() if k != name})
    twice = (*whole.items(), *whole.items())
    with pytest.raises(ValidationError, match="twice"):
        Measurement(kind=kind, registers=twice)


def test_a_gpu_never_stands_for_an_image():
    whole = dict.fromkeys(REGISTERS[RealEvidence.NVIDIA], b"x")
    with pytest.raises(ValidationError, match="says nothing about an image"):
        Measurement(kind="nvidia", registers=whole, image=b"i" * 32)


CHANGES = {
    "version": None,  # there is one
    "name": {"name": "another"},
    "accepts": {"accepts": frozenset({RealEvidence.TDX})},
    "measurements": {"measurements": ()},
    "tcb_statuses": {"tcb_statuses": frozenset({"UpToDate"})},
    "advisories": {"advisories": frozenset()},
    "minimum_tcb": {"minimum_tcb": ()},
    "platforms": {"platforms": None},
    "maximum_evidence_age_s": {"maximum_evidence_age_s": 61},
    "maximum_collateral_age_s": {"maximum_collateral_age_s": 86_401},
    "maximum_revocation_age_s": {"maximum_revocation_age_s": 172_801},
    "allow_unchecked_revocation": {"allow_unchecked_revocation": frozenset()},
    "allow_smt": {"allow_smt": False},
    "allow_dynamic_platform": {"allow_dynamic_platform": False},
    "allow_cached_keys": {"allow_cached_keys": False},
}
INNER = {
    "kind": ("kind", RealEvidence.AZURE_SNP),
    "registers": ("registers", (("host_data", b"\0"), ("measurement", b"\xaa\xbc"))),
    "register's name": ("registers", (("host_date", b"\0"), ("measurement", b"\xaa\xbb"))),
    "security version": ("minimum_security_version", 2),
    "image": ("image", None),
}
INNER_TCB = {
    "kind": ("kind", RealEvidence.TDX),
    "product": ("product", "genoa"),
    "component": ("components", (("fmc", 1),)),
    "mitigations": ("mitigations", 7),
    "features": ("features", frozenset({"alias-check"})),
}


def test_the_digest_covers_every_field():
    policy = Policy.from_toml(WHOLE)
    assert set(CHANGES) == set(Policy.model_fields)
    digests = [policy.digest]
    for change in filter(None, CHANGES.values()):
        digests.append(policy.model_copy(update=change).digest)
    for field, value in INNER.values():
        changed = policy.measurements[0].model_copy(update={field: value})
        digests.append(policy.model_copy(update={"measurements": (changed,)}).digest)
    for field, value in INNER_TCB.values():
        changed = policy.minimum_tcb[0].model_copy(update={field: value})
        digests.append(policy.model_copy(update={"minimum_tcb": (changed,)}).digest)
    assert {field for field, _ in INNER.values()} == set(Measurement.model_fields)
    assert {field for field, _ in INNER_TCB.values()} == set(MinimumTcb.model_fields)
    digests += [Policy.production().digest, Policy.insecure_accepting_simulated_evidence().digest]
    assert len(set(digests)) == len(digests)
    assert all(len(value) == 32 for value in digests)


def test_the_order_of_a_file_does_not_count():
    turned = WHOLE.replace('["sev-snp", "tdx"]', '["tdx", "sev-snp"]').replace(
        'measurement = "aabb", host_data = "00"', 'host_data = "00", measurement = "aabb"'
    )
    assert turned != WHOLE
    assert Policy.from_toml(turned).digest == Policy.from_toml(WHOLE).digest


def test_the_digest_of_production_is_known():
    """It stands in contracts: a change of it changes what parties agreed to, and belongs in the log."""
    assert (
        Policy.production().digest.hex() == "eb6dedf4e6563b7254b5590cff18d1b25ac8e6d3c5d30d666eda21a9aa5aff41"
    )


# --- simulation


ATTESTER = Identity.generate("attester")
IMAGE, REPORT = digest(b"image"), bytes(range(64))


def simulated() -> Evidence:
    claims = {"key": ATTESTER.public.signing_key, "measurement": IMAGE, "report_data": REPORT}
    return Evidence(SIMULATED_MEDIA_TYPE, sign1(encode(claims), SIMULATED_MEDIA_TYPE, ATTESTER.signing))


names = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
measurements = st.sampled_from(list(RealEvidence)).map(
    lambda kind: Measurement(
        kind=kind,
        registers=dict.fromkeys(REGISTERS[kind], IMAGE),
        image=None if kind is RealEvidence.NVIDIA else IMAGE,
    )
)
policies = st.builds(
    Policy,
    name=names,
    accepts=st.frozensets(st.sampled_from(list(RealEvidence)), min_size=1),
    measurements=st.lists(measurements, max_size=3).map(tuple),
    tcb_statuses=st.frozensets(names, max_size=4),
    advisories=st.frozensets(names, max_size=4),
    platforms=st.none() | st.frozensets(st.binary(min_size=1, max_size=64), min_size=1, max_size=3),
    maximum_evidence_age_s=st.integers(1, 86_400),
    maximum_collateral_age_s=st.integers(1, 86_400),
    maximum_revocation_age_s=st.integers(1, 86_400),
    allow_unchecked_revocation=st.frozensets(st.sampled_from(list(RealEvidence))),
    allow_smt=st.booleans(),
    allow_dynamic_platform=st.booleans(),
    allow_cached_keys=st.booleans(),
)


@given(policies)
def test_no_policy_admits_simulated_evidence(policy):
    reference = ReferenceValues(frozenset({IMAGE}), (REPORT,))
    insecure = Policy.insecure_accepting_simulated_evidence()
    assert appraise(simulated(), (), reference, insecure, 1).trusted
    result = appraise(simulated(), (), reference, policy, 1)
    assert [check.name for check in result.checks.failures()] == ["kind of evidence"]
    assert result.simulated
    assert policy.digest != insecure.digest
    for kind in policy.accepts:  # the same bytes under a name of hardware's
        disguised = Evidence(MEDIA_TYPES[kind], simulated().body)
        try:
            assert not appraise(disguised, (), reference, policy, 1).trusted
        except Exception as error:
            assert getattr(error, "name", "") == "evidence_unreadable"


tables = st.dictionaries(
    st.sampled_from([*Policy.model_fields, "simulated", "insecure", "accept_simulated", "kind"]) | names,
    st.booleans() | st.integers() | names | st.lists(names, max_size=3) | st.just("simulated"),
    max_size=8,
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(tables)
def test_no_file_admits_simulated_evidence(table):
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in table.items())
    for given_ in (text, f'version = 1\naccepts = ["tdx"]\n{text}'):
        try:
            policy = Policy.from_toml(given_)
        except InputError:
            continue
        assert type(policy) is Policy
        assert not appraise(
            simulated(), (), ReferenceValues(frozenset({IMAGE}), (REPORT,)), policy, 1
        ).trusted


def test_the_type_that_admits_it_has_no_fields():
    assert dataclasses.fields(SimulatedPolicy) == ()
    assert not issubclass(SimulatedPolicy, Policy)
    assert not issubclass(Policy, SimulatedPolicy)
