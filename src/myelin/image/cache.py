"""Images that were built before: a build whose every input is the same takes its bytes from here.

Building is deterministic, so a kept image is what building again would give. The key covers all that the
bytes depend on: the job's private graph, parameters, plan and schema, the sources of the compiler's rooms,
the runtime's library, the versions of TVM, rustc and the linker. A file that does not hold what it was
written with is as good as none.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..wire import encode
from .runtime import Runtime, enclave_source, run_tool

if TYPE_CHECKING:
    from ..model import Job
    from ..privacy import PrivateGraph

__all__ = ["ImageCache", "cache_folder", "image_key"]

MOST_IMAGES = 16
"""So many are kept; the ones that were used longest ago go first."""

_ROOMS = ("model", "graph", "privacy", "schedule", "image", "wire")
_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """``myelin/images`` in the user's cache folder (XDG Base Directory Specification 0.8)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "myelin" / "images"


def image_key(private_graph: PrivateGraph, job: Job, target: str, simulated: bool, runtime: Runtime) -> str:
    """A name for everything that the image's bytes depend on: 64 hexadecimal digits."""
    schema: Any = job.schema
    plan: Any = job.plan
    state = hashlib.sha256()
    for part in (
        target.encode(),
        str(simulated).encode(),
        repr((job.name, job.loss, job.optimizer, job.average, job.lanes, job.oblivious_gather)).encode(),
        repr(private_graph.sensitivity_e9).encode(),
        encode(
            {
                **plan.as_dict(),
                "clipping": repr(plan.clipping),
                "correlation": repr(plan.correlation),
                "augment": repr(plan.augment),
            },
            floats=True,
        ),
        schema.to_cbor(),
        private_graph.module.script(show_meta=True).encode(),
        repr(
            (
                private_graph.parameter_names,
                private_graph.frozen_names,
                private_graph.state_shapes,
                private_graph.released,
            )
        ).encode(),
        *(value.tobytes() for value in (*private_graph.parameter_values, *private_graph.frozen_values)),
        repr(private_graph.table).encode(),
        _sources(),
        runtime.library.read_bytes(),
        (enclave_source() / "Cargo.lock").read_bytes(),
        runtime.rustc.encode(),
        version("apache-tvm").encode(),
        version("myelin").encode(),
        run_tool(["ld", "--version"], "link an image", enclave_source()).encode(),
    ):
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()


def _sources() -> bytes:
    """Digest of the compiler's own files."""
    state = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for path in sorted(p for room in _ROOMS for p in (package / room).rglob("*.py")):
        content = path.read_bytes()
        name = str(path.relative_to(package)).encode()
        state.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little") + content)
    return state.digest()


class ImageCache:
    """Images by key, in a folder of the user's own.

    A folder that cannot be read or written is an empty one: the cache saves time, and nothing depends on it.
    """

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which need not be there."""
        self.folder = folder

    def get(self, key: str) -> bytes | None:
        """The image kept under ``key``, whole; None if there is none."""
        path = self.folder / key
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return image if hashlib.sha256(image).digest() == digest else None

    def put(self, key: str, image: bytes) -> None:
        """Keep an image, and forget the oldest ones."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=self.folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(image).digest() + image)
            os.replace(name, self.folder / key)
            by_age = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            for path in by_age[:-MOST_IMAGES]:
                path.unlink()
