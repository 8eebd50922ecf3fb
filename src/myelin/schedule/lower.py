"""Lower Relax operators to fused kernels (TIR functions)."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax, tirx
from tvm.ir import IRModule

from .generic import schedule_generic
from .intrinsics import expand_intrinsics
from .kernels import MACHINES
from .legalize import LEGALIZERS
from .rewrite import use_kernels

# Set on kernels that come with their own schedule.
_SCHEDULED = "tirx.is_scheduled"


def lower(module: IRModule, target: tvm.target.Target, names: Sequence[str]) -> IRModule:
    """Legalise every operator of the Relax functions ``names`` and fuse elementwise chains.

    Returns a module of kernels and their callers, those functions.
    """
    module = use_kernels(module, names, MACHINES[str(target.attrs["mcpu"])])
    passes = [
        relax.transform.LegalizeOps(dict(LEGALIZERS)),
        expand_intrinsics,
        tirx.transform.ForceNarrowIndexToInt32(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(list(names)),
    ]
    with target:
        lowered = tvm.transform.Sequential(passes)(module)
        kernels = {v: f for v, f in lowered.functions.items() if isinstance(f, tirx.PrimFunc)}
        for variable, function in kernels.items():
            if _SCHEDULED not in (function.attrs or {}):
                lowered.update_func(variable, schedule_generic(function))
    return lowered
