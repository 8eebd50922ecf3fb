"""Azure's virtual TPM in a SEV-SNP guest: a recorded one, and those of a cloud of these tests."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from flips import check_every_flip, check_fuzzed
from vendors.authority import pem
from vendors.azure import VirtualMachine, base64url
from vendors.snp import GOOD_POLICY, Machine, roots

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
from myelin.attest.azure import AzureEvidence, HclReport
from myelin.attest.certificate import read_pem
from myelin.attest.roots import PINNED_ROOTS
from myelin.errors import ProtocolError

KIND = RealEvidence.AZURE_SNP
RECORDED_S = 1_750_000_000
NOW_S = 1_790_000_000
NONCE = bytes(range(32))


def policy(**components):
    minimum = MinimumTcb(kind=RealEvidence.SEV_SNP, product="genoa", components=components)
    return Policy(name="cloud", accepts=frozenset({KIND}), minimum_tcb=(minimum,), allow_smt=True)


def old(**components):
    """For recorded evidence, of whose time no revocation list was recorded."""
    return policy(**components).model_copy(update={"allow_unchecked_revocation": frozenset({KIND})})


RECORDED_POLICY = old(bootloader=10, tee=0, snp=23, microcode=84)
POLICY = policy(bootloader=9, tee=1, snp=30, microcode=90)


def reference(read, nonce, **changes):
    registers = {"measurement": read.hcl.snp.measurement}
    registers |= {f"pcr{index}": value for index, value in read.pcrs}
    known = Measurement(kind=KIND, registers={**registers, **changes})
    return ReferenceValues(None, (nonce,), (known,))


def failed(result):
    return [check.name for check in result.checks.failures()]


@pytest.fixture(scope="session")
def document(recorded):
    return recorded("azure_snp_vtpm_genoa.json")


@pytest.fixture(scope="session")
def expected(document):
    read = AzureEvidence.read(document)
    return reference(read, read.quote.extra_data)


def judged(data, expected, policy=RECORDED_POLICY, now_s=RECORDED_S, endorsements=()):
    return appraise(Evidence(MEDIA_TYPES[KIND], data), endorsements, expected, policy, now_s)


def test_recorded_evidence_is_trusted_where_its_firmware_is_new_enough(document, expected):
    result = judged(document, expected)
    assert result.trusted, failed(result)
    newer = old(bootloader=10, tee=0, snp=24, microcode=86)
    assert failed(judged(document, expected, newer)) == ["snp", "microcode"]
    production = failed(judged(document, expected, Policy.production()))
    assert production == ["revocation of SEV-Genoa", "mitigations", "snp", "microcode"]


def test_recorded_evidence_with_another_nonce_image_root_or_clock(document, expected):
    read = AzureEvidence.read(document)
    assert failed(judged(document, reference(read, bytes(48)))) == ["report data"]
    assert failed(judged(document, reference(read, read.quote.extra_data, pcr4=bytes(32)))) == ["measurement"]
    assert failed(judged(document, reference(read, read.quote.extra_data, measurement=bytes(48)))) == [
        "measurement"
    ]
    assert "validity" in failed(judged(document, expected, now_s=2_500_000_000))
    other = danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[KIND], document), (), expected, RECORDED_POLICY, RECORDED_S, danger_roots=roots()
    )
    assert not other.trusted
    assert any("root" in name or name == "signature" for name in failed(other))


@pytest.mark.slow
def test_recorded_evidence_with_any_byte_changed(document, expected):
    """Every byte of the quote, its signature, the registers, and the paravisor's report with its padding."""
    fields = json.loads(document)
    pcrs = b"".join(bytes(pcr) for pcr in fields["quote"]["pcrs"])
    parts = [bytes(fields["quote"]["message"]), bytes(fields["quote"]["signature"]), pcrs]
    parts.append(bytes(fields["report"]))

    def judged_changed(data):
        at, cut = 0, []
        for part in parts:
            cut.append(list(data[at : at + len(part)]))
            at += len(part)
        pcrs = [cut[2][32 * i : 32 * i + 32] for i in range(24)]
        quote = {"message": cut[0], "signature": cut[1], "pcrs": pcrs}
        return judged(json.dumps({**fields, "quote": quote, "report": cut[3]}).encode(), expected)

    whole = b"".join(parts)
    assert check_every_flip(judged_changed, whole) == len(whole)


@pytest.mark.slow
def test_recorded_certificate_with_any_byte_changed(document, expected):
    fields = json.loads(document)
    der = read_pem(fields["vcek"].encode(), "vcek")[0]

    def judged_changed(data):
        return judged(json.dumps({**fields, "vcek": pem(data).decode()}).encode(), expected)

    assert check_every_flip(judged_changed, der) == len(der)


VM = VirtualMachine()


def made(data, *, trust=None, nonce=NONCE, endorsements=(), policy=POLICY):
    expected = reference(AzureEvidence.read(VM.evidence(NONCE)), nonce)
    return danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[KIND], data), (*endorsements, VM.chip.revocation_list()), expected, policy,
        NOW_S, danger_roots=trust or roots(),
    )  # fmt: skip


