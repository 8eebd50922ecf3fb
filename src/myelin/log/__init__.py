"""A public log of contracts, heads of ledgers and releases: append-only, provable, checked by ``verify``."""

from myelin.log.checkpoint import CHECKPOINT_TYPE, Checkpoint, Included, check_extends, read_hashes
from myelin.log.client import LogClient
from myelin.log.journal import Journal
from myelin.log.leaf import contract_leaf, head_leaf, read_leaf, release_leaf
from myelin.log.log import Log
from myelin.log.tree import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from myelin.log.witnessed import MOST_LOG_PROOF_BYTES, LogProof, from_leaves, prove

__all__ = [
    "CHECKPOINT_TYPE",
    "EMPTY_ROOT",
    "MOST_LOG_PROOF_BYTES",
    "Checkpoint",
    "Included",
    "Journal",
    "Log",
    "LogClient",
    "LogProof",
    "check_extends",
    "consistency_proof",
    "contract_leaf",
    "from_leaves",
    "head_leaf",
    "inclusion_proof",
    "leaf_hash",
    "prove",
    "read_hashes",
    "read_leaf",
    "release_leaf",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]
