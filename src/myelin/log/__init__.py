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

__all__ = [
    "CHECKPOINT_TYPE",
    "EMPTY_ROOT",
    "Checkpoint",
    "Included",
    "Journal",
    "Log",
    "LogClient",
    "check_extends",
    "consistency_proof",
    "contract_leaf",
    "head_leaf",
    "inclusion_proof",
    "leaf_hash",
    "read_hashes",
    "read_leaf",
    "release_leaf",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]
