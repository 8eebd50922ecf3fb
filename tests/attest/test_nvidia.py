"""NVIDIA GPU reports: a recorded H100's, and those of a GPU of these tests."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from flips import check_every_flip, check_fuzzed
from vendors.certificates import MADE_AT_S, issue
from vendors.nvidia import FIELDS, FIRMWARE, Gpu, blocks_of, composite_device_id, dice_tcb_info

from myelin.attest import (
    MEDIA_TYPES,
    Check,
    Evidence,
    Measurement,
    Policy,
    RealEvidence,
    ReferenceValues,
    Verdict,
    appraise,
)
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.attest.nvidia import driver_version, vbios_version
from myelin.attest.roots import PINNED_ROOTS
from myelin.attest.spdm import MOST_REPORT_BYTES, SpdmReport
from myelin.errors import ProtocolError

KIND = RealEvidence.NVIDIA
POLICY = Policy.production().model_copy(update={"allow_unchecked_revocation": frozenset({KIND})})
NOW_S = 1_760_000_000
NONCE = bytes(range(100, 132))
GPU = Gpu()


def measurement(report, **changes):
    registers = {"driver_version": driver_version(report).encode()}
    registers["vbios_version"] = vbios_version(report).encode()
    registers |= {f"block{index}": value for index, value in report.blocks.items() if any(value)}
    registers = {name: value for name, value in {**registers, **changes}.items() if value is not None}
    return Measurement(kind=KIND, registers=registers)


def failed(result):
    return [check.name for check in result.checks.failures()]


def walk(check: Check):
    yield check
    for child in check.children:
        yield from walk(child)


@pytest.fixture(scope="session")
def report(recorded):
    return bytes.fromhex(recorded("nvidia_h100_report.txt").decode().strip())


@pytest.fixture(scope="session")
def chain(recorded):
    return recorded("nvidia_h100_chain.txt")


@pytest.fixture(scope="session")
def expected(report):
    read = SpdmReport.read(report)
    return ReferenceValues(None, (read.nonce,), (measurement(read),))


def judged(report, chain, expected, now_s=NOW_S):
    return appraise(Evidence(MEDIA_TYPES[KIND], report), (chain,), expected, POLICY, now_s)


def test_recorded_report_is_trusted(report, chain, expected):
    result = judged(report, chain, expected)
    assert result.trusted, failed(result)
    names = [check.name for check in walk(result.checks)]
    assert sum(name.startswith("certificate of ") for name in names) == 5
    root = next(check for check in walk(result.checks) if check.name == "chain: root")
    assert "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48" in root.got
    read = SpdmReport.read(report)
    assert (driver_version(read), vbios_version(read)) == ("535.86.09", "96.00.5E.00.01")
    assert (len(read.blocks), sum(any(value) for value in read.blocks.values())) == (64, 26)


def test_recorded_report_without_reference_values(report, chain, expected):
    result = judged(report, chain, ReferenceValues(None, expected.report_data))
    assert failed(result) == ["measured blocks", "measurement"]
    skipped = next(check for check in walk(result.checks) if check.name == "measured blocks")
    assert skipped.verdict is Verdict.SKIPPED
    assert "RIM files for driver 535.86.09 and VBIOS 96.00.5E.00.01" in skipped.got


def test_recorded_report_with_another_nonce_root_or_clock(report, chain, expected):
    other = ReferenceValues(None, (bytes(32),), expected.known)
    assert failed(judged(report, chain, other)) == ["report data"]
    assert "validity" in failed(judged(report, chain, expected, now_s=1_500_000_000))
    assert failed(
        danger_appraise_with_roots(
            Evidence(MEDIA_TYPES[KIND], report), (chain,), expected, POLICY, NOW_S, danger_roots=GPU.roots
        )
    ) == ["chain: root"]


@pytest.mark.slow
def test_recorded_report_with_any_byte_changed(report, chain, expected):
    assert check_every_flip(lambda data: judged(data, chain, expected), report) == len(report)


@pytest.mark.slow
def test_recorded_chain_with_any_byte_changed(report, chain, expected):
    """In DER: of PEM, line ends are not bound. The root's bytes are the pinned ones or not the root."""
    ders = [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(chain)]
    whole = b"".join(ders)

    def judged_changed(data):
        ends, at = [], 0
        for part in ders:
            ends.append(data[at : at + len(part)])
            at += len(part)
        return appraise(Evidence(MEDIA_TYPES[KIND], report), tuple(ends), expected, POLICY, NOW_S)

    bound = range(len(whole) - len(ders[-1]))
    assert check_every_flip(judged_changed, whole, bound) == len(bound)


