"""TPM 2.0 quotes and event logs: of a TPM of these tests, and of a software TPM where one is installed."""

import hashlib
import os
import shutil
import socket
import struct
import subprocess
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flips import believed, check_every_flip, check_fuzzed
from vendors.certificates import MADE_AT_S, issue, root
from vendors.tpm import ECDSA, EV_IPL, RSAPSS, RSASSA, SHA1, SHA256, SHA384, SIGNER, Tpm

from myelin.attest import MEDIA_TYPES, Evidence, Measurement, Policy, RealEvidence, ReferenceValues
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.attest.event_log import MOST_EVENT_LOG_BYTES, EventLog
from myelin.attest.roots import PINNED_ROOTS
from myelin.attest.tpm import TpmEvidence
from myelin.attest.tpm_structures import TpmPublic
from myelin.errors import ProtocolError
from myelin.wire import decode, encode

KIND = RealEvidence.TPM
NONCE = bytes(range(32))
TPM = Tpm()


def policy_for(*tpms):
    listed = frozenset(hashlib.sha256(tpm.public()).digest() for tpm in tpms)
    return Policy(name="ours", accepts=frozenset({KIND}), platforms=listed)


def reference(pcrs, nonce=NONCE):
    registers = {f"pcr{index}": value for index, value in pcrs.items()}
    return ReferenceValues(None, (nonce,), (Measurement(kind=KIND, registers=registers),))


def judged(data, tpm=TPM, *, policy=None, pcrs=None, roots=PINNED_ROOTS, endorsements=(), nonce=NONCE):
    pcrs = pcrs or {index: tpm.pcrs[index] for index in (0, 4, 9)}
    return danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[KIND], data), endorsements, reference(pcrs, nonce), policy or policy_for(tpm),
        MADE_AT_S, danger_roots=roots,
    )  # fmt: skip


def failed(result):
    return [check.name for check in result.checks.failures()]


@pytest.mark.parametrize(
    ("scheme", "hash_", "bank"),
    [
        (RSASSA, SHA256, SHA256),
        (RSAPSS, SHA256, SHA256),
        (ECDSA, SHA256, SHA256),
        (ECDSA, SHA384, SHA384),
        (RSASSA, SHA384, SHA256),
    ],
)
def test_quotes_of_every_scheme(scheme, hash_, bank):
    tpm = Tpm(scheme, hash_, bank)
    assert judged(tpm.evidence(NONCE), tpm).trusted
    assert failed(judged(tpm.evidence(NONCE[::-1]), tpm)) == ["report data"]


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_register_zero_begins_with_the_locality_that_the_log_names(locality):
    tpm = Tpm(locality=locality)
    assert judged(tpm.evidence(NONCE), tpm).trusted


def test_a_key_that_nobody_listed():
    other = policy_for(Tpm())
    assert failed(judged(TPM.evidence(NONCE), policy=other)) == ["trust in the key", "platform"]
    none = Policy(name="none", accepts=frozenset({KIND}))
    assert failed(judged(TPM.evidence(NONCE), policy=none)) == ["trust in the key", "platform"]
    assert failed(judged(TPM.evidence(NONCE), policy=Policy.production())) == [
        "kind of evidence", "trust in the key", "platform"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "attributes", [SIGNER ^ 1 << 1, SIGNER ^ 1 << 4, SIGNER ^ 1 << 5, SIGNER ^ 1 << 16, SIGNER | 1 << 17]
)
def test_a_key_that_may_sign_what_the_tpm_did_not_write(attributes):
    tpm = Tpm(attributes=attributes)
    assert failed(judged(tpm.evidence(NONCE), tpm)) == ["use of the key"]


def certified(tpm, **changes):
    vendor = root("vendor test root (tpm)")
    names = x509.SubjectAlternativeName([x509.DNSName("tpm.example")])
    use = x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.3")])
    settings = {"authority": False, "extensions": ((names, True), (use, True)), **changes}
    return vendor, issue("attestation key", vendor, key=tpm.key, **settings)


