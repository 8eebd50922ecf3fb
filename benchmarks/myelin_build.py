"""Compile a workload for Myelin: ``python -m benchmarks.myelin_build WORKLOAD MODE FOLDER [TARGET]``.

Runs in Myelin's own environment. Into FOLDER go ``plan.cbor``, ``params.bin`` and ``kernels.so``, which
:mod:`benchmarks.native_steps` loads, for ``private_enclave`` also ``job.myelin``, and last ``facts.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from myelin.contract import DataSchema
from myelin.graph import differentiate
from myelin.host import best_target
from myelin.image import build_image
from myelin.image.plan import encode_plan, pack_parameters
from myelin.image.runtime import TARGET_FLAGS
from myelin.model import SGD, Job
from myelin.privacy import DpPlan, make_plain, make_private
from myelin.schedule import NativeProgram, schedule
from myelin.zoo import Lstm, MnistCnn, Perceptron, ResNet, Transformer, Vgg

from .phases import phases
from .product_rate import fill, measure, product_gflops
from .workloads import CLIPPING_NORM, LEARNING_RATE, NOISE_MULTIPLIER, WORKLOADS, Workload

TARGET = best_target()
"""What this machine's processor has the instructions for."""
STEPS = 100_000
MODELS: dict[str, Callable[[], Any]] = {
    "mnist_cnn": MnistCnn,
    "vgg9": Vgg,
    "resnet20": ResNet,
    "mlp": Perceptron,
    "lstm": Lstm,
    "transformer": Transformer,
}
"""What makes each of the models that :mod:`benchmarks.workloads` describes."""
LANES = 2
"""Of every image, whatever the number of threads it is run with."""
MICROBATCHES: dict[str, dict[str, int]] = {
    "mnist_cnn": {"private": 32, "plain": 32},
    "vgg9": {"private": 4, "plain": 32},
    "resnet20": {"private": 4, "plain": 4},
    "mlp": {"private": 128, "plain": 128},
    "lstm": {"private": 16, "plain": 32},
    "transformer": {"private": 2, "plain": 4},
}
"""Examples of one physical batch, by model: what was fastest of the powers of two."""


def plan_of(workload: Workload, kind: str) -> DpPlan:
    """The mechanism: capacity is the batch, so a step computes exactly so many slots."""
    return DpPlan(
        dataset_size=workload.dataset_size,
        expected_batch_size=workload.batch,
        capacity=workload.batch,
        microbatch=MICROBATCHES[workload.model][kind],
        steps=STEPS,
        noise_multiplier=NOISE_MULTIPLIER,
        clipping_norm=CLIPPING_NORM,
        delta=1e-6,
    )


def schema_of(workload: Workload) -> DataSchema:
    """Records as the peers have them: float32, images and vectors in [0, 1], tokens as they are."""
    tokens = workload.kind == "tokens"
    return DataSchema.from_mapping(
        {
            "shape": list(workload.shape),
            "lower": 0.0,
            "upper": float(workload.vocabulary - 1) if tokens else 1.0,
            "normalize": "none" if tokens else "unit",
            "label": {"classes": [f"class {index}" for index in range(workload.classes)]},
        }
    )


def job_of(workload: Workload, kind: str) -> Job:
    """The workload as a job, whose microbatch suits ``kind``, plain or private."""
    return Job(
        name=workload.name,
        model=MODELS[workload.model],
        loss="cross_entropy",
        optimizer=SGD(LEARNING_RATE),
        plan=plan_of(workload, kind),
        schema=schema_of(workload),
        lanes=LANES,
    )


