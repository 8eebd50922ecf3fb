"""The object file: what it needs, that every build gives the same, and results for any number of threads."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from elftools.elf.elffile import ELFFile
from networks import case

ALLOWED = {
    "TVMFFIErrorSetRaisedFromCStrParts",
    "TVMFFIErrorSetRaisedFromCStr",
    "__TVMBackendParallelLaunch",
    "__TVMBackendAllocWorkspace",
    "__TVMBackendFreeWorkspace",
    "memcpy",
    "memmove",
    "memset",
}
HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["cnn", "grouped", "odd cnn", "tokens"])
def test_the_object_needs_no_more_than_the_abi_allows(name):
    scheduled = case(name).scheduled
    symbols = list(ELFFile(io.BytesIO(scheduled.object)).get_section_by_name(".symtab").iter_symbols())
    undefined = {s.name for s in symbols if s.entry.st_shndx == "SHN_UNDEF" and s.name}
    assert undefined <= ALLOWED
    assert set(scheduled.kernels) <= {s.name for s in symbols if s.entry.st_shndx != "SHN_UNDEF"}


def test_hot_kernels_need_no_workspace():
    symbols = ELFFile(io.BytesIO(case("cnn").scheduled.object)).get_section_by_name(".symtab").iter_symbols()
    assert not [s.name for s in symbols if "Workspace" in s.name]


SCRIPT = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from networks import Case
s = Case("mlp", 5, "x86-64-v3").scheduled
plan = repr((s.kernels, s.tensors, s.prepare, s.step, s.update, s.roles))
print(hashlib.sha256(s.object + plan.encode()).hexdigest())
"""


def test_two_builds_in_different_folders_are_identical(tmp_path):
    digests = set()
    for seed in ("1", "77"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TMPDIR": str(folder)}
        command = [sys.executable, "-c", SCRIPT, str(HERE), str(HERE.parent)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.split()[-1])
    s = case("mlp", target="x86-64-v3").scheduled
    plan = repr((s.kernels, s.tensors, s.prepare, s.step, s.update, s.roles)).encode()
    assert digests == {hashlib.sha256(s.object + plan).hexdigest()}


THREADS = """
import hashlib, pickle, sys
from myelin.schedule import NativeProgram
with open(sys.argv[1], "rb") as file:
    scheduled, batch = pickle.load(file)
sums, norms, _ = NativeProgram(scheduled).run_step(*batch)
print(hashlib.sha256(b"".join(s.tobytes() for s in sums) + norms.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("threads", ["1", "3"])
def test_results_are_the_same_for_any_number_of_threads(threads, tmp_path):
    c = case("cnn", 64)
    file = tmp_path / "scheduled"
    file.write_bytes(pickle.dumps((c.scheduled, c.batch())))
    sums, norms, _ = c.native.run_step(*c.batch())
    here = hashlib.sha256(b"".join(s.tobytes() for s in sums) + norms.tobytes()).hexdigest()
    environment = {**os.environ, "TVM_NUM_THREADS": threads}
    command = [sys.executable, "-c", THREADS, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == here


def test_no_two_live_tensors_overlap():
    s = case("cnn", 64).scheduled
    fixed = {s.roles.features, s.roles.labels, s.roles.mask, s.roles.norms, s.roles.contributing}
    fixed |= {i for r in s.roles.parameters for i in (r.value, r.clipped_sum, r.noisy_gradient)}
    fixed |= {*s.roles.zeroed, s.roles.step_number} - {None}
    spans = {}
    fixed |= {i for call in s.prepare for i in call.outputs}
    shared = {i for i, t in enumerate(s.tensors) if t.offset < s.shared_bytes}
    assert not shared & {i for call in s.step for i in call.outputs}
    assert shared >= {i for call in s.prepare for i in (*call.inputs, *call.outputs)}
    for time, call in enumerate([*s.step, *s.update]):
        for tensor in (*call.inputs, *call.outputs):
            spans.setdefault(tensor, [time, time])[1] = time
    for tensor in fixed:
        spans[tensor] = [0, 1 << 30]
    end = {i: t.offset + t.size_bytes for i, t in enumerate(s.tensors)}
    assert all(t.offset % 64 == 0 for t in s.tensors)
    assert max(end.values()) <= s.arena_bytes()
    assert all(end[i] <= s.shared_bytes for i in shared)
    for a, (first, last) in spans.items():
        for b, (start, stop) in spans.items():
            if a < b and start <= last and first <= stop:
                separate = end[a] <= s.tensors[b].offset or end[b] <= s.tensors[a].offset
                assert separate, (a, b)
    assert np.sum([t.size_bytes for t in s.tensors]) > s.arena_bytes()