def test_a_certified_key_under_its_own_root_and_under_production():
    tpm = Tpm(ECDSA, SHA384, SHA384)
    vendor, certificate = certified(tpm)
    roots = vendor.pinned_as("tpm")
    for endorsement in (certificate.der, certificate.pem):
        result = judged(tpm.evidence(NONCE), tpm, roots=roots, endorsements=(endorsement,))
        assert result.trusted, failed(result)
    production = judged(tpm.evidence(NONCE), tpm, endorsements=(certificate.der,), policy=Policy.production())
    assert failed(production) == ["kind of evidence", "trust in the key", "platform"]
    other = Tpm(ECDSA, SHA384, SHA384)
    result = judged(other.evidence(NONCE), other, roots=roots, endorsements=(certificate.der,))
    assert failed(result) == ["certified key"]
    _, stranger = certified(tpm)
    result = judged(tpm.evidence(NONCE), tpm, roots=roots, endorsements=(stranger.der,))
    assert "chain: root" in failed(result) or "signature" in failed(result)
    assert not result.trusted
    _, authority = vendor, issue("attestation key", vendor, key=tpm.key, authority=True)
    result = judged(tpm.evidence(NONCE), tpm, roots=roots, endorsements=(authority.der,))
    assert failed(result) == ["use of the leaf's key"]


def test_registers_that_are_not_the_quoted_ones():
    parts = TPM.parts(NONCE)
    parts["pcrs"] = {**parts["pcrs"], 5: bytes(32)}
    assert failed(judged(encode(parts))) == ["register values", "replay to pcr5"]
    for pcrs in ({}, {0: bytes(32)}, {**TPM.parts(NONCE)["pcrs"], 11: bytes(32)}):
        with pytest.raises(ProtocolError, match="pcrs"):
            judged(encode({**parts, "pcrs": pcrs}))


def test_a_register_of_another_name_with_the_value_asked_for():
    """A host that replays the firmware's events into register 16 gets register 4's value: for nothing."""
    tpm = Tpm()
    tpm.measure(4, EV_IPL, b"another kernel")
    tpm.pcrs[16] = TPM.pcrs[4]
    pcrs = {index: TPM.pcrs[index] for index in (0, 4, 9)}
    result = judged(tpm.evidence(NONCE, (0, 1, 2, 3, 5, 6, 7, 8, 9, 16)), tpm, pcrs=pcrs)
    assert failed(result) == ["measurement"]


def test_logs_that_do_not_come_to_the_registers():
    parts = TPM.parts(NONCE)
    assert failed(judged(encode({**parts, "event_log": b""}))) == ["event log"]
    other = Tpm()
    other.measure(4, EV_IPL, b"one event more")
    assert failed(judged(encode({**parts, "event_log": other.event_log()}))) == ["replay to pcr4"]
    fewer = Tpm()
    fewer.events = [event for event in fewer.events if event[0] not in (4, 9)]
    assert failed(judged(encode({**parts, "event_log": fewer.event_log()}))) == ["replay to pcr4"]
    unlogged = Tpm()
    unlogged.pcrs[2] = bytes(31) + b"\1"
    assert failed(judged(unlogged.evidence(NONCE), unlogged)) == ["replay to pcr2"]
    later = Tpm()
    later.pcrs[11] = bytes([7] * 32)
    assert judged(later.evidence(NONCE, (*range(10), 11)), later).trusted, "not the firmware's to log"


