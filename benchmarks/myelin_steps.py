"""Myelin as a measured system: plain and private outside of an enclave, private in one, and inference.

A workload is compiled once into ``benchmarks/.build``, and again when any source of the compiler changed. The
process that is measured holds neither compiler nor NumPy; in ``private_enclave`` mode the enclave is a
process of its own, and its memory is what counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from myelin.host import best_target

from .protocol import Prepared, Unavailable
from .workloads import INFERENCE, Workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODES = ("plain", "private", "private_enclave")
_PYTHON = ROOT / ".venv" / "bin" / "python"
_BUILD_SECONDS = 600


def prepare(workload: Workload, mode: str, threads: int) -> Prepared:
    """Compile if needed, and give one step; see protocol.py."""
    if mode in {f"inference_b{batch}" for batch in INFERENCE.get(workload.name, ())}:
        return _inference(workload, int(mode.removeprefix("inference_b")))
    if mode not in MODES:
        raise Unavailable(f"there is no mode {mode} of {workload.name}")
    folder = built(workload, mode)
    facts = json.loads((folder / "facts.json").read_text())
    step, process = _step(folder, workload, mode, threads)
    return Prepared(
        step,
        facts["parameters"],
        versions={"target": facts["target"]},
        facts=lambda: _facts(facts, threads),
        process=process,
    )


def _facts(facts: dict[str, Any], threads: int) -> dict[str, float]:
    """What the build measured, kernels on one thread; and how fast noise is drawn here and now."""
    known = {name: facts[name] for name in ("build_s", "rebuild_s") if name in facts}
    if threads == 1:
        timed = ("product_gflops", *(name for name in facts if name.endswith("_ms")))
        known |= {name: facts[name] for name in timed if name in facts}
    if threads == 1 and facts["mode"] == "private":
        from .native_steps import noise_rate

        known["noise_mdraws"] = noise_rate(facts["target_flags"])
    return known


def _inference(workload: Workload, batch: int) -> Prepared:
    from .native_inference import open_inference

    step, parameters = open_inference(workload, batch)
    return Prepared(step, parameters)


def _step(
    folder: Path, workload: Workload, mode: str, threads: int
) -> tuple[Callable[[], object], int | None]:
    """A function that does one step, and the process that works if it is another one."""
    if mode == "private_enclave":
        from .enclave_steps import open_enclave

        return open_enclave(folder, workload, threads)
    from .native_steps import open_steps

    return open_steps(folder, workload, mode == "plain", threads), None


def built(workload: Workload, mode: str) -> Path:
    """The folder of the compiled workload; compiles it if it is not there or its sources changed.

    Raises:
        Unavailable: the compiler refused or failed; its last line is the reason.
    """
    folder = HERE / ".build" / f"{workload.name}-{mode}"
    stamp = folder / "stamp"
    digest = sources()
    if stamp.is_file() and stamp.read_text() == digest:
        return folder
    stamp.unlink(missing_ok=True)
    python = _PYTHON if _PYTHON.exists() else Path(sys.executable)
    command = [python, "-m", "benchmarks.myelin_build", workload.name, mode, folder]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            # The rates that a build measures are those of one thread.
            env={**os.environ, "TVM_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"compiling took more than {_BUILD_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if re.match(r"[\w.]*Error\b", line)]
        raise Unavailable((lines or ["the compiler failed"])[-1])
    stamp.write_text(digest)
    return folder


def sources() -> str:
    """Digest of everything that a build depends on, the processor's instructions included."""
    state = hashlib.sha256(best_target().encode())
    for path in sorted(_sources()):
        state.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def _sources() -> Iterator[Path]:
    for room in ("model", "graph", "privacy", "schedule", "image", "contract", "zoo"):
        yield from (ROOT / "src" / "myelin" / room).rglob("*.py")
    for crates in (ROOT / "enclave", HERE / "native"):
        yield from (p for p in crates.rglob("*.rs") if "target" not in p.relative_to(crates).parts)
    yield from (HERE / name for name in ("myelin_build.py", "workloads.py"))


def main() -> None:
    """Compile workloads: ``python -m benchmarks.myelin_steps [WORKLOAD …]``."""
    from .workloads import WORKLOADS

    for name in sys.argv[1:] or WORKLOADS:
        for mode in MODES:
            try:
                print(name, mode, (built(WORKLOADS[name], mode) / "facts.json").read_text())
            except Unavailable as reason:
                print(name, mode, "unavailable:", reason)


if __name__ == "__main__":
    main()
