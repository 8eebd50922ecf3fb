"""Takes one defence away at a time, and wants the Rust tests to notice. Takes minutes: only when asked for.

``MYELIN_PLANTED_BUGS=1 pytest tests/protocol/test_planted_bugs.py``
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from enclave_process import ENCLAVE, ROOT

# File, text that occurs there once, what stands in its place.
BUGS = [
    ("wire/src/cose.rs", '.map_err(|_| invalid("does not verify"))', ".or(Ok(()))"),
    ("wire/src/cose.rs", "if header != protected(content_type)", "if false"),
    ("wire/src/cose.rs", "if parts.payload.is_some()", "if false"),
    ("wire/src/reader.rs", "if self.decoder.position() == self.decoder.input().len()", "if true"),
    ("wire/src/reader.rs", "if self.decoder.position() - start == head_bytes(value)", "if true"),
    ("wire/src/event.rs", ".find(|(_, a, b)| a != b)", ".take(8).find(|(_, a, b)| a != b)"),
    ("wire/src/contract.rs", "if researchers != 1", "if researchers > 1"),
    ("wire/src/contract.rs", "if names.contains(&name)", "if false"),
    ("wire/src/contract.rs", "if !owners.eq(self.owners())", "if false"),
    ("wire/src/contract.rs", "if self.records() != self.event.dataset_size", "if false"),
    ("wire/src/contract.rs", "if !self.recipients.is_sorted_by(|a, b| a < b)", "if false"),
    ("wire/src/message.rs", "if message.len() > MESSAGE_BYTES_MAX", "if false"),
    ("seal/src/grant.rs", ".bytes(self.boot)", ".bytes(&[])"),
    ("seal/src/grant.rs", ".bytes(self.measurement)", ".bytes(&[])"),
    ("seal/src/grant.rs", '("fresh", None, None, None) => None', '("fresh", ..) => None'),
    ("seal/src/dataset.rs", "if is_last && running.clone().finish() != self.expected_digest", "if false"),
    ("seal/src/dataset.rs", 'if reader.fixed("schema")? != expected.schema', "if false"),
    ("seal/src/dataset.rs", "index != u64::from(self.next)", "false"),
    ("seal/src/dataset.rs", "running.update(prefix)", "running.update(&[])"),
    ("seal/src/dataset.rs", "if !key_commitment(data_key, &salt)?.equals(&commitment)", "if false"),
    ("seal/src/sealing.rs", "if randomness.exhausted", "if true"),
    ("seal/src/share.rs", "last.xor(&share);", ""),
    ("job/src/admission.rs", "if slot.is_some()", "if false"),
    ("job/src/admission.rs", "a.run == b.run && a.check.equals(&b.check)", "a.check.equals(&b.check)"),
    ("job/src/admission.rs", "a.run == b.run && a.check.equals(&b.check)", "a.run == b.run"),
    ("job/src/admission.rs", "if !job_key_check(&key, &contract.digest)?.equals(&resume.check)", "if false"),
    ("job/src/admission.rs", "(None, None) => {}", "(None, _) => {}"),
    ("job/src/admission.rs", "(None, None) => {}", "(_, None) => {}"),
    ("job/src/deposits.rs", "if payload != expected", "if false"),
    ("job/src/deposits.rs", "if deposit.is_stored", "if false"),
    ("job/src/agreement.rs", ".is_none_or(|deposits| deposits.missing() > 0)", ".is_none()"),
    ("job/src/agreement.rs", "if !self.loading.is_complete(&self.contract)", "if false"),
    ("job/src/loading.rs", "if self.open.is_some() || index != at as u64", "if self.open.is_some()"),
    ("job/src/loading.rs", "error.code.meaning()", "error.detail"),
    ("job/src/job.rs", "if contract.measurement != boot.measurement", "if false"),
    ("job/src/job.rs", "if contract.plan != self.facts.plan_digest", "if false"),
    ("job/src/job.rs", "contract.verify(bytes, signatures)?;", ""),
    ("job/src/job.rs", "contract.records() > self.facts.max_records.min(u32::MAX.into())", "false"),
    ("job/src/job.rs", "if training.steps_done != self.facts.steps", "if false"),
    ("job/src/job.rs", "if agreement.deposits.is_none()", "if true"),
    ("job/src/job.rs", "if !admitted.is_fresh", "if false"),
    ("job/src/job.rs", "if error.fatal {", "if false {"),
    ("job/src/job.rs", "self.boot = None;\n        self.engine = None;", "self.boot = None;"),
    ("job/src/release.rs", "engine.nonfinite())", "0)"),
    ("job/src/release.rs", "contract.recipients.iter()", "[0, 1, 2].iter()"),
    ("simulated/src/lib.rs", ".bytes(report_data)", ".bytes(&[0; 64])"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("MYELIN_PLANTED_BUGS") != "1":
        pytest.skip("takes minutes: set MYELIN_PLANTED_BUGS=1")
    root = tmp_path_factory.mktemp("planted")
    shutil.copytree(ENCLAVE, root / "enclave", ignore=shutil.ignore_patterns("target"))
    shutil.copytree(ROOT / "docs", root / "docs")
    return root / "enclave"


def passes(workspace: Path) -> bool:
    """Whether all tests pass. What is compiled again and again is not optimised, its dependencies are."""
    command = ["cargo", "--config", 'profile.dev.package."*".opt-level=2', "test", "--quiet"]
    for crate in ("wire", "seal", "simulated", "job"):
        command += ["-p", f"myelin-{crate}"]
    environment = os.environ | {"CARGO_PROFILE_DEV_OPT_LEVEL": "0", "CARGO_PROFILE_DEV_DEBUG": "0"}
    run = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert "test result: " in run.stdout, run.stderr
    return run.returncode == 0


def test_the_tests_pass_without_a_bug(copy: Path):
    assert passes(copy)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "original", "bug"), BUGS, ids=[f"{b[0]}:{b[1][:40]}" for b in BUGS])
def test_a_planted_bug_is_noticed(copy: Path, file: str, original: str, bug: str):
    path = copy / file
    source = path.read_text("utf-8")
    assert source.count(original) == 1, f"{file}: {original!r} occurs {source.count(original)} times"
    path.write_text(source.replace(original, bug), "utf-8")
    try:
        assert not passes(copy), f"{file}: nothing noticed that {original!r} is gone"
    finally:
        path.write_text(source, "utf-8")
