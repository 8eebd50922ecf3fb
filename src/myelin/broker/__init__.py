"""An owner's broker as a service to leave running: anchors, HTTP, audit log, metrics (``docs/broker.md``)."""

from myelin.broker.logged import LogAnchor
from myelin.broker.peers import PeerAnchor, peer_anchors
from myelin.broker.tpm import TpmAnchor
from myelin.broker.tpm_commands import exchange_with

__all__ = ["LogAnchor", "PeerAnchor", "TpmAnchor", "exchange_with", "peer_anchors"]
