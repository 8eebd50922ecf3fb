"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping

from ...graph.relax_ir import shape_of
from .. import kernels
from .rewriter import FamilyRule, Rule, Site


def _matmul(site: Site) -> bool:
    r, (left, right) = site.rewriter, site.call.args
    a, b = shape_of(left), shape_of(right)
    if len(a) < 2 or len(b) < 2 or str(site.var.ty.dtype) != "float32":
        return False
    if a[:-2] == b[:-2]:
        shared_left = shared_right = False
    elif len(a) == 2 or len(b) == 2:
        shared_left, shared_right = len(a) == 2, len(b) == 2
    else:
        return False
    function = kernels.gemm(r.machine, a, b, shared_left, shared_right)
    r.plain[site.var] = r.call(function, [r.get_plain(left), r.get_plain(right)])
    return True


OPERATORS: Mapping[str, Rule] = {"matmul": _matmul}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {}
"""Rules of families, by name."""
