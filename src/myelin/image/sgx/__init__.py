"""An image as an SGX enclave: its pages, its MRENCLAVE, and the signed structure that starts it.

Computed offline, with no SGX hardware and no toolchain, from the image file and the one page beside it
(``enclave/sgx/trampoline.s``). ``docs/abi.md`` ("Under SGX") says where everything lies and why.
"""

from .enclave import MISC_SELECT, SgxEnclave, read_enclave
from .layout import ENCLAVE_BYTES, SSA_FRAME_PAGES, PageRun, enclave_pages, trampoline_page
from .mrenclave import mrenclave
from .sigstruct import SIGSTRUCT_BYTES, Sigstruct, make_key, read_key, read_sigstruct, sign_enclave

__all__ = [
    "ENCLAVE_BYTES",
    "MISC_SELECT",
    "SIGSTRUCT_BYTES",
    "SSA_FRAME_PAGES",
    "PageRun",
    "SgxEnclave",
    "Sigstruct",
    "enclave_pages",
    "make_key",
    "mrenclave",
    "read_enclave",
    "read_key",
    "read_sigstruct",
    "sign_enclave",
    "trampoline_page",
]
