"""SEV-SNP: recorded reports as they were, every flip refused, and each check alone able to refuse."""

import struct
import uuid
import warnings
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendors.authority import authority_extensions, issue
from vendors.snp import ALIAS_CHECK, GOOD_POLICY, Machine, ark, ask, key, roots

from myelin.attest import (
    MEDIA_TYPES,
    Evidence,
    Measurement,
    MinimumTcb,
    Policy,
    RealEvidence,
    ReferenceValues,
    appraise,
)
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.attest.certificate import Certificate
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.attest.snp import appraise_snp, report_signed_by
from myelin.attest.snp_report import read_report
from myelin.errors import ProtocolError

SNP = RealEvidence.SEV_SNP
MEDIA_TYPE = MEDIA_TYPES[SNP]
NOW_S = 1_790_000_000
RECORDED_S = int(datetime(2023, 11, 14, tzinfo=timezone.utc).timestamp())
OLD_MILAN = MinimumTcb(
    kind=SNP, product="milan", components={"bootloader": 2, "tee": 0, "snp": 5, "microcode": 68}
)
RECORDED_POLICY = Policy(
    accepts={SNP}, minimum_tcb=(OLD_MILAN,), allow_smt=True, allow_unchecked_revocation={SNP}
)
GENOA = MinimumTcb(
    kind=SNP,
    product="genoa",
    components={"bootloader": 9, "tee": 1, "snp": 30, "microcode": 90},
    mitigations=0b110,
    features={"alias-check"},
)
POLICY = Policy(accepts={SNP}, minimum_tcb=(GENOA,))
GOOD = {"mitigations": (0b110, 0b111)}


def values(report, **changes):
    read = read_report(report)
    known = Measurement(kind="sev-snp", registers={"measurement": read.measurement}, **changes)
    return ReferenceValues(None, (read.report_data,), (known,))


def judge(machine, report, *, policy=POLICY, endorsements=None, danger_roots=None, reference=None):
    listed = machine.revocation_list()
    given = machine.endorsements() if endorsements is None else (*endorsements, listed)
    return danger_appraise_with_roots(
        Evidence(MEDIA_TYPE, report),
        given,
        reference or values(report),
        policy,
        NOW_S,
        danger_roots=danger_roots or roots(),
    )


def failed(result):
    return [check.name for check in result.checks.failures()]


# --- recorded on hardware


def test_the_recorded_report_is_accepted_as_it_was(recorded):
    report, vcek = recorded("amd_snp_milan_report.bin"), recorded("amd_snp_milan_vcek.der")
    result = appraise(Evidence(MEDIA_TYPE, report), (vcek,), values(report), RECORDED_POLICY, RECORDED_S)
    assert result.trusted, failed(result)
    chain = (recorded("amd_milan_ark.pem") + recorded("amd_milan_ask.pem"), vcek)
    assert appraise(Evidence(MEDIA_TYPE, report), chain, values(report), RECORDED_POLICY, RECORDED_S).trusted


def test_production_does_not_take_its_platform(recorded):
    report, vcek = recorded("amd_snp_milan_report.bin"), recorded("amd_snp_milan_vcek.der")
    result = appraise(Evidence(MEDIA_TYPE, report), (vcek,), values(report), Policy.production(), RECORDED_S)
    assert failed(result) == ["revocation of SEV-Milan", "TCB versions"]
    assert "software alone can read the seed" in list(result.checks.failures())[1].margin


def test_the_recorded_debug_report_is_refused_for_that_alone(recorded):
    report, vcek = recorded("amd_snp_milan_debug_report.bin"), recorded("amd_snp_milan_debug_vcek.der")
    result = appraise(Evidence(MEDIA_TYPE, report), (vcek,), values(report), RECORDED_POLICY, RECORDED_S)
    assert failed(result) == ["debugging"]


