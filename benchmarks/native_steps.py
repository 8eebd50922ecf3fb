"""Steps of the image's own engine in this process (benchmarks/native), from what ``myelin_build`` wrote."""

from __future__ import annotations

import ctypes
import json
import os
import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .workloads import Workload

HERE = Path(__file__).resolve().parent
_FLAGS = (
    "-Ctarget-feature=+aes",
    "-Cllvm-args=-disable-cgp-select2branch -x86-cmov-converter=0",
    '--cfg=sha2_backend="soft"',
    '--cfg=chacha20_backend="soft"',
    '--cfg=poly1305_backend="soft"',
    "--cfg=poly1305_force_soft",
    '--cfg=curve25519_dalek_backend="serial"',
)


def library(target_flags: list[str]) -> Path:
    """Build the engine for this process, or answer the one that is up to date (cargo decides)."""
    flags = (*target_flags, *_FLAGS)
    environment = {**os.environ, "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags)}
    command = ["cargo", "build", "--release", "--quiet", "--locked"]
    subprocess.run(command, cwd=HERE / "native", env=environment, check=True)
    return HERE / "native" / "target" / "release" / "libmyelin_native.so"


def records(workload: Workload, count: int) -> Iterator[bytes]:
    """Each record as the plan has it, the same at every call: features float32, then the label as int32."""
    source = random.Random(7)
    features = 1
    for size in workload.shape:
        features *= size
    for index in range(count):
        if workload.kind == "tokens":
            values = [float(source.randrange(workload.vocabulary)) for _ in range(features)]
        else:
            # Whole bytes of randomness: a thousandth of the calls.
            values = [byte / 255 for byte in source.randbytes(features)]
        yield struct.pack(f"<{features}fi", *values, index % workload.classes)


def open_steps(folder: Path, workload: Workload, plain: bool, threads: int) -> Callable[[], None]:
    """Load kernels and plan, feed the records, lend the other threads; a function that does one step."""
    facts = json.loads((folder / "facts.json").read_text())
    engine = ctypes.CDLL(str(library(facts["target_flags"])))
    kernels = ctypes.CDLL(str(folder / "kernels.so"))
    callbacks = (ctypes.c_void_p * 5)()
    engine.myelin_callbacks(callbacks)
    kernels.myelin_set_callbacks(callbacks)
    table = ctypes.addressof(ctypes.c_void_p.in_dll(kernels, "myelin_kernel_table"))
    count = ctypes.c_ulong.in_dll(kernels, "myelin_kernel_count").value
    engine.myelin_open.restype = ctypes.c_void_p
    parts: list[object] = []
    for part in ((folder / "plan.cbor").read_bytes(), (folder / "params.bin").read_bytes()):
        parts += [ctypes.c_char_p(part), ctypes.c_size_t(len(part))]
    steps = engine.myelin_open(
        *parts, ctypes.c_void_p(table), ctypes.c_size_t(count), ctypes.c_size_t(threads)
    )
    if not steps:
        raise RuntimeError(f"{workload.name}: the engine refused the plan; see standard error")
    batch = workload.batch if plain else 0
    # One by one: who is measured holds the records once.
    for record in records(workload, workload.dataset_size):
        if engine.myelin_accept(ctypes.c_void_p(steps), record, ctypes.c_size_t(len(record))):
            raise RuntimeError(f"{workload.name}: a record was refused; see standard error")
    if engine.myelin_begin(ctypes.c_void_p(steps), ctypes.c_uint32(workload.dataset_size)):
        raise RuntimeError(f"{workload.name}: the records were refused; see standard error")

    def step() -> None:
        if engine.myelin_step(ctypes.c_void_p(steps), ctypes.c_size_t(batch)):
            raise RuntimeError(f"{workload.name}: a step failed; see standard error")

    return step


def noise_rate(target_flags: list[str]) -> float:
    """Draws of noise that this thread makes in a second, in 10⁶: the best of several times a million."""
    engine, count = ctypes.CDLL(str(library(target_flags))), 1 << 20
    least = float("inf")
    for step in range(10):
        start = time.perf_counter()
        engine.myelin_noise(ctypes.c_uint64(step), ctypes.c_size_t(count))
        least = min(least, time.perf_counter() - start)
    return round(count / least / 1e6, 1)


def parameters(folder: Path) -> int:
    """Trainable numbers, as the build counted them."""
    return int(json.loads((folder / "facts.json").read_text())["parameters"])