def test_another_image_and_another_signer():
    other = Tpm()
    other.measure(4, EV_IPL, b"another kernel")
    result = judged(other.evidence(NONCE), other, pcrs={i: TPM.pcrs[i] for i in (0, 4, 9)})
    assert failed(result) == ["measurement"]
    parts = TPM.parts(NONCE)
    for signer in (other, Tpm(RSAPSS), Tpm(ECDSA)):
        changed = {**parts, "signature": signer.sign(parts["quote"])}
        assert failed(judged(encode(changed))) == ["evidence signature"]
    for scheme in (RSAPSS, ECDSA):
        ours, theirs = Tpm(scheme), Tpm(scheme)
        parts = ours.parts(NONCE)
        changed = encode({**parts, "signature": theirs.sign(parts["quote"])})
        assert failed(judged(changed, ours)) == ["evidence signature"]


def test_every_byte_of_the_evidence_is_bound():
    """All of it, the event log's digests of the quoted bank among it. What no register holds is not bound:
    events' types and data, digests of other banks."""
    tpm = Tpm(ECDSA)
    tpm.events, tpm.pcrs = [], dict.fromkeys(range(24), bytes(32))
    for pcr in (0, 4, 9):
        tpm.measure(pcr, EV_IPL, b"")
    parts = tpm.parts(NONCE, (0, 4, 9))
    data = encode(parts)
    log = data.index(parts["event_log"])
    unbound = set()
    for place in range(log + 69, log + len(parts["event_log"]), 72):
        unbound |= {*range(place + 4, place + 8), *range(place + 14, place + 34)}
    vendor_info = {*range(log + 32 + 16, log + 32 + 24)}
    places = [place for place in range(len(data)) if place not in unbound | vendor_info]
    assert check_every_flip(lambda changed: judged(changed, tpm), data, places) > len(data) * 3 // 4
    for place in sorted(unbound):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        assert believed(lambda d: judged(d, tpm), bytes(changed)), f"byte {place} is bound after all"


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"\xffTCH"}, {"type": b"\x80\x14"}, {"bank": SHA1}, {"bank": 0x0012}, {"count": 2},
        {"count": 0}, {"safe": 2}, {"select_bytes": 5},
    ],
    ids=str,
)  # fmt: skip
def test_quotes_out_of_form(changes):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        judged(TPM.evidence(NONCE, **changes))


def test_evidence_out_of_form():
    parts = TPM.parts(NONCE)
    public, signature = parts["ak_public"], parts["signature"]
    for changes in (
        {"more": b""}, {"quote": parts["quote"] + b"\0"}, {"quote": parts["quote"][:-1]}, {"quote": b""},
        {"ak_public": public[:-1]}, {"ak_public": b"\0\x08" + public[2:]}, {"signature": signature[:-1]},
        {"signature": b"\0\x05" + signature[2:]}, {"signature": signature[:2] + b"\0\4" + signature[4:]},
        {"ak_public": public[:2] + b"\0\4" + public[4:]}, {"pcrs": []}, {"event_log": b"x"},
        {"event_log": bytes(MOST_EVENT_LOG_BYTES + 1)}, {"quote": None},
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            judged(encode({**parts, **changes}))
    for data in (b"", b"\x80", bytes(1 << 18), encode(parts)[:-1]):
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            judged(data)


def test_logs_out_of_form():
    log = TPM.event_log()
    huge = log[:69] + b"\4\0\0\0\4\0\0\0\2\0\0\0" + b"\4\0" + bytes(20) + b"\x0b\0" + bytes(32) + b"\xff" * 4
    for data in (
        log[:-1], log + b"\0", log[:20], b"\1" + log[1:], log.replace(b"Event03", b"Event02"), huge,
        log[:56] + b"\6\0\0\0" + log[60:], log[:60] + b"\5\0" + log[62:],
        log[:69] + b"\x18" + log[70:], log[:77] + b"\0" + log[78:], log[:77] + b"\1" + log[78:],
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            EventLog.read(data, SHA256)
    with pytest.raises(ProtocolError, match="sha384"):
        EventLog.read(log, SHA384)
    digest = b"\x0b\0" + bytes(32)
    once, twice = (struct.pack("<III", 4, EV_IPL, count) + count * digest + bytes(4) for count in (1, 2))
    assert len(EventLog.read(log + once, SHA256).events) == len(EventLog.read(log, SHA256).events) + 1
    with pytest.raises(ProtocolError, match="once"):
        EventLog.read(log + twice, SHA256)


@pytest.mark.fuzz
def test_fuzzed():
    check_fuzzed(TpmEvidence.read, TPM.evidence(NONCE))
    check_fuzzed(judged, TPM.evidence(NONCE), examples=50)
    check_fuzzed(lambda data: EventLog.read(data, SHA256), TPM.event_log())
    check_fuzzed(TpmPublic.read, Tpm(ECDSA).public())


@pytest.fixture(scope="module")
def software_tpm(tmp_path_factory):
    """A software TPM's quote over its registers, by the tools that people use for it."""
    missing = [name for name in ("swtpm", "tpm2_createek") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (Debian: swtpm, tpm2-tools)")
    folder = tmp_path_factory.mktemp("swtpm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--flags", "not-need-init,startup-clear",
         "--server", f"type=tcp,port={port},disconnect", "--ctrl", f"type=tcp,port={port + 1}"],
    )  # fmt: skip
    environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:host=127.0.0.1,port={port}"}

    def tool(name, *arguments):
        for arguments_now in ((name, *arguments), ("tpm2_flushcontext", "-t")):
            subprocess.run(arguments_now, cwd=folder, env=environment, check=True, capture_output=True)

    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port + 1)) == 0:
                    break
            time.sleep(0.05)
        yield folder, tool
    finally:
        daemon.terminate()
        daemon.wait(10)


