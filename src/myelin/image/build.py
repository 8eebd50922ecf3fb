"""From a scheduled module to an image file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BuildError, InputError
from ..wire import encode
from .assembly import Memory, generate_assembly
from .cache import ImageCache, image_key
from .check import check_image, check_kernels
from .contents import manifest_of
from .hiding import hide_tokens, hides_draws
from .link import link_image
from .manifest import measure, read_manifest, read_section
from .plan import encode_plan, lanes_of, pack_parameters
from .runtime import build_runtime

if TYPE_CHECKING:
    from ..model import Job
    from ..privacy import PrivateGraph
    from ..schedule import ScheduledModule

__all__ = ["BuiltImage", "Progress", "build_image", "build_job"]

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

_STACK_BYTES = 16 * (512 + 4) * 1024
_CODE_BYTES = 64 << 20
_MOST_BYTES = (2 << 30) - (256 << 20)
_HEAP_BASE_BYTES = 32 << 20
# The model itself and a sealed copy for each recipient, within reason: a contract has at most 32 parties.
_MODEL_COPIES = 34
_MODEL_COPIES_BYTES = 256 << 20
_JOB_STEPS = 7


@dataclass(frozen=True)
class BuiltImage:
    """An image file and what identifies it.

    ``measurement`` is the SHA-256 of the file, ``plan_digest`` of its plan section; ``manifest`` is what
    :func:`myelin.image.read_manifest` reads from it; ``layers`` is a
    table of how each parameter's gradient is made private and what that costs (:mod:`myelin.privacy.cost`).
    """

    path: Path
    measurement: bytes
    plan_digest: bytes
    manifest: dict[str, Any]

    @property
    def layers(self) -> tuple[str, ...]:
        """A head and one line per parameter, for printing."""
        return tuple(str(row) for row in self.manifest["layers"])


def build_image(
    scheduled: ScheduledModule,
    private_graph: PrivateGraph,
    job: Job,
    out: str | Path,
    target: str,
    simulated: bool = True,
    progress: Progress | None = None,
) -> BuiltImage:
    """Link an image and check it; nothing is written to ``out`` unless every check passed.

    The same inputs and toolchain give the same bytes, whatever the folder.

    Args:
        scheduled: kernels, calls and memory plan, made for the same ``target``.
        private_graph: what was scheduled.
        job: what it was made from.
        out: the image file to write.
        target: one of :data:`myelin.image.TARGETS`.
        simulated: with the simulated attester; without, the image makes no evidence.
        progress: called with (done, total).

    Raises:
        BuildError: parts do not fit, a tool is missing or fails, the image is too large or fails a check.
    """
    report = progress or (lambda _done, _total: None)
    if scheduled.target != target:
        raise BuildError(
            f"target {target}: the kernels were scheduled for {scheduled.target}; use one target"
        )
    report(0, 3)
    check_kernels(scheduled.object)
    plan = encode_plan(scheduled, private_graph, job)
    params = pack_parameters((*scheduled.parameter_values, *scheduled.frozen_values))
    memory = _memory(scheduled, private_graph, job, len(plan))
    runtime = build_runtime(target, simulated)
    report(1, 3)
    manifest = manifest_of(scheduled, private_graph, job, plan, memory, runtime, simulated)
    with tempfile.TemporaryDirectory(prefix="myelin-image-") as name:
        folder = Path(name)
        (folder / "plan.cbor").write_bytes(plan)
        (folder / "params.bin").write_bytes(params)
        (folder / "manifest.cbor").write_bytes(encode(manifest, floats=True))
        (folder / "generated.s").write_text(generate_assembly(scheduled.kernels, memory))
        (folder / "kernels.o").write_bytes(scheduled.object)
        image = link_image(folder, folder / "kernels.o", runtime.library)
        report(2, 3)
        check_image(image)
        content = image.read_bytes()
    path = Path(out)
    _write(path, content)
    report(3, 3)
    return BuiltImage(path, measure(path), hashlib.sha256(plan).digest(), manifest)


def build_job(
    path: str | Path,
    out: str | Path,
    target: str = "x86-64-v3",
    simulated: bool = True,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> BuiltImage:
    """Compile the job that a Python file defines into an image: the whole path from model to file.

    Args:
        path: the job file.
        out: the image file to write.
        target: one of :data:`myelin.image.TARGETS`.
        simulated: with the simulated attester; without, the image makes no evidence.
        progress: called with (done, total).
        cache: a folder of images built before (:mod:`myelin.image.cache`); one whose every input is the same
            is not built again.

    Raises:
        InputError: the job file cannot be used.
        BuildError: the model cannot be made private, or the image cannot be built.
    """
    report = progress or (lambda _done, _total: None)
    _require_compiler()
    from ..graph import differentiate
    from ..model import load_job
    from ..privacy import make_private
    from ..schedule import schedule

    report(0, _JOB_STEPS)
    job = load_job(path)
    report(1, _JOB_STEPS)
    graph = differentiate(job)
    report(2, _JOB_STEPS)
    private_graph = hide_tokens(job, make_private(graph, job.plan))
    report(3, _JOB_STEPS)
    kept = ImageCache(cache) if cache else None
    key = image_key(private_graph, job, target, simulated, build_runtime(target, simulated)) if kept else ""
    known = kept.get(key) if kept else None
    if known is not None:
        _write(Path(out), known)
        report(_JOB_STEPS, _JOB_STEPS)
        return _read(Path(out))
    scheduled = schedule(private_graph, target)
    report(4, _JOB_STEPS)
    built = build_image(
        scheduled,
        private_graph,
        job,
        out,
        target,
        simulated,
        lambda done, _total: report(4 + done, _JOB_STEPS),
    )
    if kept:
        kept.put(key, built.path.read_bytes())
    return built


def _read(path: Path) -> BuiltImage:
    """What :func:`build_image` answers, of an image that is there."""
    plan = read_section(path, ".myelin.plan")
    return BuiltImage(path, measure(path), hashlib.sha256(plan).digest(), read_manifest(path))


def _require_compiler() -> None:
    try:
        import tvm  # noqa: F401
    except ImportError as error:
        raise BuildError(
            f"TVM is not installed ({error}); it is needed to compile a model. Install it with "
            "`pip install myelin[build]`"
        ) from None


def _memory(scheduled: ScheduledModule, private_graph: PrivateGraph, job: Job, plan_bytes: int) -> Memory:
    parameters = private_graph.parameter_count
    model_bytes = 4 * parameters
    copies = min(_MODEL_COPIES, max(6, _MODEL_COPIES_BYTES // model_bytes))
    schema: Any = job.schema
    plan: Any = job.plan
    # Float64 sums of each lane, drawn indices, the parsed plan, the model and its sealed copies; for
    # correlated noise, what a few steps leave, and everybody's turn; for views, an image of each lane.
    # For records that are brought to their slots, two blocks of them and a flag for each.
    places = 1 << max(1, (plan.capacity - 1).bit_length())
    lines = -(-schema.record_bytes // 32)
    hidden = hides_draws(job, private_graph)
    bands = 0 if plan.correlation is None else plan.correlation.bands
    heap = (
        _HEAP_BASE_BYTES
        + 8 * parameters * lanes_of(job)
        + 4 * (plan.capacity + plan.microbatch)
        + (4 * schema.feature_count * lanes_of(job) if plan.augment else 0)
        + 32 * plan_bytes
        + copies * model_bytes
        + (16 * bands * parameters + 16 * plan.dataset_size if bands else 0)
        + (places * (64 * lines + 4) + plan.dataset_size if hidden else 0)
    )
    page = 4096
    memory = Memory(
        arena=-(-scheduled.arena_bytes(lanes_of(job)) // page) * page,
        dataset=-(-plan.dataset_size * schema.record_bytes // page) * page,
        heap=-(-heap // page) * page,
    )
    most = _MOST_BYTES - _STACK_BYTES - _CODE_BYTES - model_bytes - 4 * private_graph.frozen_count
    if memory.total > most:
        raise BuildError(
            f"the image needs {memory.total:,} bytes of memory (arena {memory.arena:,}, dataset "
            f"{memory.dataset:,}, heap {memory.heap:,}), but at most {most:,} fit below 2 GiB. Use fewer "
            "lanes, a smaller microbatch, a smaller model or fewer records"
        )
    return memory


def _write(path: Path, content: bytes) -> None:
    """Write beside the place and rename, so that no half-written image is ever there."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
