"""Compile TIR kernels to one relocatable object file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm import tirx

from ..errors import BuildError

#: The targets a kernel object can be built for, and their micro-architecture levels.
TARGETS = {"x86-64-v3": "x86-64-v3", "x86-64-v3-vaes": "x86-64-v3", "x86-64-v4": "x86-64-v4"}

_NO_BRANCHES = ("-disable-cgp-select2branch:bool=1", "-x86-cmov-converter:bool=0")
"""A selection is to stay one: where it thinks that faster, LLVM makes a branch of it, by which time would
tell data (docs/side-channels.md). The enclave's own code is compiled with the same flags."""


def llvm_target(name: str) -> tvm.target.Target:
    """The TVM target for a target of an image; BuildError for a name that is not in :data:`TARGETS`."""
    if name not in TARGETS:
        raise BuildError(f"target: expected one of {', '.join(TARGETS)}, got {name!r}")
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mcpu": TARGETS[name],
            "mtriple": "x86_64-unknown-linux-gnu",
            "cl-opt": list(_NO_BRANCHES),
        }
    )


def compile_object(kernels: Mapping[str, tirx.PrimFunc], target: tvm.target.Target) -> bytes:
    """Compile kernels, given by symbol name without prefix, to the bytes of one ELF object."""
    functions = {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
    # Storage rewriting would merge the register tiles into one allocation, and that would not fit the stack.
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        library = tirx.build(tvm.IRModule(functions), target=target, pipeline="s_tir")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.o"
        library.write_to_file(str(path))
        return path.read_bytes()
