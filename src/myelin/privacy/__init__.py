"""Room 3: what makes training private.

Two halves that do not import each other. *Mechanism*: plan, event, accountant, and references of sampler and
noise; no compiler. *Compiler*: the training step made private (:func:`make_private`) and its float64 oracle,
which need TVM; they are loaded when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accountant import calibrate as calibrate
    from .accountant import compose as compose
    from .accountant import epsilon as epsilon
    from .accountant import total_variation_of as total_variation_of
    from .audit import audit_one_run as audit_one_run
    from .augment import RandomCrop as RandomCrop
    from .augment import RandomFlip as RandomFlip
    from .banded import BandedNoise as BandedNoise
    from .clipping_rule import AdaptiveClipping as AdaptiveClipping
    from .clipping_rule import AutomaticClipping as AutomaticClipping
    from .clipping_rule import FlatClipping as FlatClipping
    from .clipping_rule import PerLayerClipping as PerLayerClipping
    from .cost import Choice as Choice
    from .cost import Cost as Cost
    from .cost import format_table as format_table
    from .event import Event as Event
    from .event import to_dp_accounting as to_dp_accounting
    from .plain_graph import PlainGraph as PlainGraph
    from .plain_graph import make_plain as make_plain
    from .plan import DpPlan as DpPlan
    from .private_graph import PrivateGraph as PrivateGraph
    from .private_graph import make_private as make_private
    from .sensitivity import sensitivity_bound as sensitivity_bound
    from .sensitivity import sensitivity_e9 as sensitivity_e9

__all__ = [
    "AdaptiveClipping",
    "AutomaticClipping",
    "BandedNoise",
    "Choice",
    "Cost",
    "DpPlan",
    "Event",
    "FlatClipping",
    "PerLayerClipping",
    "PlainGraph",
    "PrivateGraph",
    "RandomCrop",
    "RandomFlip",
    "StepInspection",
    "audit_one_run",
    "calibrate",
    "compose",
    "epsilon",
    "format_table",
    "inspect_step",
    "make_plain",
    "make_private",
    "sensitivity_bound",
    "sensitivity_e9",
    "to_dp_accounting",
    "total_variation_of",
]

_HOMES = {
    "AdaptiveClipping": "clipping_rule",
    "AutomaticClipping": "clipping_rule",
    "BandedNoise": "banded",
    "Choice": "cost",
    "Cost": "cost",
    "DpPlan": "plan",
    "Event": "event",
    "FlatClipping": "clipping_rule",
    "PerLayerClipping": "clipping_rule",
    "PlainGraph": "plain_graph",
    "PrivateGraph": "private_graph",
    "RandomCrop": "augment",
    "RandomFlip": "augment",
    "audit_one_run": "audit",
    "calibrate": "accountant",
    "compose": "accountant",
    "epsilon": "accountant",
    "format_table": "cost",
    "make_plain": "plain_graph",
    "make_private": "private_graph",
    "sensitivity_bound": "sensitivity",
    "sensitivity_e9": "sensitivity",
    "to_dp_accounting": "event",
    "total_variation_of": "accountant",
}


_LATER = {"StepInspection": "myelin.schedule.inspection", "inspect_step": "myelin.schedule.inspection"}
"""Names of this room's that run compiled kernels, and so live where kernels are compiled."""


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first asked for."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'myelin.privacy' has no attribute {name!r}")
    return getattr(import_module(f"myelin.privacy.{home}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
