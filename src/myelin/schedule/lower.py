"""Lower Relax operators to fused kernels (TIR functions)."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from .legalize import LEGALIZERS


def lower(module: IRModule, target: tvm.target.Target) -> IRModule:
    """Legalise every operator, fuse elementwise chains, and return the module of kernels and their callers."""
    passes = [
        relax.transform.LegalizeOps(dict(LEGALIZERS)),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(["step", "update"]),
    ]
    with target:
        return tvm.transform.Sequential(passes)(module)
