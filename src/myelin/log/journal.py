"""A log's leaves on disk, in the order in which they came; nothing is ever taken out.

They lie on the same kind of medium as an owner's store, so the same is durable when a call returns. Leaves
are public. Whoever opens the file computes every hash and the root anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from myelin.contract import Head, HeadRow, Line, Medium, Surroundings
from myelin.errors import ProtocolError
from myelin.log.leaf import read_leaf
from myelin.log.tree import EMPTY_ROOT, consistency_proof, inclusion_proof, leaf_hash, root_of

__all__ = ["Journal"]

_SALT = bytes(32)


@final
class Journal:
    """An open log file. Not for several threads at once."""

    def __init__(self, medium: Medium, path: Path) -> None:
        self._medium = medium
        self._path = path
        self.leaves: list[bytes] = []
        self.hashes: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._heads: dict[bytes, dict[str, Any]] = {}
        self._contracts: dict[bytes, dict[str, Any]] = {}
        for line in medium.lines(0):
            if line.number != len(self.leaves) or type(line.body) is not bytes:
                raise self._damaged(f"leaf {len(self.leaves)} is missing or not of its form")
            if leaf_hash(line.body) != line.chain:
                raise self._damaged(f"leaf {line.number} was altered")
            self._take(line.body, read_leaf(line.body, refusal="ledger_damaged"))
        head = medium.head()
        if head is None or (head.entries, head.mac) != (len(self.leaves), self.root):
            raise self._damaged("its leaves are not those under its last root")

    @classmethod
    def open(cls, path: str | Path, *, surroundings: Surroundings | None = None) -> Journal:
        """Open a log's file, or make it if it is not there."""
        path, around = Path(path), surroundings or Surroundings()
        exists = around.files.exists(path)
        medium = around.open_medium(path) if exists else around.create_medium(path)
        try:
            if medium.head() is None and not medium.lines(0):
                medium.begin(write=True)
                medium.put_head(HeadRow(_SALT, 0, EMPTY_ROOT))
                medium.commit()
            return cls(medium, path)
        except BaseException:
            medium.close()
            raise

    @property
    def root(self) -> bytes:
        """Root over all leaves."""
        return root_of(self.hashes)

    def close(self) -> None:
        """Close the file."""
        self._medium.close()

    def place(self, leaf: bytes) -> int | None:
        """Where this very leaf is."""
        return self._places.get(leaf_hash(leaf))

    def head_of(self, ledger: bytes) -> Head | None:
        """The last head of a ledger."""
        found = self._heads.get(ledger)
        return None if found is None else Head(found["count"], found["head"])

    def owner_of(self, ledger: bytes) -> bytes | None:
        """The signing key of the ledger's owner."""
        found = self._heads.get(ledger)
        return None if found is None else bytes(found["owner"])

    def owners_of(self, contract: bytes) -> tuple[bytes, ...]:
        """Signing keys of the owners of a contract that is in the log."""
        found = self._contracts.get(contract)
        return () if found is None else tuple(found["owners"])

    def knows(self, contract: bytes) -> bool:
        """Whether this contract is in the log."""
        return contract in self._contracts

    def add(self, leaf: bytes) -> int:
        """Add a leaf durably, unless it is there; its place."""
        found = self.place(leaf)
        if found is not None:
            return found
        fields = read_leaf(leaf)
        number, value = len(self.leaves), leaf_hash(leaf)
        self._medium.begin(write=True)
        try:
            head = HeadRow(_SALT, number + 1, root_of([*self.hashes, value]))
            self._medium.put(Line(number, "leaf", leaf, None, value), head)
            self._medium.commit()
        except BaseException:
            self._medium.rollback()
            raise
        self._take(leaf, fields)
        return number

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Path of a leaf in the tree of the first ``size``."""
        if not 0 <= index < size <= len(self.leaves):
            raise ProtocolError.named(
                "malformed_message", f"leaf {index} of {size}: the log has {len(self.leaves)}"
            )
        return inclusion_proof(index, self.hashes[:size])

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Proof that the first so many are a beginning of the first so many more."""
        if not 0 < first <= second <= len(self.leaves):
            raise ProtocolError.named(
                "malformed_message", f"sizes {first}, {second}: the log has {len(self.leaves)}"
            )
        return consistency_proof(first, self.hashes[:second])

    def _take(self, leaf: bytes, fields: dict[str, Any]) -> None:
        value = leaf_hash(leaf)
        self._places[value] = len(self.leaves)
        self.leaves.append(leaf)
        self.hashes.append(value)
        if fields["kind"] == "head":
            self._heads[fields["ledger"]] = fields
        if fields["kind"] == "contract":
            self._contracts[fields["contract"]] = fields

    def _damaged(self, why: str) -> ProtocolError:
        return ProtocolError.named("ledger_damaged", f"{self._path}: {why}; this log is not served")