def test_made_evidence_under_its_own_root_and_under_production():
    assert made(VM.evidence(NONCE)).trusted
    assert failed(made(VM.evidence(NONCE[::-1]))) == ["report data"]
    production = made(VM.evidence(NONCE), trust=PINNED_ROOTS)
    assert not production.trusted
    assert any("root" in name or name == "signature" for name in failed(production))


def test_the_certificate_may_come_beside_the_evidence():
    data = VM.evidence(NONCE, vcek="")
    assert not made(data).trusted
    assert "evidence signature" in failed(made(data))


@pytest.mark.parametrize("hash_", [1, 2, 3])
def test_runtime_data_by_each_hash(hash_):
    assert made(VM.evidence(NONCE, VM.hcl(hash_=hash_))).trusted


def test_runtime_data_that_the_processor_did_not_sign():
    other = VirtualMachine()
    other.chip = VM.chip
    bound = VM.hcl(report_data=bytes(64))
    assert failed(made(VM.evidence(NONCE, bound))) == ["runtime data"]
    assert failed(made(other.evidence(NONCE, VM.hcl()))) == ["evidence signature"]
    digest = VM.hcl(report_data=HclReport.read(VM.hcl()).snp.report_data[:32] + b"\1" * 32)
    assert failed(made(VM.evidence(NONCE, digest))) == ["runtime data"]


def test_registers_that_are_not_the_quoted_ones():
    fields = VM.fields(NONCE)
    fields["quote"]["pcrs"][4] = [7] * 32
    assert failed(made(json.dumps(fields).encode())) == ["register values", "measurement"]


@pytest.mark.parametrize(
    ("snp", "names"),
    [
        ({"policy": GOOD_POLICY | 1 << 19}, ["debugging"]),
        ({"vmpl": 2}, ["privilege level"]),
        ({"policy": GOOD_POLICY | 1 << 18}, ["guest policy"]),
    ],
)
def test_guests_that_are_open(snp, names):
    assert failed(made(VM.evidence(NONCE, VM.hcl(snp=snp)))) == names


def test_another_chip_and_old_firmware():
    other = pem(Machine("genoa").certificate()).decode()
    assert "evidence signature" in failed(made(VM.evidence(NONCE, vcek=other)))
    strict = policy(bootloader=9, tee=1, snp=31, microcode=90)
    assert failed(made(VM.evidence(NONCE), policy=strict)) == ["snp"]


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"HCLB"}, {"version": 3}, {"version": 0}, {"request": 1}, {"type": 4}, {"hash_": 0},
        {"hash_": 4}, {"size": 10}, {"size": 1 << 31}, {"reserved": bytes(15) + b"\1"}, {"padding": b"\0\1"},
    ],
    ids=str,
)  # fmt: skip
def test_paravisor_reports_out_of_form(changes):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        made(VM.evidence(NONCE, VM.hcl(**changes)))


def test_runtime_data_out_of_form():
    weak = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    for runtime in (
        b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": []}', b"\xff", b"[" * 4000,
        VM.runtime().replace(b"{", b'{"keys": [], ', 1),
        VM.runtime(key={"kty": "EC"}), VM.runtime(key={"n": "!"}), VM.runtime(key={"n": 7}),
        VM.runtime(key={"n": base64url(weak.n)}), VM.runtime(key={"e": "Aw"}), VM.runtime(key={"n": ""}),
        VM.runtime(key={"kid": "other"}), VM.runtime().replace(b"HCLEkPub", b"HCLAkPub"),
        VM.runtime(key={"n": base64url((1 << 2047) + 2)}), VM.runtime(key={"n": "A" * 1025}),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            made(VM.evidence(NONCE, VM.hcl(runtime)))


def test_documents_out_of_form():
    fields = VM.fields(NONCE)
    quote = fields["quote"]
    for changes in (
        {"more": 1}, {"vcek": 7}, {"vcek": "é"}, {"vcek": "x" * (17 << 10)}, {"report": "text"},
        {"quote": {**quote, "pcrs": [[True] * 32] * 24}},
        {"report": [256]}, {"report": [-1]}, {"report": [True]}, {"report": [1.0]}, {"report": [0] * 9000},
        {"quote": []}, {"quote": {**quote, "more": 1}}, {"quote": {**quote, "pcrs": quote["pcrs"][:23]}},
        {"quote": {**quote, "pcrs": [[0] * 31] * 24}}, {"quote": {**quote, "message": []}},
        {"quote": {**quote, "signature": [0] * 513}}, {"quote": {**quote, "pcrs": [[0] * 33] * 24}},
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            made(json.dumps({**fields, **changes}).encode())
    twice = json.dumps(fields).replace('"quote"', '"vcek": "", "quote"', 1).encode()
    for data in (b"", b"{", b"[" * 100_000, b"1" * 5000, b"\xff", b"NaN", twice, b" " * (1 << 18)):
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            made(data)


@pytest.mark.fuzz
def test_fuzzed():
    check_fuzzed(HclReport.read, VM.hcl())
    check_fuzzed(AzureEvidence.read, VM.evidence(NONCE), examples=100)
    check_fuzzed(made, VM.evidence(NONCE), examples=30)
