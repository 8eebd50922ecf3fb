"""Which systems are measured in which modes, and with which interpreter and settings each runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .workloads import INFERENCE

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "bench"
"""What peers and the harness compile is kept here between runs."""

THREADS = (1, 2)

TRAINING = (
    ("myelin", "plain"),
    ("myelin", "private"),
    ("myelin", "private_enclave"),
    ("pytorch", "plain"),
    ("pytorch", "plain_compiled"),
    ("jax", "plain_compiled"),
    ("opacus", "private_hooks"),
    ("opacus", "private_ghost"),
    ("opacus", "private_ew"),
    ("fastdp", "private"),
    ("jax-privacy", "private"),
)
"""Systems and their modes of a training step, in the order in which a round goes through them."""

_WHOLE_GRADIENTS = (
    "left out: keeps every example's whole gradient as hooks do, which here is several times slower than "
    "ghost clipping"
)
LEFT_OUT = {
    ("mlp", "opacus", "private_ew"): _WHOLE_GRADIENTS,
    ("mlp_2048", "opacus", "private_ew"): _WHOLE_GRADIENTS,
    ("lstm", "opacus", "private_ew"): "expanded weights have no rule for an LSTM",
    ("lstm", "fastdp", "private"): "FastDP has no rule for an LSTM: it would train without its gradient",
}
"""What is not measured by decision, and the reason that the report gives."""

INFERRING = ("myelin", "onnxruntime")

PRELOADS = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
"""Allocators that suit tensors, the best first. Debian's package is libtcmalloc-minimal4."""

TUNED_GLIBC = ("trim_threshold=17179869184", "mmap_threshold=8589934592", "mmap_max=0")
"""Without such an allocator: the C library's, told to keep what it has, so no step faults pages in anew."""


@dataclass(frozen=True, order=True)
class Case:
    """One measured process."""

    workload: str
    system: str
    mode: str
    threads: int

    def __str__(self) -> str:
        return f"{self.workload} {self.system} {self.mode}, {self.threads} thread{'s'[: self.threads - 1]}"


def cases_of(workload: str, threads: int) -> list[Case]:
    """Everything that is measured of one workload at one number of threads."""
    pairs = list(TRAINING)
    for batch in INFERENCE.get(workload, ()):
        pairs += [(system, f"inference_b{batch}") for system in INFERRING]
    return [Case(workload, system, mode, threads) for system, mode in pairs]


def interpreter(system: str) -> Path:
    """Python of the environment that has the system: Myelin's own, or the peers'."""
    folder = ROOT if system == "myelin" else ROOT / "benchmarks"
    return folder / ".venv" / "bin" / "python"


def find_preload(folders: tuple[str, ...] = ("/usr/lib", "/usr/local/lib", "/usr/lib64")) -> Path | None:
    """A tuned allocator of this machine, or nothing."""
    for name in PRELOADS:
        for folder in folders:
            for found in [Path(folder) / name, *sorted(Path(folder).glob(f"*-linux-gnu/{name}"))]:
                if found.exists():
                    return found
    return None


def describe_allocator(preload: Path | None) -> str:
    """The allocator in words, for the report."""
    if preload is not None:
        return f"{preload.name}, preloaded into every process, never giving memory back"
    return f"the C library's, tuned: {', '.join(TUNED_GLIBC)}"


def environment(threads: int, cores: list[int], preload: Path | None) -> dict[str, str]:
    """Variables of a measured process. Every system gets the same."""
    variables = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "FASTDP", "TMPDIR"}}
    count = str(threads)
    variables |= {
        "BENCH_CORES": ",".join(map(str, cores)),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "TVM_NUM_THREADS": count,
        "PYTHONHASHSEED": "0",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
        "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "HF_HUB_OFFLINE": "1",
    }
    if preload is not None:
        return variables | {"LD_PRELOAD": str(preload), "TCMALLOC_RELEASE_RATE": "0"}
    return variables | {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{setting}" for setting in TUNED_GLIBC)}
