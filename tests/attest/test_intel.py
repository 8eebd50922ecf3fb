"""SGX and TDX: recorded quotes as they were, every flip refused, and each check alone able to refuse."""

import json

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendors.intel import NOW_S, SGX_GOOD, TDX_GOOD, IntelPlatform, roots

from myelin.attest import (
    MEDIA_TYPES,
    REGISTERS,
    Evidence,
    Measurement,
    Policy,
    RealEvidence,
    ReferenceValues,
    appraise,
)
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.attest.intel import appraise_sgx, appraise_tdx
from myelin.attest.intel_quote import read_quote
from myelin.attest.roots import PINNED_ROOTS
from myelin.errors import ProtocolError

SGX, TDX = RealEvidence.SGX, RealEvidence.TDX
RECORDED_S = 1_750_334_160  # 2025-06-19T11:56:00Z, when the collateral was fetched
TODAY_S = 1_790_000_000
ROOT = PINNED_ROOTS.of("intel")[0].der
POLICY = Policy(accepts={SGX, TDX})
RECORDED_SGX_POLICY = Policy(
    accepts={SGX},
    tcb_statuses={"ConfigurationAndSWHardeningNeeded"},
    advisories={"INTEL-SA-00289", "INTEL-SA-00615"},
)


def values(quote):
    read = read_quote(quote)
    registers = {name: value for name, value in read.registers if name in REGISTERS[read.kind]}
    return ReferenceValues(None, (read.report_data,), (Measurement(kind=read.kind, registers=registers),))


def evidence(quote):
    return Evidence(MEDIA_TYPES[read_quote(quote).kind], quote)


def failed(result):
    return [check.name for check in result.checks.failures()]


# --- recorded on hardware


def recordings(recorded, which):
    name = {"sgx": "intel_sgx_quote_v3", "tdx": "intel_tdx_quote_v4"}[which]
    return recorded(f"{name}.bin"), recorded(f"{name}.collateral.json")


def test_the_recorded_tdx_quote_is_what_production_takes(recorded):
    quote, collateral = recordings(recorded, "tdx")
    result = appraise(evidence(quote), (collateral,), values(quote), Policy.production(), RECORDED_S)
    assert result.trusted, failed(result)
    strict = appraise(evidence(quote), (collateral,), values(quote), POLICY, RECORDED_S)
    assert failed(strict) == ["platform policy"]


def test_the_recorded_sgx_quote_needs_a_policy_that_says_what_is_wrong_with_it(recorded):
    quote, collateral = recordings(recorded, "sgx")
    allowed = appraise(evidence(quote), (collateral,), values(quote), RECORDED_SGX_POLICY, RECORDED_S)
    assert allowed.trusted, failed(allowed)
    strict = appraise(evidence(quote), (collateral,), values(quote), Policy.production(), RECORDED_S)
    assert failed(strict) == ["platform policy", "TCB status", "advisories"]
    one = RECORDED_SGX_POLICY.model_copy(update={"advisories": frozenset({"INTEL-SA-00289"})})
    partly = appraise(evidence(quote), (collateral,), values(quote), one, RECORDED_S)
    assert [(c.name, c.margin) for c in partly.checks.failures()] == [
        ("advisories", "1 not allowed: INTEL-SA-00615")
    ]


@pytest.mark.parametrize(("which", "policy"), [("sgx", RECORDED_SGX_POLICY), ("tdx", Policy.production())])
def test_at_todays_clock_the_collateral_is_out_of_date(recorded, which, policy):
    quote, collateral = recordings(recorded, which)
    result = appraise(evidence(quote), (collateral,), values(quote), policy, TODAY_S)
    assert {"evidence signature", "collateral validity", "age of collateral"} <= set(failed(result))
    margin = next(c.margin for c in result.checks.failures() if c.name == "collateral validity")
    assert margin.endswith("days ago")
    early = appraise(evidence(quote), (collateral,), values(quote), policy, RECORDED_S - 86_400)
    assert {"evidence signature", "collateral validity"} <= set(failed(early))


