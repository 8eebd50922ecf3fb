"""An image in a machine with measured boot: what is quoted inside is what counts outside, to the byte."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from pathlib import Path

import pytest
from software_machine import StandIn
from trusted import NONCE, Recorded, Settle

from myelin.attest import Evidence, ReferenceValues, appraise
from myelin.boot import BootFiles, BootKind, kernel_register, make_boot_files
from myelin.certificate import open_model, verify
from myelin.errors import HostError, ProtocolError
from myelin.image import BuiltImage
from world import POLICY, Host

pytestmark = pytest.mark.vm


def test_a_run_from_contract_to_certificate(
    boot: BootFiles, machine: StandIn, recorded: Recorded, settle: Settle
) -> None:
    world = settle(recorded.policy)
    with machine.boot(boot) as enclave:
        assert enclave.report["measurement"] == boot.measurement.hex()
        assert all(layer["applied"] for layer in enclave.report["lockdown"].values())
        host = Host(world, enclave=enclave)
        outputs = host.run()
    assert world.debits() == [1, 1]
    now_s = int(time.time())
    judged = verify(outputs[0], world.signed, policy=recorded.policy, now_s=now_s)
    assert judged.verified, [check.name for check in judged.checks.failures()]
    assert not judged.simulated
    assert not verify(outputs[0], world.signed, now_s=now_s).verified, "production takes no TPM"
    assert len(open_model(outputs[1], world.researcher)) > 8


def test_the_quote_verifies_outside_and_the_log_replays(boot: BootFiles, recorded: Recorded) -> None:
    evidence = recorded.evidence
    pcrs = dict(evidence.pcrs)
    assert sorted(pcrs) == list(range(10))
    assert not evidence.key.unfit
    log = evidence.event_log
    assert log is not None
    assert {pcr: log.replay(pcr) for pcr in pcrs if pcr != 8} == {
        pcr: value for pcr, value in pcrs.items() if pcr != 8
    }
    assert pcrs[9] == kernel_register(boot.command_line, boot.initrd.read_bytes()), "computed from the files"
    assert len(set(pcrs.values())) > 4


def test_where_nobody_vouches_the_image_says_so(settle: Settle) -> None:
    """The same image, without a machine that measures: no evidence, no grant."""
    world = settle(POLICY)
    with Host(world) as host:
        host.bind()
        with pytest.raises(HostError, match="nothing that runs it here vouches"):
            host.grant(0)
        assert host.session.describe().state == "bound"
        assert host.enclave.call(b"\x82\x0c\x43cmw")[:4] == b"\x83\x01\x18\xc9", "out_of_order: dropped"
    assert world.debits() == [0, 0]


def test_evidence_is_bound_to_what_the_image_chose(
    boot: BootFiles, machine: StandIn, recorded: Recorded, settle: Settle
) -> None:
    """A host may send what it likes: nothing of it is quoted, and a machine's evidence is for one nonce."""
    world = settle(recorded.policy)
    with machine.boot(boot) as enclave:
        host = Host(world, enclave=enclave)
        host.bind()
        forged = b"\x82\x02\x58\x40" + bytes(64)
        assert enclave.call(forged)[:2] == b"\x83\x01"
        assert enclave.call(b"\x82\x0c\x43cmw")[:2] == b"\x83\x01"
        first = host.session.attest(NONCE, recorded.policy.digest)
        second = host.session.attest(NONCE[::-1], recorded.policy.digest)
        for nonce, evidence, good in ((NONCE, first, True), (NONCE, second, False)):
            wanted = host.report_data(nonce, recorded.policy)
            reference = ReferenceValues((boot.measurement,), (wanted,))
            result = appraise(Evidence.from_cmw(evidence), (), reference, recorded.policy, int(time.time()))
            failed = [check.name for check in result.checks.failures()]
            assert failed == ([] if good else ["report data"])


def assert_only_measured_otherwise(refusal: ProtocolError) -> None:
    """The owner's broker found one thing wrong with the evidence: what was booted."""
    assert refusal.name == "wrong_measurement"
    assert refusal.detail.startswith("measurement: expected pcr0 ")
    assert not any(
        check in refusal.detail for check in ("signature", "trust in the key", "event log", "data:")
    )


def other_command_line(boot: BootFiles, folder: Path) -> BootFiles:
    return dataclasses.replace(boot, command_line=boot.command_line.replace("quiet", "quieu"))


def other_init(boot: BootFiles, folder: Path) -> BootFiles:
    """One byte of a text in init."""
    shutil.copyfile(boot.kernel, folder / "kernel")
    initrd = bytearray(boot.initrd.read_bytes())
    place = initrd.find(b"has ended")
    assert place > 0
    initrd[place] ^= 0x20
    (folder / "initrd").write_bytes(initrd)
    return dataclasses.replace(boot, folder=folder)


@pytest.mark.parametrize("change", [other_command_line, other_init])
def test_one_byte_of_what_boots(
    change, boot: BootFiles, machine: StandIn, recorded: Recorded, settle: Settle, tmp_path: Path
) -> None:
    world = settle(recorded.policy)
    with machine.boot(change(boot, tmp_path)) as enclave:
        assert enclave.report["measurement"] == boot.measurement.hex(), "the image is the same"
        host = Host(world, enclave=enclave)
        host.bind()
        with pytest.raises(ProtocolError) as refusal:
            host.grant(0)
    assert_only_measured_otherwise(refusal.value)
    assert world.debits() == [0, 0]


def test_one_byte_of_the_image(
    boot: BootFiles,
    built: BuiltImage,
    kernel: Path,
    machine: StandIn,
    recorded: Recorded,
    settle: Settle,
    tmp_path: Path,
) -> None:
    """It says itself that the contract is another's; and under a contract of its own no owner trusts it."""
    world = settle(recorded.policy)
    content = bytearray(built.path.read_bytes())
    place = content.find(b"attacked")
    assert place > 0
    content[place] ^= 1
    other = tmp_path / "other.myelin"
    other.write_bytes(content)
    files = make_boot_files(other, BootKind.TDX, kernel, tmp_path / "boot")
    with machine.boot(files) as enclave:
        host = Host(world, enclave=enclave)
        with pytest.raises(ProtocolError) as refusal:
            host.bind()
        assert refusal.value.name == "wrong_measurement"
        assert "pcr" not in refusal.value.detail, "said by the image"
        host.bind(world.changed(measurement=hashlib.sha256(content).digest()))
        with pytest.raises(ProtocolError) as refusal:
            host.grant(0)
    assert_only_measured_otherwise(refusal.value)
    assert world.debits() == [0, 0]