def test_another_nonce_root_or_chip(recorded):
    report, vcek = recorded("amd_snp_milan_report.bin"), recorded("amd_snp_milan_vcek.der")
    evidence, reference = Evidence(MEDIA_TYPE, report), values(report)
    other = ReferenceValues(None, (bytes(64),), reference.known)
    assert failed(appraise(evidence, (vcek,), other, RECORDED_POLICY, RECORDED_S)) == ["report data"]
    theirs = danger_appraise_with_roots(
        evidence, (vcek,), reference, RECORDED_POLICY, RECORDED_S, danger_roots=roots()
    )
    assert "certificate chain: root" in failed(theirs)
    chip = recorded("amd_snp_milan_debug_vcek.der")
    wrong = failed(appraise(evidence, (chip,), reference, RECORDED_POLICY, RECORDED_S))
    assert wrong == ["evidence signature", "certified TCB", "certified chip"]
    none = failed(appraise(evidence, (), reference, RECORDED_POLICY, RECORDED_S))
    assert none == ["evidence signature", "TCB versions"]


def test_after_the_certificates_time(recorded):
    report, vcek = recorded("amd_snp_milan_report.bin"), recorded("amd_snp_milan_vcek.der")
    late = Certificate.read(vcek, "VCEK").not_after_s + 1
    result = appraise(Evidence(MEDIA_TYPE, report), (vcek,), values(report), RECORDED_POLICY, late)
    assert failed(result) == ["validity"]
    assert next(result.checks.failures()).margin == "ended 1 seconds ago"


@pytest.mark.parametrize("which", ["amd_snp_milan", "amd_snp_milan_debug"])
def test_every_flipped_byte_of_a_report_is_refused(recorded, which):
    report = recorded(f"{which}_report.bin")
    leaf = Certificate.read(recorded(f"{which}_vcek.der"), "VCEK")
    assert report_signed_by(read_report(report), leaf)
    for place in range(len(report)):
        flipped = bytearray(report)
        flipped[place] ^= 1 << place % 8
        try:
            read = read_report(bytes(flipped))
        except ProtocolError as error:
            assert error.name == "evidence_unreadable"
        else:
            assert not report_signed_by(read, leaf), f"byte {place:#x}"


def test_every_flipped_byte_of_the_chips_certificate_is_refused(recorded):
    vcek = recorded("amd_snp_milan_vcek.der")
    issuer = next(
        Certificate.read(pinned.der, pinned.name)
        for pinned in PINNED_ROOTS.intermediates_of("amd")
        if pinned.product == "milan"
    )
    assert Certificate.read(vcek, "VCEK").signed_by(issuer)
    for place in range(len(vcek)):
        flipped = bytearray(vcek)
        flipped[place] ^= 1 << place % 8
        try:
            read = Certificate.read(bytes(flipped), "VCEK")
        except ProtocolError as error:
            assert error.name == "evidence_unreadable"
        else:
            assert not read.signed_by(issuer), f"byte {place:#x}"


# --- the serial number 0


def test_a_serial_number_of_zero_never_meets_a_general_library(recorded, monkeypatch):
    """``cryptography`` warns that it will refuse such certificates; the appraisal must not notice."""
    from cryptography import x509

    def refuse(*_):
        raise ValueError("invalid serial number")

    monkeypatch.setattr(x509, "load_der_x509_certificate", refuse)
    monkeypatch.setattr(x509, "load_pem_x509_certificate", refuse)
    report, vcek = recorded("amd_snp_milan_report.bin"), recorded("amd_snp_milan_vcek.der")
    assert Certificate.read(vcek, "VCEK").serial == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = appraise(Evidence(MEDIA_TYPE, report), (vcek,), values(report), RECORDED_POLICY, RECORDED_S)
    assert result.trusted


def test_canary_what_cryptography_does_with_it():
    """Fails on the day that ``cryptography`` refuses serial 0: then the note in ``der.py`` is history."""
    from cryptography import x509

    with pytest.warns(match="serial number"):
        x509.load_der_x509_certificate(Machine().certificate())


# --- made under roots of the tests' own