def build(workload: Workload, mode: str, folder: Path, target: str = TARGET) -> dict[str, Any]:
    """Compile one workload in one mode into ``folder``; the facts that are written last."""
    kind = "plain" if mode == "plain" else "private"
    job = job_of(workload, kind)
    start = time.perf_counter()
    graph = differentiate(job)
    stepped: Any = make_plain(graph) if kind == "plain" else make_private(graph, job.plan)
    scheduled = schedule(stepped, target)
    if mode == "private_enclave":
        build_image(scheduled, stepped, job, folder / "job.myelin", target)
    seconds = time.perf_counter() - start
    if kind == "plain":
        # The format wants a mechanism's numbers; a plain step uses none of them.
        stepped = SimpleNamespace(
            parameter_names=stepped.parameter_names,
            sensitivity_e9=job.plan.clipping_norm_e9,
            clipping=("flat",),
            table=(),
            parameter_count=0,
        )
    (folder / "plan.cbor").write_bytes(encode_plan(scheduled, stepped, job))
    (folder / "params.bin").write_bytes(pack_parameters(scheduled.parameter_values))
    link(scheduled.object, scheduled.kernels, folder / "kernels.so")
    facts = {
        "workload": workload.name,
        "mode": mode,
        "target": target,
        "target_flags": TARGET_FLAGS[target],
        "microbatch": job.plan.microbatch,
        "lanes": LANES,
        "parameters": sum(value.size for value in scheduled.parameter_values),
        "arena_bytes": scheduled.arena_bytes(LANES),
        "kernels": len(scheduled.kernels),
        "calls": len(scheduled.step),
        "build_s": round(seconds, 2),
    }
    if mode != "private_enclave":
        program = NativeProgram(scheduled)
        fill(program, job)
        spent = measure(program)
        facts |= phases(program, -(-workload.batch // job.plan.microbatch), spent)
        if mode == "private":
            facts["product_gflops"] = round(product_gflops(graph, program, spent), 1)
            facts["rebuild_s"] = round(rebuild(workload, folder), 2)
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))
    return facts


JOB = """
from benchmarks.myelin_build import job_of
from benchmarks.workloads import WORKLOADS

job = job_of(WORKLOADS[{name!r}], "private")
"""


def rebuild(workload: Workload, folder: Path) -> float:
    """Seconds of ``myelin build`` of a job that was built before: a new process, from start to end."""
    (folder / "job.py").write_text(JOB.format(name=workload.name))
    command = [sys.executable, "-m", "myelin.cli", "build", str(folder / "job.py")]
    command += ["-o", str(folder / "again.myelin"), "--target", TARGET]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(folder / "cache")}
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


SHIM = """
#define WEAK __attribute__((weak))
WEAK void *__TVMBackendParallelLaunch, *__TVMBackendAllocWorkspace, *__TVMBackendFreeWorkspace;
static void (*raise_parts)(const char *, const char **, int), (*raise_text)(const char *, const char *);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {{
  raise_parts(kind, parts, count);
}}
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) {{ raise_text(kind, text); }}
void myelin_set_callbacks(void **from) {{
  raise_parts = from[0], raise_text = from[1];
  __TVMBackendParallelLaunch = from[2], __TVMBackendAllocWorkspace = from[3];
  __TVMBackendFreeWorkspace = from[4];
}}
{declarations}
void *myelin_kernel_table[] = {{{table}}};
unsigned long myelin_kernel_count = {count};
"""


def link(code: bytes, kernels: tuple[str, ...], out: Path) -> None:
    """A shared library of the kernels, a table of them, and their callbacks settable."""
    declarations = "\n".join(f"extern int {name}(void);" for name in kernels)
    table = ", ".join(f"(void *){name}" for name in kernels)
    with tempfile.TemporaryDirectory() as name:
        source, kernels_object = Path(name) / "shim.c", Path(name) / "kernels.o"
        source.write_text(SHIM.format(declarations=declarations, table=table, count=len(kernels)))
        kernels_object.write_bytes(code)
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(out), str(source), str(kernels_object)]
        subprocess.run(command, check=True)


def main() -> None:
    """See the module."""
    name, mode, folder, *target = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    print(json.dumps(build(WORKLOADS[name], mode, Path(folder), *target)))


if __name__ == "__main__":
    main()