def made(data, gpu=GPU, known=None, endorsements=None, roots=None, nonce=NONCE):
    known = (measurement(SpdmReport.read(GPU.report(NONCE))),) if known is None else known
    return danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[KIND], data), (gpu.chain,) if endorsements is None else endorsements,
        ReferenceValues(None, (nonce,), known), POLICY, MADE_AT_S, danger_roots=roots or gpu.roots,
    )  # fmt: skip


def test_made_reports_under_their_own_root_and_under_production():
    assert made(GPU.report(NONCE)).trusted
    assert failed(made(GPU.report(NONCE), roots=PINNED_ROOTS)) == ["chain: root"]
    assert failed(made(GPU.report(NONCE[::-1]))) == ["report data"]


def test_chains_that_do_not_do():
    data = GPU.report(NONCE)
    ders = [GPU.leaf.der, *(issued.der for issued in reversed(GPU.authorities)), GPU.root.der]
    assert made(data, endorsements=tuple(ders)).trusted
    assert made(data, endorsements=tuple(ders[:-1])).trusted
    assert failed(made(data, endorsements=())) == [
        "evidence signature", "chain", "firmware of the key"
    ]  # fmt: skip
    for without in range(4):
        assert not made(data, endorsements=tuple(ders[:without] + ders[without + 1 :])).trusted
    assert not made(data, endorsements=tuple(reversed(ders))).trusted
    assert not made(data, endorsements=(b"-----BEGIN CERTIFICATE-----", bytes(10), b"")).trusted
    old = Gpu(valid=timedelta(seconds=59))
    assert failed(made(old.report(NONCE), old)) == ["validity"]
    ca = Gpu(authority=True)
    assert failed(made(ca.report(NONCE), ca)) == ["use of the leaf's key"]
    p256 = ec.generate_private_key(ec.SECP256R1())
    short = Gpu(composite_device_id(p256), key=p256)
    assert failed(made(short.report(NONCE, signer=GPU.leaf), short)) == ["evidence signature"]


def test_a_report_by_another_key():
    other = issue("GX100 A01 GSP FMC LF", GPU.authorities[-1], authority=False)
    assert failed(made(GPU.report(NONCE, signer=other))) == ["evidence signature"]


