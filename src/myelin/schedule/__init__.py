"""From a private training graph to kernels, a static list of calls and a memory plan."""

from .inference import InferenceModule, schedule_inference
from .native import InferenceProgram, NativeProgram
from .program import Call, ParameterRole, Roles, ScheduledModule, Tensor
from .scheduler import schedule

__all__ = [
    "Call",
    "InferenceModule",
    "InferenceProgram",
    "NativeProgram",
    "ParameterRole",
    "Roles",
    "ScheduledModule",
    "Tensor",
    "schedule",
    "schedule_inference",
]
