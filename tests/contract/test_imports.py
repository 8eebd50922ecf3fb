"""Owners, auditors and verifiers need no compiler: these rooms import without TVM being there at all."""

import subprocess
import sys
from pathlib import Path

TESTS = str(Path(__file__).parents[1])


def test_rooms_of_the_relying_party_import_without_tvm():
    code = """
import sys
sys.modules["tvm"] = None  # importing it fails
import myelin.errors, myelin.wire, myelin.attest, myelin.contract, myelin.certificate
import myelin.log, myelin.broker, myelin.cli.serve, myelin.cli.log
import myelin.cli.keygen, myelin.cli.seal, myelin.cli.contract, myelin.cli.broker
import myelin.cli.verify, myelin.cli.open, myelin.cli.ledger
from myelin.contract import default_accountant
from reference_enclave import EVENT
assert 0 < default_accountant([EVENT.to_map()], 1e-5) < 1
"""
    path = f"import sys; sys.path.insert(0, {TESTS!r})\n"
    subprocess.run([sys.executable, "-c", path + code], check=True, timeout=60)