def test_collateral_may_be_younger_than_it_is_valid(recorded):
    quote, collateral = recordings(recorded, "tdx")
    policy = Policy.production().model_copy(update={"maximum_collateral_age_s": 3600})
    assert failed(appraise(evidence(quote), (collateral,), values(quote), policy, RECORDED_S)) == [
        "age of collateral"
    ]


def test_the_recorded_debug_quote_is_refused(recorded):
    quote, (_, collateral) = recorded("intel_tdx_debug_quote_v4.bin"), recordings(recorded, "tdx")
    result = appraise(evidence(quote), (collateral,), values(quote), Policy.production(), RECORDED_S)
    assert "debugging" in failed(result)


@pytest.mark.parametrize(("which", "policy"), [("sgx", RECORDED_SGX_POLICY), ("tdx", Policy.production())])
def test_another_nonce_root_platform_or_collateral(recorded, which, policy):
    quote, collateral = recordings(recorded, which)
    reference = values(quote)
    other = ReferenceValues(None, (bytes(range(64)),), reference.known)
    assert failed(appraise(evidence(quote), (collateral,), other, policy, RECORDED_S)) == ["report data"]
    theirs = danger_appraise_with_roots(
        evidence(quote), (collateral,), reference, policy, RECORDED_S, danger_roots=roots()
    )
    assert {"evidence signature", "root"} <= set(failed(theirs))
    listed = policy.model_copy(update={"platforms": frozenset({bytes(16)})})
    assert failed(appraise(evidence(quote), (collateral,), reference, listed, RECORDED_S)) == ["platform"]
    swapped = recordings(recorded, "tdx" if which == "sgx" else "sgx")[1]
    for given_ in ((), (swapped,), (collateral, collateral), (b"{",), (b'{"tcb_info": 1}',), (b"{}" * 9,)):
        assert "evidence signature" in failed(
            appraise(evidence(quote), given_, reference, policy, RECORDED_S)
        )


@pytest.mark.parametrize("which", ["sgx", "tdx"])
def test_every_flipped_byte_of_a_quote_is_refused(recorded, which):
    """Only what must refuse is run: the reader, the copy of the root, and ``dcap-qvl`` without a policy."""
    quote, collateral = recordings(recorded, which)
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    verifier, policy = dcap_qvl.QuoteVerifier(ROOT), dcap_qvl.QuotePolicy.claims_only(RECORDED_S)
    verifier.verify_with_policy(read_quote(quote).raw, parsed, RECORDED_S, policy)
    for place in range(len(quote)):
        flipped = bytearray(quote)
        flipped[place] ^= 1 << place % 8
        try:
            read = read_quote(bytes(flipped))
        except ProtocolError as error:
            assert error.name == "evidence_unreadable"
            continue
        if read.certificates[-1] == ROOT:
            with pytest.raises(ValueError):
                verifier.verify_with_policy(read.raw, parsed, RECORDED_S, policy)


@pytest.mark.parametrize("which", ["sgx", "tdx"])
@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_every_flipped_byte_of_what_intel_signed_is_refused(recorded, which, name):
    quote, collateral = recordings(recorded, which)
    fields = json.loads(collateral)
    verifier, policy = dcap_qvl.QuoteVerifier(ROOT), dcap_qvl.QuotePolicy.claims_only(RECORDED_S)
    signed = fields[name].encode("ascii")
    for place in range(len(signed)):
        flipped = bytearray(signed)
        flipped[place] ^= 1
        changed = json.dumps({**fields, name: flipped.decode("ascii")})
        with pytest.raises(ValueError):
            parsed = dcap_qvl.QuoteCollateralV3.from_json(changed)
            verifier.verify_with_policy(quote, parsed, RECORDED_S, policy)


# --- made under roots of the tests' own


KINDS = {
    "sgx 3": ("sgx", IntelPlatform.sgx_quote, {}),
    "tdx 4": ("tdx", IntelPlatform.tdx_quote, {}),
    "tdx 5": ("tdx", IntelPlatform.tdx_quote, {"version": 5}),
    "tdx 5, report 1.5": ("tdx", IntelPlatform.tdx_quote, {"version": 5, "body_type": 3}),
}


