"""From a private training graph to kernels, a static list of calls and a memory plan."""

from .native import NativeProgram
from .program import Call, ParameterRole, Roles, ScheduledModule, Tensor
from .scheduler import schedule

__all__ = [
    "Call",
    "NativeProgram",
    "ParameterRole",
    "Roles",
    "ScheduledModule",
    "Tensor",
    "schedule",
]
