"""The sgx backend, where a stand-in takes the place of the driver, the processor and Intel's quoting enclave.

What a message goes through is all there: pages added and measured by the driver's interface, the signature
checked, the trampoline entered and left, a report from inside, a quote by AESM's protocol, the verifier.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from quoting import TARGET_INFO, Quoting, authentication, serving
from stand_in import stand_in_loader
from vendors.intel import NOW_S, IntelPlatform, roots

from myelin.attest import Evidence, Measurement, Policy, RealEvidence, ReferenceValues
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.errors import HostError, InputError
from myelin.host import Enclave, survey_backends
from myelin.host.aesm import Aesm
from myelin.host.sgx import wants_evidence
from myelin.image.sgx import make_key, read_enclave, read_key, sign_enclave
from myelin.wire import decode

WANTED = bytes(range(100, 164))


@pytest.fixture(scope="module")
def signing() -> bytes:
    return make_key()


def sigstruct(image: Path, pem: bytes, path: Path, **changed: int) -> Path:
    enclave = read_enclave(image)
    fields = {"attributes": enclave.attributes, "xfrm": enclave.xfrm, "security_version": 4} | changed
    path.write_bytes(sign_enclave(enclave.mrenclave, read_key(pem), **fields))
    return path


@pytest.fixture
def quoting() -> Quoting:
    return Quoting(IntelPlatform())


@pytest.fixture
def aesm(quoting: Quoting, tmp_path: Path) -> Iterator[Aesm]:
    with serving(quoting, tmp_path / "aesm") as path:
        yield Aesm(path)


@pytest.fixture
def sgx(image: Path, signing: bytes, aesm: Aesm, tmp_path: Path) -> Iterator[Enclave]:
    structure = sigstruct(image, signing, tmp_path / "sigstruct")
    with start(image, structure, quoter=aesm) as enclave:
        yield enclave


def start(image: Path, structure: Path, **more: object) -> Enclave:
    return Enclave.start(
        image, threads=2, backend="sgx", sigstruct=structure, loader=stand_in_loader(), **more
    )


def test_a_message_goes_in_and_out(sgx: Enclave, image: Path) -> None:
    assert (sgx.report["backend"], sgx.report["threads"]) == ("sgx", 2)
    assert "stand-in" in sgx.report["lockdown"]["enclave"]["detail"]
    assert sgx.call(b"zebra") == b"zebra"
    long = b"z" * (1 << 20)
    assert sgx.call(long) == long
    assert sgx.call(b"N\2")[:3] == b"\1\1\0"


def test_a_report_says_what_the_enclave_is_and_what_the_image_wants(sgx: Enclave, image: Path) -> None:
    report = sgx.sgx_report(TARGET_INFO)
    enclave = read_enclave(image)
    assert report[64:96] == enclave.mrenclave
    assert struct.unpack("<QQ", report[48:64]) == (enclave.attributes | 1, enclave.xfrm)
    assert report[258:260] == b"\4\0"
    assert report[320:384] == bytes(64)
    assert report[416:] == authentication(TARGET_INFO[:32], report[:384])
    with pytest.raises(HostError, match="512 bytes of TARGETINFO"):
        sgx.sgx_report(TARGET_INFO[:-1])
    assert sgx.call(b"z") == b"z"


def test_evidence_that_the_image_wants_is_quoted_and_trusted(
    sgx: Enclave, image: Path, quoting: Quoting
) -> None:
    answer = sgx.call(b"E" + WANTED)  # what the image got instead of the first answer, which it echoes
    code, envelope = decode(answer, what="answer")
    assert code == 12
    assert quoting.asked[-1] == "getQuoteExReq"
    enclave = read_enclave(image)
    build = Measurement(
        kind=RealEvidence.SGX, registers={"mrenclave": enclave.mrenclave}, image=enclave.image
    )
    collateral = quoting.platform.collateral("sgx")
    policy = Policy(accepts={RealEvidence.SGX})

    def judged(known: Measurement, report_data: bytes) -> list[str]:
        values = ReferenceValues(frozenset({enclave.image}), (report_data,), (known,))
        result = danger_appraise_with_roots(
            Evidence.from_cmw(envelope), (collateral,), values, policy, NOW_S, danger_roots=roots()
        )
        failed = [check.name for check in result.checks.failures()]
        assert result.trusted == (not failed)
        return failed

    assert judged(build, WANTED) == []
    other = build.model_copy(update={"registers": (("mrenclave", bytes(32)),)})
    assert judged(other, WANTED) != []
    assert judged(build, WANTED[::-1]) != []


def test_a_host_that_swaps_the_report_is_noticed(image: Path, signing: bytes, tmp_path: Path) -> None:
    class Swapping:
        def target_info(self) -> bytes:
            return TARGET_INFO

        def quote(self, report: bytes) -> bytes:
            raise AssertionError("a report for other data must not come here")

    structure = sigstruct(image, signing, tmp_path / "sigstruct")
    enclave = start(image, structure, quoter=Swapping())
    # An answer that looks as if evidence for other bytes were wanted than those the report has.
    with enclave, pytest.raises(HostError, match="not for what the image wanted"):
        enclave.call(b"\x82\x02\x58\x40" + WANTED)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x82\x02", b"\x82\x02\x58\x3f" + bytes(63), b"\x82\x01\x58\x40" + bytes(64), b"\x82\x02\x01"],
)
def test_other_answers_want_nothing(answer: bytes) -> None:
    assert wants_evidence(answer) is None
    assert wants_evidence(b"\x82\x02\x58\x40" + WANTED) == WANTED
    assert wants_evidence(b"\x82\x02\x58\x40" + WANTED + b"\0") is None


def test_only_the_image_s_own_signature_starts_it(
    image: Path, make_image: Callable[..., Path], signing: bytes, tmp_path: Path
) -> None:
    other = make_image(ARENA_BYTES=8192)
    wrong = sigstruct(other, signing, tmp_path / "other")
    with pytest.raises(HostError, match=r"enclave_refused: SGX_IOC_ENCLAVE_INIT: .*sign the image again"):
        start(image, wrong)
    good = sigstruct(image, signing, tmp_path / "good").read_bytes()
    for place in (0, 130, 520, 905, 928, 936, 950, 970, 1050, 1500):
        flipped = bytearray(good)
        flipped[place] ^= 1
        wrong.write_bytes(flipped)
        with pytest.raises(HostError, match="enclave_refused: SGX_IOC_ENCLAVE_INIT"):
            start(image, wrong)
    for size in (0, 1807, 1809):
        wrong.write_bytes((good + b"\0")[:size])
        with pytest.raises(HostError, match=r"signature_unreadable: .*expected 1808"):
            start(image, wrong)
    with pytest.raises(InputError, match="sign-sgx"):
        start(image, tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "value"), [("attributes", 6), ("attributes", 0), ("xfrm", 3), ("xfrm", 0xE7)]
)
def test_a_signature_for_other_attributes_starts_nothing(
    name: str, value: int, image: Path, signing: bytes, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="enclave_refused: SGX_IOC_ENCLAVE_INIT"):
        start(image, sigstruct(image, signing, tmp_path / "sigstruct", **{name: value}))


@pytest.mark.parametrize("size", [0, 1, 511])
def test_a_request_for_a_report_that_is_torn_ends_in_order(sgx: Enclave, size: int) -> None:
    assert sgx._process.stdin is not None
    os.write(sgx._process.stdin.fileno(), b"\xff" * 4 + TARGET_INFO[:size])
    sgx.close()
    assert sgx._process.returncode == 4


def test_a_report_is_had_of_no_other_backend(image: Path, program: Path) -> None:
    with Enclave.start(image, threads=1, loader=program) as enclave:
        with pytest.raises(HostError, match="this is process"):
            enclave.sgx_report(TARGET_INFO)
        assert enclave.call(b"z") == b"z"


def test_the_loader_without_a_driver_says_so(
    image: Path, program: Path, signing: bytes, tmp_path: Path
) -> None:
    if Path("/dev/sgx_enclave").exists():
        pytest.skip("this machine has the driver")
    structure = sigstruct(image, signing, tmp_path / "sigstruct")
    with pytest.raises(
        HostError, match=r"backend_missing: /dev/sgx_enclave cannot be opened: .*launch control"
    ):
        Enclave.start(image, backend="sgx", sigstruct=structure, loader=program)


def test_what_aesm_refuses_is_said(quoting: Quoting, aesm: Aesm) -> None:
    def failing(response: object) -> object:
        for _, part in response.ListFields():  # type: ignore[attr-defined]
            part.errorCode = 42
        return response

    quoting.change = failing
    with pytest.raises(HostError, match="request 21 with error 42: AESM has no certificate"):
        aesm.target_info()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"\xaa\x01\x7f\x08\x00",
        b"\xaa\x01\x00",
        b"\xaa\x01\x02\x08\x01",
        b"\xaa\x01\x04\x08\x00\x10\x00",
        b"\xaa\x01\x05\x08\x00\x10\xc0\x84",
        b"\xaa\x01\x02\x08\x00" * 2,
        b"\xb2\x01\x02\x08\x00",
        b"\xaa\x01\x07\x08\x00\x10\xff\xff\xff\x0f",
        b"\xa9\x01\x02\x08\x00",
        b"\x80" * 11,
        b"x" * (1 << 17),
    ],
)
def test_answers_that_are_not_aesm_s_are_refused(answer: bytes, quoting: Quoting, aesm: Aesm) -> None:
    quoting.change = lambda _response: answer
    with pytest.raises(HostError, match="AESM"):
        aesm.target_info()


def test_a_quote_of_another_report_is_refused(quoting: Quoting, aesm: Aesm, sgx: Enclave) -> None:
    report = sgx.sgx_report(TARGET_INFO)
    other = report[:320] + b"?" * 64
    quoting.quote = lambda _report: quoting.platform.sgx_quote_of(other)  # type: ignore[method-assign]
    with pytest.raises(HostError, match="another report"):
        aesm.quote(report)
    with pytest.raises(HostError, match="432"):
        aesm.quote(report[:-1])


def test_a_service_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"AESM at .*absent: .*start the service aesmd"):
        Aesm(tmp_path / "absent").target_info()


def missing(root: Path) -> str:
    (backend,) = (one for one in survey_backends(root) if one.name == "sgx")
    return "; ".join(backend.missing)


def test_what_a_machine_lacks_is_named_part_by_part(tmp_path: Path) -> None:
    for folder in ("dev", "proc/self", "var/run/aesmd"):
        (tmp_path / folder).mkdir(parents=True)
    cpuinfo, mounts = tmp_path / "proc/cpuinfo", tmp_path / "proc/self/mounts"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu sgx_lc\n")
    assert "no flag sgx in" in missing(tmp_path)
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu sgx\n")
    assert "no flag sgx_lc" in missing(tmp_path)
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu sgx sgx_lc\n")
    assert "/proc/cpuinfo" not in missing(tmp_path)
    assert "/dev/sgx_enclave (" in missing(tmp_path)
    (tmp_path / "dev/sgx_enclave").touch()
    mounts.write_text("udev /dev devtmpfs rw,nosuid,noexec 0 0\n")
    assert "noexec" in missing(tmp_path)
    mounts.write_text("udev /dev devtmpfs rw,nosuid 0 0\n")
    assert missing(tmp_path).startswith("/var/run/aesmd/aesm.socket (")
    (tmp_path / "var/run/aesmd/aesm.socket").touch()
    assert missing(tmp_path) == ""
