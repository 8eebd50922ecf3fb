"""``myelin broker run`` as its own process: serves, logs no secret, stops when asked, and fails closed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from myelin.contract import Ledger
from myelin.errors import ProtocolError
from myelin.train import BrokerConnection
from reference_enclave import BUDGET, ReferenceEnclave, make_agreement


@pytest.fixture
def world(tmp_path):
    agreement = make_agreement(tmp_path, BUDGET)
    agreement.owners[0].identity.save(tmp_path)
    agreement.signed = agreement.changed(expires_s=int(time.time()) + 600)
    agreement.signed.save(tmp_path / "run.contract")
    return agreement


def start(folder, *options):
    words = ["broker", "run", "--owner", "north.key", "--socket", "s", "--contract", "run.contract", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "myelin.cli", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not (folder / "s").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def release(agreement, folder):
    enclave = ReferenceEnclave(agreement.signed)
    with BrokerConnection(folder / "s") as broker:
        nonce, policy = broker.challenge()
        evidence = enclave.attest(nonce, policy)
        contract = agreement.signed.to_bytes()
        grant = broker.release(contract, evidence, enclave.hpke_key, enclave.signing_key, nonce, "fresh")
    return enclave.accept({"party": grant.party, "grant": grant.sealed})


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serves_and_stops(world, tmp_path, stop):
    owner = world.owners[0]
    process = start(tmp_path, "--insecure-accept-simulated-evidence")
    grant = release(world, tmp_path)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert grant["data_key"] == owner.data_key
    text = (out + err).decode()
    assert "INSECURE" in text
    assert "released: contract" in text
    assert "broker stopped" in text
    assert owner.data_key.hex() not in text
    assert len(Ledger(owner.store).debits()) == 1
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "north.witness").exists()


def test_without_the_insecure_option_simulated_enclaves_get_nothing(world, tmp_path):
    process = start(tmp_path)
    with pytest.raises(ProtocolError, match="wrong_policy"):
        release(world, tmp_path)
    process.terminate()
    assert process.wait(60) == 0
    assert len(Ledger(world.owners[0].store).debits()) == 0


def test_a_ledger_put_back_is_refused_at_start(world, tmp_path):
    world.owners[0].store.backup(tmp_path / "older")
    process = start(tmp_path, "--insecure-accept-simulated-evidence")
    release(world, tmp_path)
    process.terminate()
    process.wait(60)
    world.owners[0].store.close()  # the last to close it: nothing of it is left in another file
    assert not (tmp_path / "north.store-wal").exists()
    (tmp_path / "north.store").write_bytes((tmp_path / "older").read_bytes())
    process = start(tmp_path, "--insecure-accept-simulated-evidence")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"ledger_damaged" in err
    assert b"older copy" in b" ".join(err.split())
    assert os.path.exists(tmp_path / "north.store")
