"""The untrusted host: starts an enclave image under the loader and carries messages to it.

The host holds no secret: it may delay, drop, reorder or lie, and gains nothing by it. What it carries is
sealed or signed by others. Nothing here needs TVM.

    with Enclave.start(Path("hospitals.myelin")) as enclave:
        session = EnclaveSession(enclave)
        print(enclave.report["measurement"], session.describe().state)
"""

from myelin.host.backends import BACKENDS, Backend, Choice, choose_backend, survey_backends
from myelin.host.enclave import Enclave
from myelin.host.loader import find_loader
from myelin.host.machine import best_target
from myelin.host.messages import Deposit, Description, Shares
from myelin.host.session import EnclaveSession

__all__ = [
    "BACKENDS",
    "Backend",
    "Choice",
    "Deposit",
    "Description",
    "Enclave",
    "EnclaveSession",
    "Shares",
    "best_target",
    "choose_backend",
    "find_loader",
    "survey_backends",
]
