"""What is wanted of every kind alike: each check can refuse, and says how far it was from passing."""

import hashlib
from dataclasses import replace

import pytest

from myelin.attest import Claims, Measurement, MinimumTcb, Policy, RealEvidence, ReferenceValues
from myelin.attest.claims import claim_checks

NOW_S = 1_790_000_000
IMAGE = b"i" * 32
REPORT = bytes(range(64))
BUILD = Measurement(
    kind="tdx",
    registers={"mrtd": b"t", "rtmr0": b"0", "rtmr1": b"1", "rtmr2": b"2", "rtmr3": b"3"},
    minimum_security_version=4,
    image=IMAGE,
)
CLAIMS = Claims(
    kind=RealEvidence.TDX,
    trust_anchor="a vendor",
    registers=(*BUILD.registers, ("mrowner", b"o")),
    report_data=(("user_data", b"u" * 64), ("nonce", REPORT)),
    debug=False,
    platform_id=b"chip",
    security_version=4,
    product="p",
    tcb=(("firmware", 7), ("microcode", 9)),
    tcb_status="UpToDate",
    advisories=("SA-1",),
    issued_s=NOW_S - 200,
    collateral_issued_s=NOW_S - 20 * 86_400,
)
MINIMUM = MinimumTcb(kind="tdx", product="p", components={"firmware": 7, "microcode": 8})
POLICY = Policy(
    accepts={RealEvidence.TDX},
    measurements=(BUILD,),
    advisories={"SA-1"},
    minimum_tcb=(MINIMUM,),
    platforms={b"chip", b"other"},
)
REFERENCE = ReferenceValues(frozenset({IMAGE}), (REPORT,))


def appraised(claims=CLAIMS, reference=REFERENCE, policy=POLICY):
    checks, image = claim_checks(claims, reference, policy, NOW_S)
    leaves = [leaf for check in checks for leaf in check.failures()]
    return [leaf.name for leaf in leaves], [leaf.margin for leaf in leaves], image, checks


def test_good_claims_pass_and_say_what_is_left():
    names, _, image, checks = appraised()
    assert names == []
    assert image == IMAGE
    margins = {check.name: check.margin for check in checks if check.margin}
    assert margins == {
        "security version": "exactly the minimum",
        "age of evidence": "100 seconds left",
        "age of collateral": "10 days left",
    }


@pytest.mark.parametrize(
    ("changes", "names", "margins"),
    [
        ({"debug": True}, ["debugging"], [""]),
        ({"registers": (*BUILD.registers[1:], ("mrtd", b"x"))}, ["measurement"], ["differs in mrtd"]),
        ({"registers": BUILD.registers[1:]}, ["measurement"], ["differs in mrtd"]),
        ({"registers": ()}, ["measurement"], ["differs in mrtd, rtmr0, rtmr1, rtmr2, rtmr3"]),
        ({"security_version": 1}, ["security version"], ["3 below the minimum"]),
        ({"security_version": None}, ["security version"], [""]),
        ({"report_data": ()}, ["report data"], [""]),
        ({"report_data": (("nonce", REPORT[:63]),)}, ["report data"], [""]),
        ({"report_data": (("nonce", REPORT[:32]),)}, ["report data"], [""]),
        ({"report_data": (("nonce", hashlib.sha512(REPORT).digest()),)}, ["report data"], [""]),
        ({"issued_s": NOW_S - 301}, ["age of evidence"], ["1 seconds too old"]),
        ({"issued_s": NOW_S + 7200}, ["age of evidence"], ["2 hours in the future"]),
        ({"collateral_issued_s": NOW_S - 33 * 86_400}, ["age of collateral"], ["3 days too old"]),
        ({"tcb_status": "OutOfDate"}, ["TCB status"], [""]),
        ({"advisories": ("SA-1", "SA-2", "SA-3")}, ["advisories"], ["2 not allowed: SA-2, SA-3"]),
        ({"tcb": (("firmware", 5), ("microcode", 9))}, ["firmware"], ["2 below the minimum"]),
        ({"tcb": (("firmware", 7),)}, ["microcode"], [""]),
        ({"tcb": (*CLAIMS.tcb, ("more", 1))}, ["more"], [""]),
        ({"product": "q"}, ["TCB versions"], [""]),
        ({"platform_id": b"stolen"}, ["platform"], [""]),
        ({"platform_id": None}, ["platform"], [""]),
    ],
)
def test_each_claim_alone_can_be_refused(changes, names, margins):
    got, distances, _, _ = appraised(replace(CLAIMS, **changes))
    assert got == names
    assert distances == margins


