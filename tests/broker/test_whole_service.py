"""Everything as processes: a log, a TPM, two brokers that witness each other, and whoever verifies."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from anchoring import software_tpm

from myelin.errors import ProtocolError
from myelin.train import BrokerConnection
from reference_enclave import ReferenceEnclave, make_agreement


@contextlib.contextmanager
def command(folder, socket, *words):
    """A command that serves on ``socket`` until it is stopped."""
    with open(folder / f"{socket}.out", "a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "myelin.cli", *map(str, words), "--socket", socket],
            cwd=folder,
            stdout=out,
            stderr=out,
        )
    try:
        for _ in range(800):
            if (folder / socket).exists():
                break
            assert process.poll() is None, (folder / f"{socket}.out").read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / f"{socket}.out").read_text()


def broker(folder, name, other, index):
    anchors = (
        "--witness",
        f"{other}=http+unix:{other}.s",
        "--log",
        "http+unix:log.s",
        "--log-key",
        "log.pub",
    )
    tpm = ("--tpm", folder / "tpm" / "tpm.sock", "--tpm-index", index)
    words = ("broker", "serve", "--owner", f"{name}.key", "--insecure-accept-simulated-evidence")
    return command(folder, f"{name}.s", *words, *anchors, *tpm)


def release(agreement, folder, name, boot):
    with BrokerConnection(f"http+unix:{folder / name}.s") as connection:
        nonce, policy = connection.challenge()
        evidence = boot.attest(nonce, policy)
        keys = (boot.hpke_key, boot.signing_key)
        return connection.release(agreement.signed.to_bytes(), evidence, *keys, nonce, "fresh")


def run(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", "myelin.cli", *words], cwd=folder, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_under_every_anchor_and_an_older_copy_put_back(tmp_path):
    if shutil.which("swtpm") is None:
        pytest.skip("swtpm is not installed")
    agreement = make_agreement(tmp_path)
    agreement.signed = agreement.changed(
        expires_s=int(time.time()) + 3600, anchors=("log", "tpm", "witnesses")
    )
    agreement.signed.save(tmp_path / "two.contract")
    for owner in agreement.owners:
        owner.store.close()
        owner.identity.save(tmp_path)
    assert run(tmp_path, "keygen", "log")[0] == 0
    boot = ReferenceEnclave(agreement.signed)
    log = ("--log", "http+unix:log.s", "--log-key", "log.pub")
    with (
        software_tpm(tmp_path / "tpm"),
        command(tmp_path, "log.s", "log", "serve", "--key", "log.key", "--store", "public.log"),
    ):
        with (
            broker(tmp_path, "north", "south", "0x01800101"),
            broker(tmp_path, "south", "north", "0x01800102"),
        ):
            for party, name in enumerate(("north", "south")):
                grant = release(agreement, tmp_path, name, boot)
                assert (grant.party, grant.debited) == (party, True)
        shutil.copy(tmp_path / "north.store", tmp_path / "older")
        with (
            broker(tmp_path, "north", "south", "0x01800101"),
            broker(tmp_path, "south", "north", "0x01800102"),
        ):
            release(agreement, tmp_path, "north", ReferenceEnclave(agreement.signed))

        (tmp_path / "certificate.cbor").write_bytes(boot.finish(b"model")[0])
        made = ("two.contract", "--certificate", "certificate.cbor")
        assert run(tmp_path, "log", "add", *made, *log)[0] == 0
        for _ in range(2):  # the second time it is held to what was seen at the first
            code, shown = run(tmp_path, "log", "prove", *made, *log, "--seen", "log.seen", "-o", "proof")
            assert code == 0, shown
        proof = ("--log-proof", "proof", "--log-key", "log.pub", "--log-seen", "log.seen")
        verify = ("verify", "certificate.cbor", "--contract", "two.contract", "--allow-simulated")
        code, shown = run(tmp_path, *verify, *proof)
        assert code == 0, shown
        assert "ledger of south in the log" in shown
        code, shown = run(tmp_path, *verify, *proof[:2], "--log-key", "north.pub")  # another log's key
        assert (code, "FAIL log checkpoint" in shown) == (1, True), shown

        shutil.copy(tmp_path / "older", tmp_path / "north.store")
        (tmp_path / "north.witness").unlink()  # what only lies beside the store can be put back as well
        with (
            broker(tmp_path, "north", "south", "0x01800101"),
            broker(tmp_path, "south", "north", "0x01800102"),
            pytest.raises(ProtocolError) as caught,
        ):
            release(agreement, tmp_path, "north", ReferenceEnclave(agreement.signed))
        assert caught.value.name == "ledger_rolled_back"
