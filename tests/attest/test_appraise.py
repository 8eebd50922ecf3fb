"""Appraisal fails closed: each check alone can fail, and simulation is never taken for more."""

import itertools

import pytest

from myelin.attest import (
    SIMULATED_MEDIA_TYPE,
    Check,
    Evidence,
    Policy,
    RealEvidence,
    ReferenceValues,
    SimulatedPolicy,
    Verdict,
    appraise,
    compare,
    render_checks,
)
from myelin.contract import Identity
from myelin.errors import ProtocolError
from myelin.wire import digest, encode, sign1

ATTESTER = Identity.generate("attester")
IMAGE, REPORT = digest(b"image"), bytes(range(64))
REFERENCE = ReferenceValues(frozenset({IMAGE}), (REPORT,))
SIMULATED = Policy.insecure_accepting_simulated_evidence()
NOW_S = 1_800_000_000


def evidence(signer=ATTESTER, **changes) -> Evidence:
    claims = {"key": ATTESTER.public.signing_key, "measurement": IMAGE, "report_data": REPORT, **changes}
    return Evidence(SIMULATED_MEDIA_TYPE, sign1(encode(claims), SIMULATED_MEDIA_TYPE, signer.signing))


def result(given=None, reference=REFERENCE, policy=SIMULATED):
    return appraise(given or evidence(), (), reference, policy, NOW_S)


def failed(appraised):
    return [check.name for check in appraised.checks.failures()]


def test_good_evidence_is_trusted_and_says_that_it_is_simulated():
    appraised = result()
    assert (appraised.trusted, appraised.simulated, appraised.measurement) == (True, True, IMAGE)
    assert [c.name for c in appraised.checks.children] == [
        "kind of evidence", "evidence signature", "measurement", "report data"
    ]  # fmt: skip
    assert appraised.policy == SIMULATED.digest


@pytest.mark.parametrize(
    ("given", "reference", "policy", "names"),
    [
        (evidence(measurement=digest(b"other")), REFERENCE, SIMULATED, ["measurement"]),
        (evidence(report_data=bytes(64)), REFERENCE, SIMULATED, ["report data"]),
        (evidence(signer=Identity.generate("x")), REFERENCE, SIMULATED, ["evidence signature"]),
        (evidence(), ReferenceValues(frozenset(), (REPORT,)), SIMULATED, ["measurement"]),
        (evidence(), ReferenceValues(frozenset({IMAGE}), ()), SIMULATED, ["report data"]),
        (evidence(), REFERENCE, Policy.production(), ["kind of evidence"]),
        (
            Evidence("application/vnd.other", b"x"),
            REFERENCE,
            SIMULATED,
            ["kind of evidence", "evidence signature", "measurement", "report data"],
        ),
        (
            Evidence("application/vnd.other", b"x"),
            REFERENCE,
            Policy.production(),
            ["kind of evidence", "evidence signature", "measurement", "report data"],
        ),
    ],
)
def test_each_check_alone_can_refuse(given, reference, policy, names):
    appraised = result(given, reference, policy)
    assert not appraised.trusted
    assert failed(appraised) == names


def test_a_foreign_policy_object_widens_nothing():
    class Anything:
        name, digest = "anything", bytes(32)

    assert failed(result(policy=Anything())) == ["kind of evidence"]


def test_production_cannot_express_simulation():
    assert all(kind.value != "simulated" for kind in RealEvidence)
    with pytest.raises(ValueError, match="simulated"):
        RealEvidence("simulated")
    assert type(SIMULATED) is SimulatedPolicy
    assert not isinstance(SIMULATED, Policy)
    assert "insecure" in SIMULATED.name.lower()
    for count in range(1, len(RealEvidence) + 1):
        for kinds in itertools.combinations(RealEvidence, count):
            policy = Policy(accepts=frozenset(kinds))
            assert policy.digest != SIMULATED.digest
            assert not result(policy=policy).trusted


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(64)},
        {"measurement": bytes(31)},
        {"report_data": bytes(32)},
        {"more": 1},
        {"key": "text"},
    ],
)
def test_claims_out_of_form(changes):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        result(evidence(**changes))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", encode(["a"]), encode(["a", "b"]), encode([b"a", b"b"]), encode(["", b""])]
)
def test_envelopes_out_of_form(data):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        Evidence.from_cmw(data)
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        result(Evidence(SIMULATED_MEDIA_TYPE, data))


def test_envelope_round_trip_and_size():
    assert Evidence.from_cmw(evidence().to_cmw()) == evidence()
    with pytest.raises(ProtocolError, match="oversized_message"):
        Evidence.from_cmw(bytes(1 << 19))


def test_every_flipped_bit_is_refused():
    raw = evidence().to_cmw()
    for place in range(len(raw)):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << (place % 8)
        try:
            trusted = result(Evidence.from_cmw(bytes(flipped))).trusted
        except ProtocolError as error:
            assert error.name == "evidence_unreadable"
        else:
            assert not trusted, f"byte {place}"


def test_skipped_and_empty_are_failed():
    skipped = Check.skipped("x", "nobody", "something", "no reason")
    assert not skipped.passed
    assert not Check.group("g", "nobody", [skipped, compare("y", "a", 1, 1)]).passed
    assert not Check.group("g", "nobody", []).passed
    assert not compare("z", "a", 1, True).passed
    good = Check("liar", "a", "e", "g", Verdict.PASSED, (skipped,))
    assert not good.passed


def test_tree_as_text():
    text = render_checks(result(evidence(report_data=bytes(64))).checks, width=500)
    assert text.splitlines()[0].startswith("FAIL attestation: 3 of 4 passed")
    assert "PASS measurement" in text
    assert f"FAIL report data: expected {REPORT.hex()}, got {bytes(64).hex()}" in text
    assert "which nobody vouches for" in text
    hostile = Check("kind", "x", "e", "\x1b[2J[bold]", Verdict.FAILED)
    assert "\x1b" not in render_checks(hostile)
    assert "[bold]" in render_checks(hostile)