@pytest.mark.parametrize(
    ("reference", "image"),
    [
        (ReferenceValues(frozenset({b"j" * 32}), (REPORT,)), None),
        (ReferenceValues(frozenset(), (REPORT,)), None),
    ],
)
def test_a_known_build_of_another_image(reference, image):
    names, margins, got, _ = appraised(reference=reference)
    assert names == ["measurement"]
    assert margins == ["it is of another image than the one asked for"]
    assert got is image


def test_a_build_that_names_no_image_is_none_of_a_contract():
    policy = POLICY.model_copy(update={"measurements": (BUILD.model_copy(update={"image": None}),)})
    assert appraised(policy=policy)[0] == ["measurement"]
    assert appraised(policy=policy, reference=ReferenceValues(None, (REPORT,)))[0] == []


def test_reference_values_add_to_the_policys():
    policy = POLICY.model_copy(update={"measurements": ()})
    assert appraised(policy=policy)[0] == ["measurement"]
    known = ReferenceValues(frozenset({IMAGE}), (REPORT,), (BUILD,))
    assert appraised(policy=policy, reference=known)[0] == []
    foreign = BUILD.model_copy(update={"kind": RealEvidence.SGX})
    assert appraised(policy=policy, reference=replace(known, known=(foreign,)))[0] == ["measurement"]


def test_report_data_where_there_is_room_for_a_digest_only():
    claims = replace(CLAIMS, report_data=(("nonce", hashlib.sha256(REPORT).digest()),))
    assert appraised(claims)[0] == []


@pytest.mark.parametrize("expected", [(), (b"",), (b"short",)])
def test_without_something_to_be_bound_to_nothing_is_fresh(expected):
    claims = replace(CLAIMS, report_data=(("nonce", b""), ("user_data", b"short")))
    names, _, _, checks = appraised(claims, reference=ReferenceValues(frozenset({IMAGE}), expected))
    assert names == ["report data"]
    assert "not checked" in next(check.got for check in checks if check.name == "report data")


def test_a_kind_that_nobody_vouches_for_needs_a_list_of_machines():
    claims = replace(CLAIMS, kind=RealEvidence.TPM, tcb=())
    build = Measurement(kind="tpm", registers={"pcr0": b"0", "pcr4": b"4", "pcr9": b"9"}, image=IMAGE)
    claims = replace(claims, registers=build.registers)
    listed = POLICY.model_copy(update={"measurements": (build,)})
    assert appraised(claims, policy=listed)[0] == []
    assert appraised(claims, policy=listed.model_copy(update={"platforms": None}))[0] == ["platform"]
    anywhere = POLICY.model_copy(update={"platforms": None})
    assert appraised(policy=anywhere)[0] == []


def test_azures_platform_is_amds():
    claims = replace(CLAIMS, kind=RealEvidence.AZURE_SNP)
    build = Measurement(
        kind="azure-snp", registers={"measurement": b"m", "pcr4": b"4", "pcr9": b"9"}, image=IMAGE
    )
    claims = replace(claims, registers=build.registers, security_version=None)
    minimum = MINIMUM.model_copy(update={"kind": RealEvidence.SEV_SNP})
    policy = POLICY.model_copy(update={"measurements": (build,), "minimum_tcb": (minimum,)})
    assert appraised(claims, policy=policy)[0] == []
