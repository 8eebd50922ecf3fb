"""A whole session of owners, researcher and auditor at the command line, failures included, as a snapshot.

``owners.transcript`` holds commands, output and exit codes. After an intended change of wording, write it
anew with ``python tests/cli/test_transcript.py`` and read the difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from myelin.cli import run
from myelin.cli.progress import console
from myelin.contract import Broker, Identity, SignedContract, Store
from myelin.wire import decode, digest, encode
from reference_enclave import EVENT, POLICY, ReferenceEnclave, safetensors

TRANSCRIPT = Path(__file__).with_name("owners.transcript")

SCHEMA = """
[label]
column = "kind"
classes = ["benign", "malignant"]
[[columns]]
name = "radius"
lower = 0
upper = 30
[[columns]]
name = "texture"
lower = 0
upper = 50
"""


def draft(epsilon: str) -> str:
    event = "".join(
        f'{k} = "{v}"\n' if isinstance(v, str) else f"{k} = {v}\n" for k, v in EVENT.to_map().items()
    )
    owners = "".join(
        f'[[parties]]\nname = "{name}"\nrole = "owner"\npublic_key = "{name}.pub"\n'
        f'dataset = "{name}.sealed"\n'
        f"budget = {{ epsilon = {epsilon}, delta = 1e-5 }}\n"
        for name in ("north", "south")
    )
    researcher = '[[parties]]\nname = "researcher"\nrole = "researcher"\npublic_key = "researcher.pub"\n'
    return (
        f'name = "two hospitals"\nmeasurement = "{"11" * 32}"\nplan = "{"22" * 32}"\n'
        'policy = "insecure-simulated"\nexpires = 2100-01-01T00:00:00Z\nrecipients = ["researcher"]\n'
        f"release_records = true\n{owners}{researcher}[event]\n{event}"
    )


def prepare(folder: Path) -> None:
    """The files that the parties bring."""
    (folder / "schema.toml").write_text(SCHEMA)
    for name, count in (("north", 10), ("south", 20)):
        rows = [f"{i % 29 + 0.5},{i % 7},{('benign', 'malignant')[i % 2]}" for i in range(count)]
        (folder / f"{name}.csv").write_text("radius,texture,kind\n" + "\n".join(rows) + "\n")
    (folder / "bad.csv").write_text("radius,texture,kind\n1,2,benign\n1,,benign\n")
    (folder / "label.csv").write_text("radius,texture,kind\n1,2,benign\n1,2,normal\n")
    (folder / "contract.toml").write_text(draft("3.0"))
    (folder / "greedy.toml").write_text(draft("0.01"))
    (folder / "passphrase").write_text("correct horse\n")
    report = bytearray(1184)  # of a SEV-SNP guest, as nobody signed it
    struct.pack_into("<IIQ", report, 0, 2, 0, 1 << 17)
    struct.pack_into("<I", report, 0x34, 1)
    (folder / "report.bin").write_bytes(report)


def train(folder: Path) -> None:
    """What happens between the contract and the certificate: brokers and the reference enclave."""
    signed = SignedContract.load(folder / "run.contract")
    enclave = ReferenceEnclave(signed)
    identity = Identity.load(folder / "north.key")
    with Store.open(folder / "north.store", identity, witness=folder / "north.witness") as store:
        broker = Broker(identity, store, POLICY)
        nonce = decode(broker.answer(encode({"verb": "challenge"})))["nonce"]
        request = {
            "verb": "release",
            "contract": signed.to_bytes(),
            "evidence": enclave.attest(nonce, POLICY.digest),
            "hpke_key": enclave.hpke_key,
            "signing_key": enclave.signing_key,
            "nonce": nonce,
            "mode": "fresh",
        }
        answer = decode(broker.answer(encode(request)))
        assert answer["ok"], answer
    bundle, (sealed,) = enclave.finish(safetensors(np.arange(6, dtype=np.float32)))
    (folder / "certificate.cbor").write_bytes(bundle)
    (folder / "model.sealed").write_bytes(sealed)
    (folder / "forged.cbor").write_bytes(bundle[:-1] + bytes([bundle[-1] ^ 1]))


COMMANDS = """
keygen north
keygen north
keygen south --json
keygen researcher
keygen stranger --passphrase-file passphrase
seal bad.csv --schema schema.toml --owner north.key --epsilon 3 --delta 1e-5 -o north.sealed
seal label.csv --schema schema.toml --owner north.key --epsilon 3 --delta 1e-5 -o north.sealed
seal none.csv --schema schema.toml --owner north.key --epsilon 3 --delta 1e-5 -o north.sealed
seal north.csv --schema schema.toml --owner north.key -o north.sealed
seal north.csv --schema schema.toml --owner north.key --epsilon 3 -o north.sealed
seal north.csv --schema schema.toml --owner north.pub --epsilon 3 --delta 1e-5 -o north.sealed
seal north.csv --schema schema.toml --owner north.key --epsilon 3 --delta 1e-5 -o north.sealed
seal north.csv --schema schema.toml --owner north.key -o north.sealed
seal south.csv --schema schema.toml --owner south.key --epsilon 3 --delta 1e-5 -o south.sealed --json
contract new greedy.toml -o run.contract
contract new contract.toml -o run.contract
contract new contract.toml -o run.contract
contract sign run.contract --key stranger.key --passphrase-file passphrase
contract sign run.contract --key stranger.key
contract sign run.contract --key north.key
contract verify run.contract
contract sign run.contract --key south.key
contract sign run.contract --key researcher.key --json
contract show run.contract
contract verify run.contract --json
contract show north.csv
ledger show --owner north.key
# train
ledger show --owner north.key --json
ledger show --owner south.key --store north.store
ledger show --owner researcher.key
verify certificate.cbor --contract run.contract
verify certificate.cbor --contract run.contract --allow-simulated
verify certificate.cbor --allow-simulated
verify forged.cbor --contract run.contract --allow-simulated
verify north.csv
verify none.cbor
attest none.bin --policy production
attest north.csv --policy production
attest north.csv --kind tdx --policy production
attest report.bin --policy strict
attest report.bin --policy production --nonce 00112233445566778899aabbccddeeff
attest report.bin --policy production --explain
open model.sealed --key north.key -o model.safetensors
open model.sealed --key researcher.key --certificate certificate.cbor -o model.safetensors
open model.sealed --key researcher.key --certificate certificate.cbor --allow-simulated -o model.safetensors
open model.sealed --key researcher.key -o model.safetensors
open north.csv --key researcher.key -o other.safetensors
broker run --owner north.key --socket s --policy anything
broker run --owner researcher.key --socket s
verify
frobnicate
"""


def masked(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"[0-9a-f]{16,}…?", "<hex>", text)
    text = re.sub(r'"at_s": \d+', '"at_s": <now>', text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<now>", text)
    return "".join(line.rstrip() + "\n" for line in text.splitlines() if line.strip())


def transcript(folder: Path) -> str:
    """Run every command in ``folder`` and write down what it printed."""
    prepare(folder)
    before, width = os.getcwd(), console.width
    os.chdir(folder)
    console.width = 200
    lines = []
    try:
        for command in COMMANDS.strip().splitlines():
            if command == "# train":
                train(folder)
                continue
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                code = run(shlex.split(command))
            lines.append(f"$ myelin {command}\n{masked(out.getvalue())}[{code}]\n")
    finally:
        os.chdir(before)
        console.width = width
    return "\n".join(lines)


def test_transcript(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")
    started = time.monotonic()
    got = transcript(tmp_path)
    assert got == TRANSCRIPT.read_text("utf-8")
    assert time.monotonic() - started < 60
    assert not list(tmp_path.glob(".*.part"))
    assert digest((tmp_path / "model.safetensors").read_bytes())


if __name__ == "__main__":
    os.environ |= {"TERM": "dumb", "COLUMNS": "200"}
    with tempfile.TemporaryDirectory() as name:
        TRANSCRIPT.write_text(transcript(Path(name)), "utf-8")