def judge(which, platform=None, policy=POLICY, reference=None, now_s=NOW_S, **changes):
    platform = platform or IntelPlatform()
    kind, make, options = KINDS[which]
    quote = make(platform, **options, **changes)
    return danger_appraise_with_roots(
        evidence(quote),
        (platform.collateral(kind),),
        reference or values(quote),
        policy,
        now_s,
        danger_roots=roots(),
    )


@pytest.mark.parametrize("which", KINDS)
def test_every_kind_of_quote(which):
    result = judge(which)
    assert result.trusted, failed(result)
    kind, make, options = KINDS[which]
    platform = IntelPlatform()
    quote = make(platform, **options)
    padded = Evidence(MEDIA_TYPES[RealEvidence(kind)], quote + bytes(100))
    given_ = (platform.collateral(kind),)
    assert danger_appraise_with_roots(
        padded, given_, values(quote), POLICY, NOW_S, danger_roots=roots()
    ).trusted
    production = appraise(evidence(quote), given_, values(quote), POLICY, NOW_S)
    assert {"evidence signature", "root"} <= set(failed(production))


@pytest.mark.parametrize(
    ("which", "changes", "expected"),
    [
        ("sgx 3", {"attributes": SGX_GOOD | 2}, {"debugging"}),
        ("sgx 3", {"attributes": SGX_GOOD | 1 << 4}, {"attributes"}),
        ("sgx 3", {"attributes": SGX_GOOD & ~1}, {"attributes"}),
        ("sgx 3", {"attributes": SGX_GOOD & ~4}, {"attributes"}),
        ("sgx 3", {"svn": 2}, {"security version"}),
        ("sgx 3", {"mrenclave": b"f" * 32}, {"measurement"}),
        ("sgx 3", {"report_data": b"f" * 64}, {"report data"}),
        ("tdx 4", {"attributes": TDX_GOOD | 1}, {"debugging"}),
        ("tdx 4", {"attributes": TDX_GOOD | 2}, {"debugging"}),
        ("tdx 5", {"attributes": TDX_GOOD | 1}, {"debugging"}),
        ("tdx 5, report 1.5", {"attributes": TDX_GOOD | 1}, {"debugging"}),
        ("tdx 4", {"attributes": 0}, {"attributes"}),
        ("tdx 4", {"attributes": TDX_GOOD | 1 << 29}, {"attributes"}),
        ("tdx 4", {"registers": b"f" * 48}, {"measurement"}),
        ("tdx 5, report 1.5", {"service_td": b"f" * 48}, {"service TD"}),
    ],
)
def test_what_an_attester_may_not_be(which, changes, expected):
    kind, make, options = KINDS[which]
    quote = make(IntelPlatform(), **options)
    known = values(quote).known[0]
    least = known.model_copy(update={"minimum_security_version": 3 if kind == "sgx" else 0})
    result = judge(which, reference=ReferenceValues(None, values(quote).report_data, (least,)), **changes)
    extra = {"evidence signature", "platform policy", "TCB status", "advisories"}  # dcap-qvl refuses some too
    assert expected <= set(failed(result)) <= expected | extra


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ({"status": "OutOfDate"}, ["platform policy", "TCB status"]),
        ({"status": "SWHardeningNeeded"}, ["platform policy", "TCB status"]),
        ({"advisories": ("INTEL-SA-1",)}, ["advisories"]),
        ({"smt": True}, ["platform policy"]),
        ({"dynamic": True}, ["platform policy"]),
        ({"cached": True}, ["platform policy"]),
    ],
)
@pytest.mark.parametrize("which", KINDS)
def test_what_a_platform_may_not_be(which, platform, names):
    assert failed(judge(which, IntelPlatform(**platform))) == names


