"""A log's signed tree head, and documents shown to be under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from myelin.errors import ProtocolError
from myelin.log.tree import MOST_PROOF_HASHES, leaf_hash, verify_consistency, verify_inclusion
from myelin.wire import DIGEST_BYTES, Shape, Value, decode, encode, sign1, verify1

__all__ = ["CHECKPOINT_TYPE", "Checkpoint", "Included", "check_extends", "read_hashes"]

CHECKPOINT_TYPE = "application/vnd.myelin.log-checkpoint+cbor"
"""Content type of a log's signature over its size and root."""

_MOST_CHECKPOINT_BYTES = 1024
_SHAPE = Shape()


@dataclass(frozen=True)
class Checkpoint:
    """A log's word: at this time it had so many leaves, under this root. ``nonce`` is the asker's, if any.

    ``signed`` is the COSE_Sign1; two of one log that do not extend each other prove that it forked.
    """

    origin: str
    size: int
    root: bytes
    at_s: int
    nonce: bytes | None
    signed: bytes

    @classmethod
    def make(
        cls,
        origin: str,
        size: int,
        root: bytes,
        key: ec.EllipticCurvePrivateKey,
        *,
        at_s: int,
        nonce: bytes | None,
    ) -> Checkpoint:
        """Sign one."""
        fields = {"origin": origin, "size": size, "root": root, "at_s": at_s, "nonce": nonce}
        return cls(origin, size, root, at_s, nonce, sign1(encode(fields), CHECKPOINT_TYPE, key))

    @classmethod
    def read(cls, signed: bytes, signing_key: bytes) -> Checkpoint:
        """Read one that this log's key has signed; raises ``malformed_message``, ``signature_invalid``."""
        what = "log checkpoint"
        payload = verify1(signed, CHECKPOINT_TYPE, signing_key, most_bytes=_MOST_CHECKPOINT_BYTES, what=what)
        fields = _SHAPE.map(decode(payload, what=what), what, ("origin", "size", "root", "at_s", "nonce"))
        nonce = fields["nonce"]
        return cls(
            _SHAPE.text(fields["origin"], f"{what}, origin"),
            _SHAPE.uint(fields["size"], f"{what}, size", most=(1 << 63) - 1),
            _SHAPE.bytes(fields["root"], f"{what}, root", size=DIGEST_BYTES),
            _SHAPE.uint(fields["at_s"], f"{what}, at_s"),
            None if nonce is None else _SHAPE.bytes(nonce, f"{what}, nonce", size=32),
            signed,
        )


@dataclass(frozen=True)
class Included:
    """A leaf, its place, and the path that shows it under a checkpoint's root."""

    index: int
    leaf: bytes
    path: tuple[bytes, ...]

    def under(self, checkpoint: Checkpoint) -> bool:
        """Whether it is."""
        where = (self.index, checkpoint.size, leaf_hash(self.leaf))
        return verify_inclusion(*where, self.path, checkpoint.root)


def check_extends(seen: Checkpoint, now: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raise ``log_inconsistent`` unless ``now`` has all that ``seen`` had, in its places, and only more."""
    if seen.origin != now.origin:
        raise ProtocolError.named("log_inconsistent", f"expected the log {seen.origin!r}, got {now.origin!r}")
    shown = f"{seen.size} leaves under {seen.root.hex()[:16]}…, now {now.size} under {now.root.hex()[:16]}…"
    if now.size < seen.size:
        raise ProtocolError.named("log_inconsistent", f"entries were removed: it had {shown}")
    same_empty = seen.size == 0
    if not same_empty and not verify_consistency(seen.size, now.size, seen.root, now.root, proof):
        raise ProtocolError.named(
            "log_inconsistent",
            f"entries were changed or removed, or there are two versions of the log: it had {shown}. Keep "
            "both checkpoints: together they prove it",
        )


def read_hashes(value: Value, what: str) -> tuple[bytes, ...]:
    """Read a proof's hashes."""
    items = _SHAPE.array(value, what, most=MOST_PROOF_HASHES)
    return tuple(_SHAPE.bytes(item, what, size=DIGEST_BYTES) for item in items)
