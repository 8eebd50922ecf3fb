"""``myelin measure --tee``: what it prints and refuses; and evidence of a build that it measured is trusted
by ``myelin attest``'s own function, evidence of any other build is not."""

import hashlib
import json
import sys

import pytest
from made import ccel, firmware, kernel, pattern
from vendors import intel, snp
from vendors.certificates import MADE_AT_S
from vendors.nitro import NitroModule

from myelin.attest import (
    MEDIA_TYPES,
    Evidence,
    MinimumTcb,
    Policy,
    RealEvidence,
    ReferenceValues,
    load_measurements,
)
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.cli import run
from myelin.cli.progress import console
from myelin.errors import InputError
from myelin.measure import Measured, Tdvf, build_eif, measure_nitro, reference_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPORT_DATA = bytes(range(64))
LINE = "console=ttyS0 quiet"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files of a build: firmware, kernel, two initrds, ACPI tables, an enclave image."""
    monkeypatch.chdir(tmp_path)
    files = {
        "ovmf.fd": firmware(), "vmlinuz": kernel(), "initrd": pattern(5000, b"initrd"), "app": b"application",
        "loader": b"loader", "rsdp": b"rsdp", "tables": b"tables", "text": b"no such file",
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "enclave.eif").write_bytes(build_eif(kernel(), [files["initrd"], b"application"], LINE))
    return tmp_path


BOOT = ["--kernel", "vmlinuz", "--initrd", "initrd", "--append", LINE]
TDX = [
    "--tee", "tdx", "ovmf.fd", *BOOT, "--memory-mib", "2048", "--acpi-loader", "loader",
    "--acpi-rsdp", "rsdp", "--acpi-tables", "tables",
]  # fmt: skip
SNP = ["--tee", "snp", "ovmf.fd", *BOOT, "--processors", "2", "--processor-type", "EPYC-Genoa-v2"]
NITRO = ["--tee", "nitro", "enclave.eif"]


def measure(*words):
    with console.capture() as capture:
        code = run(["measure", *words])
    return code, " ".join(capture.get().split())


def registers(capsys, words):
    """What the command says as JSON, and that it prints the same without."""
    assert measure(*words, "--json")[0] == 0
    answer = json.loads(capsys.readouterr().out)
    assert measure(*words)[0] == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed == answer["registers"]
    return {name: bytes.fromhex(value) for name, value in printed.items()}


def trusted(folder, kind, data, endorsements, policy, now_s, roots):
    """Whether evidence is trusted with the reference value that the command wrote."""
    known = load_measurements(folder / "reference.toml")
    result = danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[kind], data), endorsements, ReferenceValues(None, (REPORT_DATA,), known), policy,
        now_s, danger_roots=roots,
    )  # fmt: skip
    assert result.trusted or [check.name for check in result.checks.failures()] == ["measurement"]
    return result.trusted


@pytest.mark.parametrize("changed", [None, "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"])
def test_tdx_from_files_to_a_verdict(folder, capsys, changed):
    values = registers(capsys, [*TDX, "--policy", "reference.toml"])
    if changed:
        values[changed] = bytes(47) + b"\1"
    platform = intel.IntelPlatform()
    quote = platform.tdx_quote(
        registers=values["mrtd"], rtmrs=tuple(values[f"rtmr{place}"] for place in range(4))
    )
    policy = Policy(accepts={RealEvidence.TDX})
    verdict = trusted(
        folder, RealEvidence.TDX, quote, (platform.collateral("tdx"),), policy, intel.NOW_S, intel.roots()
    )
    assert verdict is (changed is None)


@pytest.mark.parametrize("changed", [None, "measurement", "host_data"])
def test_snp_from_files_to_a_verdict(folder, capsys, changed):
    host_data = bytes(32) if changed != "host_data" else bytes(31) + b"\1"
    values = registers(capsys, [*SNP, "--host-data", host_data.hex(), "--policy", "reference.toml"])
    machine = snp.Machine()
    report = machine.report(measurement=bytes(48) if changed == "measurement" else values["measurement"])
    least = MinimumTcb(
        kind=RealEvidence.SEV_SNP, product="genoa",
        components=dict.fromkeys(("bootloader", "tee", "snp", "microcode"), 0),
    )  # fmt: skip
    policy = Policy(accepts={RealEvidence.SEV_SNP}, minimum_tcb=(least,))
    verdict = trusted(
        folder, RealEvidence.SEV_SNP, report, machine.endorsements(), policy, intel.NOW_S, snp.roots()
    )
    assert verdict is (changed is None)


@pytest.mark.parametrize("changed", [None, 0, 1, 2])
def test_nitro_from_files_to_a_verdict(folder, capsys, changed):
    values = registers(capsys, [*NITRO, "--policy", "reference.toml"])
    module = NitroModule()
    pcrs = {**module.fields()["pcrs"], **{place: values[f"pcr{place}"] for place in range(3)}}
    if changed is not None:
        pcrs[changed] = bytes([7] * 48)
    policy = Policy(accepts={RealEvidence.NITRO}, allow_unchecked_revocation={RealEvidence.NITRO})
    document = module.document(pcrs=pcrs)
    verdict = trusted(folder, RealEvidence.NITRO, document, (), policy, MADE_AT_S, module.roots)
    assert verdict is (changed is None)


def test_nitro_from_parts_is_the_same(folder, capsys):
    parts = ["--tee", "nitro", *BOOT, "--initrd", "app"]
    assert registers(capsys, parts) == registers(capsys, NITRO)


def test_the_reference_value_may_stand_in_a_policy(folder):
    assert measure(*NITRO, "--policy", "reference.toml", "--security-version", "3")[0] == 0
    written = (folder / "reference.toml").read_text()
    assert tomllib.loads(written)["measurements"][0]["minimum_security_version"] == 3
    policy = Policy.from_toml('version = 1\naccepts = ["nitro"]\n' + written.partition("\n")[2])
    assert policy.measurements == load_measurements(folder / "reference.toml")


def test_a_reference_value_names_the_image():
    measured = measure_nitro(build_eif(b"k", [b"r"], "quiet"))
    text = reference_toml(measured, image=bytes(range(32)))
    assert tomllib.loads(text)["measurements"][0]["image"] == bytes(range(32)).hex()
    for image, what in ((bytes(31), measured), (None, Measured(measured.kind, measured.registers[:2], ()))):
        with pytest.raises(InputError, match="reference value"):
            reference_toml(what, image=image)


def test_what_an_event_log_alone_says_is_marked(folder, capsys):
    (folder / "ccel").write_bytes(ccel([(0, bytes(48))]))
    code, said = measure("--tee", "tdx", "ovmf.fd", "--event-log", "ccel")
    assert (code, "volume of UEFI variables, got none" in said) == (1, True)

    volume = hashlib.sha384(Tdvf.read(firmware()).variables).digest()
    (folder / "ccel").write_bytes(ccel([(0, volume), (0, bytes(48))], data=b"\x1b[2J[red]"))
    code, said = measure("--tee", "tdx", "ovmf.fd", "--event-log", "ccel", "--json")
    assert code == 0
    assert "1 events stand on the event log's word alone" in said
    assert "\x1b" not in said
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert [part["computed"] for part in parts] == [True, True, False]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "expected an image"), (["--tee", "tdx"], 2, "expected a firmware file"),
        (["text"], 2, "text"), (["none"], 2, "none"),
        (["--kernel", "vmlinuz"], 2, "--kernel: expected --tee"),
        (["text", "--security-version", "1"], 2, "--security-version: expected --tee"),
        (["--tee", "tdx", "none"], 2, "none: cannot be read"), (["--tee", "tdx", "text"], 2, "firmware"),
        (["--tee", "tdx", "ovmf.fd"], 2, "QEMU's ACPI tables (RTMR0"),
        ([*TDX[:-2]], 2, "expected all three"), ([*TDX, "--processors", "2"], 2, "--processors: not for tdx"),
        ([*TDX, "--initrd", "app"], 2, "expected one"), ([*SNP, "--memory-mib", "64"], 2, "not for snp"),
        (SNP[:-4], 2, "--processors"), (SNP[:-2], 2, "--processor-type"),
        ([*SNP, "--guest-features", "2"], 2, "bit 0"), ([*SNP, "--guest-features", "x"], 2, "in hex"),
        ([*SNP, "--host-data", "00"], 2, "32 bytes"),
        (["--tee", "snp", "ovmf.fd", "--append", "x", *SNP[-4:]], 2, "expected --kernel"),
        ([*NITRO, "--kernel", "vmlinuz"], 2, "not both"), (["--tee", "nitro", "text"], 2, "EIF, header"),
        (["--tee", "nitro"], 2, "--kernel"), (["--tee", "nitro", "--kernel", "vmlinuz"], 2, "--initrd"),
        ([*NITRO, "--image", "text"], 2, "expected --policy"),
        ([*NITRO, "--policy", "p", "--image", "text"], 2, "text"),
        ([*NITRO, "--vmm", "qemu"], 2, "--vmm: not for nitro"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_refusals(folder, words, code, says):
    got, said = measure(*words)
    assert got == code
    assert says in said
    assert not (folder / "p").exists()
