"""A Merkle tree over leaves that are only ever added: RFC 9162, section 2.1.

Pure functions of hashes. A root stands for all leaves and their order; an inclusion proof shows a leaf under
a root, a consistency proof that one root's leaves are the first of another's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

__all__ = [
    "EMPTY_ROOT",
    "MOST_PROOF_HASHES",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]

MOST_PROOF_HASHES = 64
"""No proof is longer: trees have fewer than 2⁶³ leaves."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of a tree without leaves."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf: SHA-256(0x00 ‖ leaf)."""
    return hashlib.sha256(b"\0" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes in order (section 2.1.1); a stack of full subtrees instead of recursion."""
    stack: list[bytes] = []
    for index, value in enumerate(hashes):
        while index & 1:
            value = _node(stack.pop(), value)
            index >>= 1
        stack.append(value)
    if not stack:
        return EMPTY_ROOT
    root = stack.pop()
    while stack:
        root = _node(stack.pop(), root)
    return root


def inclusion_proof(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    """The path of leaf ``index`` in the tree over ``hashes`` (section 2.1.3.1)."""
    if not 0 <= index < len(hashes):
        raise ValueError(f"leaf {index} of {len(hashes)}")
    path: list[bytes] = []
    low, high = 0, len(hashes)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root_of(hashes[middle:high]))
            high = middle
        else:
            path.append(root_of(hashes[low:middle]))
            low = middle
    return path[::-1]


def consistency_proof(first: int, hashes: Sequence[bytes]) -> list[bytes]:
    """Proof that the tree of the ``first`` leaves is a beginning of the one over all (section 2.1.4.1)."""
    if not 0 < first <= len(hashes):
        raise ValueError(f"size {first} of {len(hashes)}")
    proof: list[bytes] = []
    low, high, whole = 0, len(hashes), True
    while first != high - low:
        middle = _split(high - low)
        if first <= middle:
            proof.append(root_of(hashes[low + middle : high]))
            high = low + middle
        else:
            proof.append(root_of(hashes[low : low + middle]))
            low, first, whole = low + middle, first - middle, False
    if not whole:
        proof.append(root_of(hashes[low:high]))
    return proof[::-1]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows the leaf hash at ``index`` under the root of ``size`` leaves (2.1.3.2)."""
    if not 0 <= index < size or len(proof) > MOST_PROOF_HASHES:
        return False
    place, last, value = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            value = _node(step, value)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            value = _node(value, step)
        place, last = place >> 1, last >> 1
    return last == 0 and hmac.compare_digest(value, root)


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether ``proof`` shows that the first tree is a beginning of the second (section 2.1.4.2)."""
    if not 0 < first <= second or len(proof) > MOST_PROOF_HASHES:
        return False
    if first == second:
        return not proof and hmac.compare_digest(first_root, second_root)
    path = list(proof)
    if first & (first - 1) == 0:  # a power of two: the first root is itself the beginning of the path
        path.insert(0, first_root)
    if not path:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = _node(step, old), _node(step, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = _node(new, step)
        place, last = place >> 1, last >> 1
    return last == 0 and hmac.compare_digest(old, first_root) and hmac.compare_digest(new, second_root)