@pytest.mark.parametrize("platform", [{"status": "Revoked"}, {"least_svn": 6}, {"revoked": (4,)}])
def test_platforms_beyond_any_policy(platform):
    everything = Policy(
        accepts={SGX},
        tcb_statuses={"UpToDate", "OutOfDate", "Revoked", "unknown"},
        advisories={"unknown"},
        allow_smt=True,
        allow_dynamic_platform=True,
        allow_cached_keys=True,
    )
    result = judge("sgx 3", IntelPlatform(**platform), everything)
    assert failed(result) == ["evidence signature", "platform policy"]


def test_a_policy_can_allow_what_it_names():
    platform = IntelPlatform(status="SWHardeningNeeded", advisories=("INTEL-SA-1",), smt=True)
    policy = Policy(
        accepts={TDX}, tcb_statuses={"SWHardeningNeeded"}, advisories={"INTEL-SA-1"}, allow_smt=True
    )
    assert judge("tdx 5", platform, policy).trusted
    assert "kind of evidence" in failed(judge("sgx 3", platform, policy))


def test_a_chain_beside_the_quote_does_not_count():
    """``dcap-qvl`` would prefer it to the chain in the quote, and then nothing would bind that one."""
    platform = IntelPlatform()
    quote = platform.sgx_quote()
    chain = read_quote(quote).certificates
    assert len(chain) == 3
    fields = json.loads(platform.collateral("sgx"))
    fields["pck_certificate_chain"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    result = danger_appraise_with_roots(
        evidence(quote),
        (json.dumps(fields).encode(),),
        values(quote),
        POLICY,
        NOW_S,
        danger_roots=roots(),
    )
    assert result.trusted, failed(result)


COLLATERAL = {kind: IntelPlatform().collateral(kind) for kind in ("sgx", "tdx")}
QUOTES = {name: make(IntelPlatform(), **options) for name, (_, make, options) in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_quotes_cut_short_or_too_long(name):
    quote = QUOTES[name]
    for length in range(len(quote)):
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            read_quote(quote[:length])
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        read_quote(quote + b"\0x")
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        read_quote(quote + bytes(1 << 16))


@pytest.mark.fuzz
@given(st.binary(max_size=2000), st.sampled_from(sorted(QUOTES)), st.integers(0, 700))
def test_any_bytes_are_read_or_refused(data, name, kept):
    collateral = COLLATERAL["sgx"]
    for verifier in (appraise_sgx, appraise_tdx):
        for quote, endorsement in (
            (data, collateral),
            (QUOTES[name][:kept] + data, data),
            (QUOTES[name], b"{" + data),
        ):
            try:
                verifier(quote, (endorsement,), ReferenceValues(None, ()), POLICY, NOW_S)
            except ProtocolError as error:
                assert error.name == "evidence_unreadable"


@pytest.mark.fuzz
@given(st.data())
def test_mutated_quotes_are_never_trusted(data):
    name = data.draw(st.sampled_from(sorted(QUOTES)))
    kind = KINDS[name][0]
    quote = bytearray(QUOTES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(quote) - 1))
        cut = data.draw(st.integers(0, 4))
        quote[place : place + cut] = data.draw(st.binary(max_size=4))
    verifier = {"sgx": appraise_sgx, "tdx": appraise_tdx}[kind]
    collateral = COLLATERAL[kind]
    try:
        _, checks = verifier(
            bytes(quote), (collateral,), ReferenceValues(None, ()), POLICY, NOW_S, danger_roots=roots()
        )
    except ProtocolError as error:
        assert error.name == "evidence_unreadable"
    else:
        same = bytes(quote).rstrip(b"\0") == QUOTES[name].rstrip(b"\0")
        assert same or not all(check.passed for check in checks)


@pytest.mark.fuzz
@given(st.data())
def test_mutated_collateral_is_never_worse_than_refused(data):
    collateral = bytearray(COLLATERAL["tdx"])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(collateral) - 1))
        cut = data.draw(st.integers(0, 4))
        collateral[place : place + cut] = data.draw(st.binary(max_size=4))
    claims, _ = appraise_tdx(
        QUOTES["tdx 5"], (bytes(collateral),), ReferenceValues(None, ()), POLICY, NOW_S, danger_roots=roots()
    )
    assert claims is not None