@pytest.mark.parametrize("vlek", [False, True])
@pytest.mark.parametrize(
    ("product", "version"),
    [
        ("milan", 2),
        ("milan", 3),
        ("genoa", 2),
        ("genoa", 3),
        ("genoa", 4),
        ("genoa-x", 5),
        ("turin", 3),
        ("turin", 5),
    ],
)
def test_every_product_version_and_key(product, version, vlek):
    machine = Machine(product, vlek=vlek)
    names = (
        ("fmc", "bootloader", "tee", "snp", "microcode") if product == "turin" else tuple(GENOA.components)
    )
    least = {
        n: machine.tcb[n]
        for n in (names if product == "turin" else ("bootloader", "tee", "snp", "microcode"))
    }
    seen = product if version > 2 else machine.generation
    policy = Policy(accepts={SNP}, minimum_tcb=(MinimumTcb(kind=SNP, product=seen, components=least),))
    report = machine.report(version=version)
    result = judge(machine, report, policy=policy)
    assert result.trusted, failed(result)
    against = appraise(Evidence(MEDIA_TYPE, report), machine.endorsements(), values(report), policy, NOW_S)
    assert "certificate chain: root" in failed(against)


def other(**changes):
    return {**Machine().tcb, **changes}


@pytest.mark.parametrize(
    ("machine", "report", "names"),
    [
        ({}, {"policy": GOOD_POLICY | 1 << 19}, ["debugging"]),
        ({}, {"policy": GOOD_POLICY | 1 << 18}, ["guest policy"]),
        ({}, {"policy": GOOD_POLICY | 1 << 21}, ["guest policy"]),
        ({}, {"policy": GOOD_POLICY | 1 << 40}, ["guest policy"]),
        ({}, {"policy": GOOD_POLICY | 1 << 16}, ["one thread a core"]),
        ({}, {"platform_info": ALIAS_CHECK | 1}, ["one thread a core"]),
        ({}, {"platform_info": 0}, ["platform features"]),
        ({}, {"mitigations": (0b110, 0b010)}, ["mitigations"]),
        ({}, {"mitigations": (0b010, 0b110)}, ["mitigations"]),
        ({}, {"version": 4, "mitigations": (0, 0)}, ["mitigations"]),
        ({}, {"version": 3}, ["mitigations"]),
        ({}, {"vmpl": 1}, ["privilege level"]),
        ({}, {"guest_svn": 6}, ["security version"]),
        ({}, {"measurement": b"n" * 48}, ["measurement"]),
        ({}, {"report_data": b"r" * 64}, ["report data"]),
        ({"tcb": other(snp=29)}, {}, ["snp"]),
        ({}, {"committed": other(microcode=89)}, ["microcode"]),
        ({}, {"launch": other(tee=0)}, ["tee"]),
        ({}, {"current": other(bootloader=8)}, ["bootloader"]),
        ({"certified": {"snp": 31}}, {}, ["certified TCB"]),
        ({"certified_chip": b"\x07" * 64}, {}, ["certified chip"]),
        ({"certified_chip": b""}, {}, ["certified chip"]),
        ({"certified_product": "Turin"}, {}, ["product"]),
        ({"product": "genoa-x"}, {}, ["TCB versions"]),
    ],
)  # fmt: skip
def test_each_check_alone_can_refuse(machine, report, names):
    reference = values(Machine().report(), minimum_security_version=7)
    made = Machine(**machine)
    assert failed(judge(made, made.report(**{**GOOD, **report}), reference=reference)) == names


def test_the_platform_list():
    machine = Machine()
    report = machine.report(**GOOD)
    listed = POLICY.model_copy(update={"platforms": frozenset({machine.chip_id})})
    assert judge(machine, report, policy=listed).trusted
    others = POLICY.model_copy(update={"platforms": frozenset({bytes(64)})})
    assert failed(judge(machine, report, policy=others)) == ["platform"]


def test_an_issuer_that_may_not_issue():
    extensions = {"no authority": {}, "not for certificates": authority_extensions(0, usage=0x80)}
    for name, allowed in extensions.items():
        issuer = issue("SEV-Genoa", key("SEV genoa"), ark("genoa"), allowed)
        machine = Machine(issuer=issuer)
        known = Roots(roots().roots)
        result = judge(
            machine,
            machine.report(**GOOD),
            endorsements=(machine.certificate(), issuer.certificate),
            danger_roots=known,
        )
        assert failed(result) == ["may issue"], name


def test_a_chain_longer_than_its_issuer_allows():
    below = issue("SEV-Genoa below", key("below"), ask("genoa"), authority_extensions())
    machine = Machine(issuer=below)
    result = judge(machine, machine.report(**GOOD), endorsements=(machine.certificate(), below.certificate))
    assert not result.trusted


