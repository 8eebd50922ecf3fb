"""Takes one defence of the relying party away at a time, and wants the tests to notice. Only when asked for:

``MYELIN_PLANTED_BUGS=1 pytest tests/contract/test_planted_broker_bugs.py``
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ("tests/attest", "tests/certificate", "tests/contract", "tests/wire")

# File below src/myelin, text that occurs there once, what stands in its place.
BUGS = [
    ("contract/broker.py", "request.signed.verify()\n", "pass\n"),
    ("contract/broker.py", "if now_s >= contract.expires_s:", "if False:"),
    ("contract/broker.py", "if contract.policy != self._policy.digest:", "if False:"),
    ("contract/broker.py", "self._appraise(request, int(now_s))\n", "pass\n"),
    ("contract/broker.py", "self._nonces.use(request.nonce, now_s)\n", "pass\n"),
    ("contract/broker.py", "if issued_s is None:", "if False:"),
    ("contract/broker.py", "if not 0 <= now_s - issued_s <= _NONCE_LIFE_S:", "if False:"),
    ("contract/broker.py", "if self._only is not None and signed.digest != self._only:", "if False:"),
    ("contract/broker.py", "if party not in signed.contract.owners:", "if False:"),
    ("contract/broker.py", "if given is not None:", "if False:"),
    ("contract/broker.py", "contract.event if fresh else None", "None"),
    ("contract/broker.py", "if signed != expected:", "if False:"),
    ("contract/broker.py", "if kept.sealed_digest != digest(sealed):", "if False:"),
    (
        "contract/broker.py",
        'given = self._ledger.answer(contract, run, "fresh")',
        "given = self._ledger.answer(contract, run)",
    ),
    ("contract/ledger.py", "if not self.budget.allows(total):", "if False:"),
    ("contract/ledger.py", "if not agreed.allows(of_contract):", "if False:"),
    ("contract/store.py", "if count > len(self._entries):", "if False:"),
    (
        "contract/store.py",
        "if not hmac.compare_digest(chain, _chain(",
        "if False and not hmac.compare_digest(chain, _chain(",
    ),
    ("contract/store.py", 'self._connection.execute("COMMIT")', 'self._connection.execute("ROLLBACK")'),
    ("contract/agreement.py", "if signature is None:", "if False:"),
    ("contract/dataset.py", '"big") + bytes([last])', '"big") + bytes([0])'),
    (
        "attest/appraise.py",
        "Verdict.PASSED if claims.measurement in reference.measurements",
        "Verdict.PASSED if True",
    ),
    (
        "certificate/verify.py",
        "groups = [_signature_check(read), attestation.checks]",
        "groups = [attestation.checks]",
    ),
    ("certificate/verify.py", "nonce=digest(read.signed)", "nonce=bytes(32)"),
    ("certificate/verify.py", "if allow_simulated and evidence", "if evidence"),
    ("certificate/verify.py", "_event_check(contract.event, certificate.event),", ""),
    ("wire/cose.py", "except InvalidSignature", "except ZeroDivisionError"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("MYELIN_PLANTED_BUGS") != "1":
        pytest.skip("takes minutes: set MYELIN_PLANTED_BUGS=1")
    root = tmp_path_factory.mktemp("planted")
    for name in ("src", "tests", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def passes(root: Path) -> bool:
    """Whether the relying party's tests pass on the copy."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
    command += ["--deselect", "tests/contract/test_planted_broker_bugs.py"]
    environment.pop("MYELIN_PLANTED_BUGS")
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode in (0, 1, 2), run.stdout + run.stderr
    return run.returncode == 0


def test_the_tests_pass_without_a_bug(copy: Path) -> None:
    assert passes(copy)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "original", "bug"), BUGS, ids=[f"{b[0]}:{b[1][:40]}" for b in BUGS])
def test_a_planted_bug_is_noticed(copy: Path, file: str, original: str, bug: str) -> None:
    path = copy / "src" / "myelin" / file
    source = path.read_text("utf-8")
    assert source.count(original) == 1, f"{file}: {original!r} occurs {source.count(original)} times"
    path.write_text(source.replace(original, bug), "utf-8")
    try:
        assert not passes(copy), f"{file}: nothing noticed that {original!r} is gone"
    finally:
        path.write_text(source, "utf-8")


@pytest.mark.parametrize(("file", "original", "bug"), BUGS, ids=[f"{b[0]}:{b[1][:40]}" for b in BUGS])
def test_every_planted_bug_has_its_place(file: str, original: str, bug: str) -> None:
    assert (ROOT / "src" / "myelin" / file).read_text("utf-8").count(original) == 1