def measured_boot(tool):
    """A log of three events, extended into the TPM as firmware would."""
    model = Tpm()
    model.events, model.pcrs = [], dict.fromkeys(range(24), bytes(32))
    for pcr, data in ((0, b"firmware"), (4, b"kernel"), (9, b"image and command line"), (9, b"more")):
        model.measure(pcr, EV_IPL, data)
        tool("tpm2_pcrextend", f"{pcr}:sha256={hashlib.sha256(data).hexdigest()}")
    return model


@pytest.mark.slow
def test_a_software_tpm_quotes_a_measured_boot(software_tpm):
    folder, tool = software_tpm
    model = measured_boot(tool)
    tool("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
    tool(
        "tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa",
        "-u", "ak.pub", "-n", "ak.name",
    )  # fmt: skip
    tool(
        "tpm2_quote", "-c", "ak.ctx", "-l", "sha256:0,1,2,3,4,5,6,7,8,9", "-q", NONCE.hex(),
        "-m", "quote", "-s", "signature", "-g", "sha256",
    )  # fmt: skip
    public = (folder / "ak.pub").read_bytes()[2:]
    assert (folder / "ak.name").read_bytes() == b"\0\x0b" + TpmPublic.read(public).digest
    data = encode(
        {
            "ak_public": public,
            "event_log": model.event_log(),
            "pcrs": {index: model.pcrs[index] for index in range(10)},
            "quote": (folder / "quote").read_bytes(),
            "signature": (folder / "signature").read_bytes(),
        }
    )
    policy = Policy(
        name="ours", accepts=frozenset({KIND}), platforms=frozenset({hashlib.sha256(public).digest()})
    )
    result = judged(data, model, policy=policy)
    assert result.trusted, failed(result)
    assert failed(judged(data, model, policy=policy, nonce=NONCE[::-1])) == ["report data"]
    fields = decode(data)
    quote = data.index(fields["quote"])
    places = range(quote, quote + len(fields["quote"]))
    assert check_every_flip(lambda changed: judged(changed, model, policy=policy), data, places) == len(
        places
    )


def test_public_keys_are_what_cryptography_says():
    for tpm in (TPM, Tpm(ECDSA), Tpm(ECDSA, SHA384)):
        read = TpmPublic.read(tpm.public()).key
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert read.public_bytes(*form) == tpm.key.public_key().public_bytes(*form)
