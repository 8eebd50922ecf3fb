"""What an owner allows beside the budget: quotas of researchers and datasets, and what was revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from myelin.contract.store import Store
from myelin.errors import InputError, ProtocolError
from myelin.wire import DIGEST_BYTES, Shape

__all__ = ["REVOCABLE", "Quota", "check_quotas", "quotas", "revocation"]

REVOCABLE = ("contract", "measurement", "run", "researcher")
"""What can be revoked: by its digest, a run by its boot id, a researcher by the digest of the signing key."""

_SHAPE = Shape("ledger_damaged", "ledger_damaged")
_MOST_REASON_BYTES = 512

Spent = tuple[int, bytes | None, bytes | None]
"""ρ in millionths, of which researcher, of which dataset."""


@dataclass(frozen=True)
class Quota:
    """A bound on one researcher or dataset, or, with ``named`` ``None``, on each one that has none of its
    own.

    ``zcdp_u`` bounds the sum of ρ in millionths, ``releases`` their number, ``until_s`` the time. Each may be
    ``None``. It only narrows: the ledger's budget decides all the same.
    """

    what: str
    named: bytes | None
    zcdp_u: int | None = None
    releases: int | None = None
    until_s: int | None = None

    def __post_init__(self) -> None:
        if self.what not in ("researcher", "dataset"):
            raise InputError(f"quota: expected of a researcher or a dataset, got {self.what[:40]!r}")
        if self.named is not None and len(self.named) != DIGEST_BYTES:
            raise InputError(f"quota: expected a digest of {DIGEST_BYTES} bytes, got {len(self.named)}")
        if (self.zcdp_u, self.releases, self.until_s) == (None, None, None):
            raise InputError("quota: give ρ, a number of releases or a time that it ends at")

    def to_map(self) -> dict[str, object]:
        """As the store keeps it."""
        return {
            "what": self.what,
            "named": self.named,
            "zcdp_u": self.zcdp_u,
            "releases": self.releases,
            "until_s": self.until_s,
        }


def quotas(store: Store) -> list[Quota]:
    """The quotas that hold: of each name the last one set."""
    last: dict[tuple[str, bytes | None], Quota] = {}
    for entry in store.entries("quota"):
        body = entry.body
        last[body["what"], body["named"]] = Quota(
            body["what"], body["named"], body["zcdp_u"], body["releases"], body["until_s"]
        )
    return list(last.values())


def check_quotas(
    bounds: Sequence[Quota], past: Sequence[Spent], more: tuple[int, bytes, bytes], now_s: float
) -> None:
    """Check one more event against the quotas; raises ``quota_exhausted`` with the figures."""
    for place, what, named in ((1, "researcher", more[1]), (2, "dataset", more[2])):
        own = [q for q in bounds if q.what == what and q.named == named]
        for quota in own or [q for q in bounds if q.what == what and q.named is None]:
            before = [spent for spent in past if spent[place] == named]
            total_u = sum(spent[0] for spent in before) + more[0]
            who = f"{what} {named.hex()[:16]}…"
            problem = ""
            if quota.until_s is not None and now_s >= quota.until_s:
                problem = f"ended at {quota.until_s}, now is {int(now_s)} (Unix seconds)"
            elif quota.releases is not None and len(before) + 1 > quota.releases:
                problem = f"allows {quota.releases} releases, {len(before)} were made"
            elif quota.zcdp_u is not None and total_u > quota.zcdp_u:
                problem = f"allows ρ {quota.zcdp_u / 1e6:g}, with this run it would be {total_u / 1e6:g}"
            if problem:
                raise ProtocolError.named("quota_exhausted", f"the quota of {who} {problem}")


def revocation(what: str, named: bytes, reason: str, at_s: int) -> dict[str, object]:
    """As the store keeps it; :class:`~myelin.errors.InputError` for what cannot be revoked."""
    if what not in REVOCABLE:
        raise InputError(f"revoke: expected one of {', '.join(REVOCABLE)}, got {what[:40]!r}")
    if len(named) != DIGEST_BYTES:
        raise InputError(f"revoke: expected a digest of {DIGEST_BYTES} bytes, got {len(named)}")
    if not reason.isprintable() or not 1 <= len(reason.encode()) <= _MOST_REASON_BYTES:
        raise InputError(f"revoke: expected a reason of 1 to {_MOST_REASON_BYTES} bytes of printable text")
    return {"what": what, "digest": named, "reason": reason, "at_s": at_s}
