"""Room 5: from a scheduled module to an enclave image, and what can be said of an image file.

:func:`build_image` links kernels, plan, parameters and the Rust runtime to one static file and checks it;
:func:`build_job` goes the whole way from a job file. :func:`measure`, :func:`read_manifest`,
:func:`read_plan` and :func:`check_image` need neither TVM nor a compiler.
"""

from .build import BuiltImage, build_image, build_job
from .check import check_image, check_instructions
from .manifest import measure, read_manifest, read_plan
from .runtime import TARGETS

__all__ = [
    "TARGETS",
    "BuiltImage",
    "build_image",
    "build_job",
    "check_image",
    "check_instructions",
    "measure",
    "read_manifest",
    "read_plan",
]
