"""An owner's broker as a service to leave running: anchors, HTTP, audit log, metrics (``docs/broker.md``)."""

from myelin.broker.application import Face, application
from myelin.broker.audit import AuditLog, AuditState, check_audit
from myelin.broker.limits import Rates
from myelin.broker.logged import LogAnchor
from myelin.broker.metrics import Metrics
from myelin.broker.peers import PeerAnchor, peer_anchors
from myelin.broker.server import Listen, listen_on, serve_http
from myelin.broker.service import AnchorSettings, Service
from myelin.broker.tpm import TpmAnchor
from myelin.broker.tpm_commands import exchange_with
from myelin.broker.trustee import TrusteeKeys, call_http

__all__ = [
    "AnchorSettings",
    "AuditLog",
    "AuditState",
    "Face",
    "Listen",
    "LogAnchor",
    "Metrics",
    "PeerAnchor",
    "Rates",
    "Service",
    "TpmAnchor",
    "TrusteeKeys",
    "application",
    "call_http",
    "check_audit",
    "exchange_with",
    "listen_on",
    "peer_anchors",
    "serve_http",
]