def test_the_firmware_is_the_one_that_the_key_was_certified_for():
    for extension in (None, dice_tcb_info()):
        gpu = Gpu(extension)
        assert made(gpu.report(NONCE), gpu).trusted
        assert failed(made(gpu.report(NONCE, fields={**FIELDS, 20: bytes(48)}), gpu)) == [
            "firmware of the key"
        ]
        without = {kind: value for kind, value in FIELDS.items() if kind != 20}
        assert made(gpu.report(NONCE, fields=without), gpu).trusted
    bare = Gpu(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"))
    assert failed(made(bare.report(NONCE), bare)) == ["firmware of the key"]


@pytest.mark.parametrize(("flags", "debug"), [(0x80, False), (0x20, False), (0x40, True), (0x10, True)])
def test_firmware_that_says_that_it_is_open(flags, debug):
    gpu = Gpu(dice_tcb_info(FIRMWARE, flags))
    assert failed(made(gpu.report(NONCE), gpu)) == (["debugging"] if debug else [])


def test_reference_values_cover_every_measured_block():
    read = SpdmReport.read(GPU.report(NONCE))
    data = GPU.report(NONCE)
    for known, names in (
        ((measurement(read),), []),
        ((measurement(read, block64=bytes(48)),), []),
        ((measurement(read, block3=None),), ["measured blocks"]),
        ((measurement(read, block3=bytes([9] * 48)),), ["measured blocks", "measurement"]),
        ((measurement(read, block64=bytes([9] * 48)),), ["measured blocks", "measurement"]),
        ((measurement(read, driver_version=b"600.1"),), ["measured blocks", "measurement"]),
        ((measurement(read, block65=bytes(48)),), ["measured blocks", "measurement"]),
        ((measurement(read, vbios_version=b"1"),), ["measured blocks", "measurement"]),
        ((measurement(read, block3=(bytes([9] * 48), read.blocks[3])),), []),
        ((measurement(read, block3=(bytes([9] * 48), bytes([8] * 48))),), ["measured blocks", "measurement"]),
        ((measurement(read, block3=None), measurement(read, driver_version=b"1")), ["measured blocks"]),
        ((measurement(read, driver_version=b"1"), measurement(read)), []),
    ):
        assert failed(made(data, known=known)) == names, known


def test_only_blocks_of_gpus_have_alternatives():
    twice = (("pcr0", bytes(48)), ("pcr0", bytes(48)), ("pcr1", bytes(48)), ("pcr2", bytes(48)))
    with pytest.raises(ValueError, match="twice"):
        Measurement(kind=RealEvidence.NITRO, registers=twice)
    versions = (("driver_version", b"1"), ("vbios_version", b"1"))
    for more in ((("driver_version", b"2"),), (("block1", b"1"), ("block1", b"1"))):
        with pytest.raises(ValueError, match="twice"):
            Measurement(kind=KIND, registers=(*versions, *more))


@pytest.mark.parametrize(
    "changes",
    [
        {"request": b"\x10\xe0\x01\xff" + bytes(33)}, {"request": b"\x11\xe1\x01\xff" + bytes(33)},
        {"request": b"\x11\xe0\x00\xff" + bytes(33)}, {"request": b"\x11\xe0\x01\x01" + bytes(33)},
        {"request": b"\x11\xe0\x01\xff" + bytes(32) + b"\1"}, {"response": b"\x12\x60\0\0"},
        {"response": b"\x11\x61\0\0"}, {"count": 0}, {"count": 63}, {"count": 65}, {"count": 255},
        {"blocks": {}}, {"blocks": {0: bytes(48)}}, {"blocks": {1: bytes(32)}}, {"blocks": {1: bytes(200)}},
        {"blocks": [(1, bytes(48)), (1, bytes(48))]}, {"fields": [(3, b"1"), (3, b"2")]},
        {"fields": {3: bytes(1025)}}, {"fields": dict.fromkeys(range(65), b"")},
    ],
    ids=str,
)  # fmt: skip
def test_reports_out_of_form(changes):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        made(GPU.report(NONCE, **changes))


def test_bytes_out_of_form():
    data = GPU.report(NONCE)
    for other in (b"", data[:-1], data + b"\0", data[37:], bytes(MOST_REPORT_BYTES + 1)):
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            made(other)


def test_versions_that_are_none():
    for fields in ({}, {3: b"\xff\xfe", 6: bytes(7)}, {3: b"\x1b[2J"}):
        read = SpdmReport.read(GPU.report(NONCE, fields=fields))
        assert (driver_version(read), vbios_version(read)) == ("", "")


@pytest.mark.fuzz
def test_fuzzed():
    check_fuzzed(SpdmReport.read, GPU.report(NONCE, blocks=blocks_of(3, 8)))
    check_fuzzed(made, GPU.report(NONCE, blocks=blocks_of(3, 8)), examples=50)


@pytest.mark.fuzz
def test_fuzzed_endorsements():
    data = GPU.report(NONCE)
    check_fuzzed(lambda endorsement: made(data, endorsements=(endorsement,)), GPU.chain, examples=60)


def test_alternatives_in_a_policy_file():
    read = SpdmReport.read(GPU.report(NONCE))
    rows = "".join(
        f"{name} = {[bytes(48).hex(), value.hex()] if name == 'block2' else value.hex()!r}\n"
        for name, value in measurement(read).registers
    )
    text = 'version = 1\naccepts = ["nvidia"]\nallow_unchecked_revocation = ["nvidia"]\n'
    text += '[[measurements]]\nkind = "nvidia"\n[measurements.registers]\n'
    policy = Policy.from_toml(text + rows)
    names = [name for name, _ in policy.measurements[0].registers]
    assert names.count("block2") == 2
    result = danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[KIND], GPU.report(NONCE)), (GPU.chain,), ReferenceValues(None, (NONCE,)), policy,
        MADE_AT_S, danger_roots=GPU.roots,
    )  # fmt: skip
    assert result.trusted, failed(result)
