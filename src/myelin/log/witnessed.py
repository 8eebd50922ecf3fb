"""A file that shows that a certificate, its contract and the ledgers of its owners are in a public log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from myelin.contract import SignedContract
from myelin.errors import ProtocolError
from myelin.log.checkpoint import Checkpoint, Included, check_extends, read_hashes
from myelin.log.client import LogClient
from myelin.log.leaf import contract_leaf, read_leaf, release_leaf
from myelin.log.tree import consistency_proof, inclusion_proof, leaf_hash, root_of
from myelin.wire import Shape, decode, encode

__all__ = ["MOST_LOG_PROOF_BYTES", "LogProof", "prove"]

MOST_LOG_PROOF_BYTES = 8 << 20
"""Longest file."""

_SHAPE = Shape()
_MOST_LEAVES = 4096


@dataclass(frozen=True)
class LogProof:
    """A checkpoint, the leaves of one contract under it, and how it extends a checkpoint that was seen
    before."""

    checkpoint: bytes
    included: tuple[Included, ...]
    consistency: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        leaves = [[item.index, item.leaf, list(item.path)] for item in self.included]
        return encode(["myelin-log-proof", self.checkpoint, leaves, list(self.consistency)])

    @classmethod
    def from_bytes(cls, data: bytes) -> LogProof:
        """Read a file; nothing in it is believed until :meth:`check`."""
        what = "log proof"
        array = _SHAPE.array(decode(data, most_bytes=MOST_LOG_PROOF_BYTES, what=what), what, size=4)
        if array[0] != "myelin-log-proof":
            raise _SHAPE.refuse(what, "a proof of a log", "another document")
        included = []
        for item in _SHAPE.array(array[2], f"{what}, leaves", most=_MOST_LEAVES):
            index, leaf, path = _SHAPE.array(item, f"{what}, leaf", size=3)
            included.append(
                Included(
                    _SHAPE.uint(index, f"{what}, index"),
                    _SHAPE.bytes(leaf, f"{what}, leaf", most=8192),
                    read_hashes(path, f"{what}, path"),
                )
            )
        checkpoint = _SHAPE.bytes(array[1], f"{what}, checkpoint", most=1024)
        return cls(checkpoint, tuple(included), read_hashes(array[3], f"{what}, consistency"))

    def check(self, log_key: bytes, seen: bytes | None) -> tuple[Checkpoint, list[dict[str, Any]]]:
        """The checkpoint and what the leaves say, once all is shown; raises what is wrong.

        ``seen`` is a signed checkpoint of the same log from before.
        """
        now = Checkpoint.read(self.checkpoint, log_key)
        for item in self.included:
            if not item.under(now):
                raise ProtocolError.named(
                    "log_inconsistent", f"leaf {item.index} is not under the checkpoint of {now.size} leaves"
                )
        if seen is not None:
            check_extends(Checkpoint.read(seen, log_key), now, self.consistency)
        return now, [read_leaf(item.leaf) for item in self.included]


def prove(
    client: LogClient, contract: SignedContract, certificate: bytes | None, seen: bytes | None
) -> LogProof:
    """Collect from a log what it has of a contract; ``certificate`` is the COSE_Sign1 of a release.

    Every leaf of the log is read and hashed, so the root is this one's own, and no head is left out.
    """
    wanted = [contract_leaf(contract)] + ([release_leaf(certificate)] if certificate is not None else [])
    checkpoint, _ = client.find(wanted[0])
    leaves: list[bytes] = []
    while len(leaves) < checkpoint.size:
        more = client.leaves(len(leaves), min(256, checkpoint.size - len(leaves)))
        if not more:
            raise ProtocolError.named(
                "log_inconsistent", f"it gave {len(leaves)} of {checkpoint.size} leaves"
            )
        leaves += more
    return from_leaves(checkpoint, leaves, contract.digest, wanted, seen, client.signing_key)


def from_leaves(
    checkpoint: Checkpoint,
    leaves: Sequence[bytes],
    contract: bytes,
    wanted: Sequence[bytes],
    seen: bytes | None,
    log_key: bytes,
) -> LogProof:
    """Make the proof from all leaves under a checkpoint."""
    hashes = [leaf_hash(leaf) for leaf in leaves]
    if root_of(hashes) != checkpoint.root:
        raise ProtocolError.named("log_inconsistent", "the leaves that it gives are not those of its root")
    places = [index for index, leaf in enumerate(leaves) if leaf in wanted or _head_of(leaf, contract)]
    included = tuple(Included(i, leaves[i], tuple(inclusion_proof(i, hashes))) for i in places)
    consistency: tuple[bytes, ...] = ()
    if seen is not None:
        before = Checkpoint.read(seen, log_key)
        if 0 < before.size < checkpoint.size:
            consistency = tuple(consistency_proof(before.size, hashes))
    return LogProof(checkpoint.signed, included, consistency)


def _head_of(leaf: bytes, contract: bytes) -> bool:
    fields = read_leaf(leaf)
    return bool(fields["kind"] == "head" and fields["contract"] == contract)
