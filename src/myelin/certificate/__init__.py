"""The end of the chain: verifying a certificate offline, and opening the sealed model.

Pure functions; time is an argument. A verification fails closed and keeps the whole tree of checks.
"""

from myelin.certificate.claims import (
    CERTIFICATE_TYPE,
    MOST_BUNDLE_BYTES,
    Certificate,
    CertificateBundle,
    SealedModelRef,
)
from myelin.certificate.logged import LogClaim
from myelin.certificate.model import MOST_MODEL_BYTES, SealedModel, open_model
from myelin.certificate.verify import PrivacyFigure, Verification, verify

__all__ = [
    "CERTIFICATE_TYPE",
    "MOST_BUNDLE_BYTES",
    "MOST_MODEL_BYTES",
    "Certificate",
    "CertificateBundle",
    "LogClaim",
    "PrivacyFigure",
    "SealedModel",
    "SealedModelRef",
    "Verification",
    "open_model",
    "verify",
]