def test_a_chain_of_another_product_is_refused():
    machine = Machine("genoa", issuer=ask("milan"))
    assert "certificate chain: root" in failed(judge(machine, machine.report(**GOOD)))


def table(*entries, end=True):
    """A host's table of certificates: (GUID, bytes) each."""
    at, head, body = 24 * (len(entries) + end), b"", b""
    for guid, data in entries:
        head += uuid.UUID(guid).bytes_le + struct.pack("<II", at + len(body), len(data))
        body += data
    return head + bytes(24 * end) + body


VCEK_GUID, VLEK_GUID = "63da758d-e664-4564-adc5-f4b93be8accd", "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
ASK_GUID, OTHER_GUID = "4ab7b379-bbac-4fe4-a02f-05aef327c782", "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"


def test_the_table_that_a_host_hands_its_guest():
    machine = Machine()
    blob = table((OTHER_GUID, b"a revocation list"), (VCEK_GUID, machine.certificate()))
    assert judge(machine, machine.report(**GOOD), endorsements=(blob + bytes(4096),)).trusted
    cloud = Machine(vlek=True)
    blob = table((VLEK_GUID, cloud.certificate()), (ASK_GUID, ask("genoa", "SEV-VLEK").pem()))
    assert judge(cloud, cloud.report(**GOOD), endorsements=(blob,)).trusted


def test_tables_out_of_form():
    machine = Machine()
    certificate = machine.certificate()
    short = table((VCEK_GUID, certificate))[:-1]
    endless = table(*[(VCEK_GUID, b"")] * 40, end=False)
    cut = uuid.UUID(VCEK_GUID).bytes_le
    for blob in (short, endless, cut, table((VCEK_GUID, b"no certificate"))):
        result = judge(machine, machine.report(**GOOD), endorsements=(certificate, blob))
        assert failed(result) == ["endorsement 2"]


def test_unreadable_endorsements_are_named():
    machine = Machine()
    broken = b"-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----"
    files = (machine.certificate(), broken, b"\x30")
    result = judge(machine, machine.report(**GOOD), endorsements=files)
    assert failed(result) == ["endorsement 2", "endorsement 3"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1}, {"version": 6}, {"key_info": 2}, {"key_info": 7 << 2}, {"key_info": 1 << 5},
        {"policy": 0},
    ],
)  # fmt: skip
def test_reports_out_of_form(changes):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        read_report(Machine().report(**changes))


@pytest.mark.parametrize("place", [0x4C, 0x34, 0x18C, 0x1EB, 0x1EF, 0x208, 0x29F, 0x2D0, 0x330, 1183])
def test_reserved_bytes_must_be_zero(place):
    report = bytearray(Machine().report())
    report[place] ^= 0x80
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        read_report(bytes(report))


REPORT, CERTIFICATE = Machine().report(), Machine().certificate()


@pytest.mark.fuzz
@given(st.binary(max_size=1300) | st.binary(min_size=1184, max_size=1184))
def test_any_bytes_are_read_or_refused(data):
    for evidence, endorsement in ((data, CERTIFICATE), (REPORT, data)):
        try:
            appraise_snp(evidence, (endorsement,), ReferenceValues(None, ()), POLICY, NOW_S)
        except ProtocolError as error:
            assert error.name == "evidence_unreadable"


@pytest.mark.fuzz
@given(st.data())
def test_mutated_bytes_are_never_trusted(data):
    report, certificate = bytearray(REPORT), bytearray(CERTIFICATE)
    for target in data.draw(st.lists(st.sampled_from([report, certificate]), min_size=1, max_size=4)):
        place = data.draw(st.integers(0, len(target) - 1))
        cut = data.draw(st.integers(0, 4))
        target[place : place + cut] = data.draw(st.binary(max_size=4))
    try:
        claims, checks = appraise_snp(
            bytes(report),
            (bytes(certificate),),
            ReferenceValues(None, ()),
            POLICY,
            NOW_S,
            danger_roots=roots(),
        )
    except ProtocolError as error:
        assert error.name == "evidence_unreadable"
    else:
        unchanged = bytes(report) == REPORT and bytes(certificate) == CERTIFICATE
        assert claims is not None
        assert unchanged or not all(check.passed for check in checks)
