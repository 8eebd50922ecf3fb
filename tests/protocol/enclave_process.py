"""The enclave's state machine as a process, with the tests' small engine: built once, spoken to in frames."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from functools import cache
from pathlib import Path
from types import TracebackType

import cbor2

ROOT = Path(__file__).resolve().parents[2]
ENCLAVE = ROOT / "enclave"

# The facts of the tests' small engine (enclave/job/tests/support/engine.rs).
PLAN_DIGEST = hashlib.sha256(b"plan").digest()
RECORD_BYTES = 9
STEPS = 5
_TENSOR = b'{"weight":{"dtype":"U8","shape":[32],"data_offsets":[0,32]}}'
MODEL_HEADER = struct.pack("<Q", len(_TENSOR)) + _TENSOR
EVENT_NUMBERS = {
    "sampling_threshold": (1 << 63) + 12345,
    "capacity": 6,
    "steps": STEPS,
    "noise_multiplier_e9": 3_000_000_000,
    "clipping_norm_e9": 1_000_000_000,
    "sensitivity_e9": 1_000_001_234,
    "expected_batch_size": 4,
    "parameters": 8,
}


class RefusedError(Exception):
    """The enclave answered an error."""

    def __init__(self, number: int, detail: str) -> None:
        super().__init__(f"{number}: {detail}")
        self.number = number


@cache
def executable() -> Path:
    """Build the example, and answer where it is."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ENCLAVE / "target"))
    command = ["cargo", "build", "--quiet", "--locked", "-p", "myelin-job", "--example", "enclave"]
    subprocess.run(command, cwd=ENCLAVE, check=True, timeout=600)
    return target / "debug" / "examples" / "enclave"


class EnclaveProcess:
    """One boot. ``call(code, *fields)`` answers the results, or raises :class:`RefusedError`."""

    def __init__(self, seed: int, record_bytes: int = RECORD_BYTES, *, is_asked: bool = False) -> None:
        words = [executable(), str(seed), str(record_bytes), *(["asked"] if is_asked else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> EnclaveProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=10) == 0, "the state machine panicked"

    def send(self, message: bytes) -> bytes:
        """One message, one answer, as bytes."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(struct.pack("<I", len(message)) + message)
        stdin.flush()
        (length,) = struct.unpack("<I", stdout.read(4))
        return stdout.read(length)

    def call(self, code: int, *fields: object) -> list[object]:
        reply = self.send(cbor2.dumps([code, *fields], canonical=True))
        status, *results = cbor2.loads(reply)
        assert cbor2.dumps([status, *results], canonical=True) == reply, "an answer that is not deterministic"
        if status == 1:
            raise RefusedError(results[0], results[1])
        assert status == 0
        return results
