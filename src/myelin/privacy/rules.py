"""One strategy per way to clip a layer; one file per family of layers; this table joins them.

A family is added by writing its file and a line here: nothing else in the compiler names a family.
"""

from __future__ import annotations

from collections.abc import Mapping

from myelin.errors import BuildError

from . import bias, conv2d, linear
from .strategy import Site, Strategy

__all__ = ["RULES", "strategies"]

RULES: Mapping[str, tuple[Strategy, ...]] = {
    "bias": bias.STRATEGIES,
    "conv2d": conv2d.STRATEGIES,
    "linear": linear.STRATEGIES,
}
"""The strategies of each kind of :class:`~myelin.graph.Layer`."""


def strategies(site: Site) -> tuple[Strategy, ...]:
    """The strategies that fit ``site``, at least one.

    Raises:
        BuildError: the layer's kind has no rule.
    """
    fitting = tuple(s for s in RULES.get(site.layer.kind, ()) if s.fits(site))
    if not fitting:
        raise BuildError(
            f"layer {site.layer.name} of kind {site.layer.kind} cannot be made private: no rule for its "
            f"per-example gradient; kinds with one are {', '.join(sorted(RULES))}"
        )
    return fitting
