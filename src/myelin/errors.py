"""The one tree of Myelin's errors.

::

    MyelinError
    ├── InputError      a user's file or value is unusable; nothing was done        (exit code 2)
    ├── CheckError      a check ran and did not pass                                (exit code 1)
    │   └── ProtocolError   a refusal with a number, the same on both sides of the enclave boundary
    ├── BuildError      a model or plan cannot be built                             (exit code 1)
    └── HostError       the loader or the enclave failed                            (exit code 1)

A message names the thing, what was expected, what was got and what to do. None carries a secret.
The table of numbers equals ``docs/errors.toml``; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

__all__ = [
    "ERRORS",
    "BuildError",
    "CheckError",
    "ErrorKind",
    "HostError",
    "InputError",
    "MyelinError",
    "ProtocolError",
]


@dataclass(frozen=True)
class ErrorKind:
    """One row of ``docs/errors.toml``: the number that crosses the boundary, its name and its meaning."""

    number: int
    name: str
    meaning: str


_TABLE: dict[str, ErrorKind] = {
    "oversized_message": ErrorKind(101, "oversized_message", "longer than its limit"),
    "malformed_message": ErrorKind(
        102, "malformed_message", "not the deterministic CBOR of the expected shape"
    ),
    "unknown_field": ErrorKind(103, "unknown_field", "a field that this version does not know"),
    "unknown_message": ErrorKind(104, "unknown_message", "no such message code or verb"),
    "out_of_order": ErrorKind(201, "out_of_order", "not accepted in this state"),
    "already_given": ErrorKind(202, "already_given", "was given before"),
    "contract_malformed": ErrorKind(301, "contract_malformed", "the contract is not of its form"),
    "signature_missing": ErrorKind(302, "signature_missing", "a party has not signed"),
    "signature_invalid": ErrorKind(303, "signature_invalid", "a signature does not verify"),
    "wrong_measurement": ErrorKind(304, "wrong_measurement", "the contract names another image"),
    "wrong_plan": ErrorKind(
        305, "wrong_plan", "the contract names another plan or mechanism than the image has"
    ),
    "contract_expired": ErrorKind(306, "contract_expired", "the contract has expired"),
    "not_a_party": ErrorKind(307, "not_a_party", "the key or index belongs to no such party"),
    "wrong_contract": ErrorKind(308, "wrong_contract", "belongs to another contract"),
    "evidence_unreadable": ErrorKind(401, "evidence_unreadable", "the evidence cannot be parsed"),
    "evidence_refused": ErrorKind(
        402, "evidence_refused", "the appraisal policy does not trust the evidence"
    ),
    "nonce_unknown": ErrorKind(403, "nonce_unknown", "the nonce was not issued, was used, or is too old"),
    "wrong_policy": ErrorKind(404, "wrong_policy", "another appraisal policy than the contract's"),
    "grant_unsealable": ErrorKind(501, "grant_unsealable", "the grant does not open for this boot"),
    "grant_mixed": ErrorKind(
        502, "grant_mixed", "some owners resume and others start afresh; ask all for fresh"
    ),
    "share_inconsistent": ErrorKind(503, "share_inconsistent", "the shares do not make the run's job key"),
    "receipt_invalid": ErrorKind(504, "receipt_invalid", "the deposit receipt does not verify"),
    "no_share": ErrorKind(505, "no_share", "no share was deposited for this contract; nothing to resume"),
    "deposit_unsealable": ErrorKind(506, "deposit_unsealable", "the deposited share does not open"),
    "data_header_invalid": ErrorKind(
        601, "data_header_invalid", "the dataset header is not of its form or not the contract's"
    ),
    "data_chunk_invalid": ErrorKind(602, "data_chunk_invalid", "a chunk does not decrypt at this place"),
    "data_digest_mismatch": ErrorKind(603, "data_digest_mismatch", "the file is not the one in the contract"),
    "data_record_invalid": ErrorKind(604, "data_record_invalid", "a record holds a value outside the schema"),
    "data_too_large": ErrorKind(605, "data_too_large", "more records than the image has room for"),
    "plan_invalid": ErrorKind(701, "plan_invalid", "the plan fails a check"),
    "kernel_failed": ErrorKind(702, "kernel_failed", "a kernel returned an error"),
    "thread_unavailable": ErrorKind(703, "thread_unavailable", "the slot is in use or does not exist"),
    "budget_exhausted": ErrorKind(801, "budget_exhausted", "the ledger does not allow this event"),
    "ledger_unwritable": ErrorKind(
        802, "ledger_unwritable", "the ledger could not be written durably; nothing was released"
    ),
    "ledger_damaged": ErrorKind(803, "ledger_damaged", "the ledger fails its own check"),
    "dataset_unknown": ErrorKind(804, "dataset_unknown", "this broker holds no key for that dataset"),
    "ledger_rolled_back": ErrorKind(
        805, "ledger_rolled_back", "an anchor remembers more than the ledger: an older copy was put back"
    ),
    "anchor_unavailable": ErrorKind(
        806, "anchor_unavailable", "an anchor that the contract names did not answer; ask again later"
    ),
    "revoked": ErrorKind(807, "revoked", "the owner has revoked this contract, measurement or run"),
    "quota_exhausted": ErrorKind(
        808, "quota_exhausted", "the researcher's or the dataset's quota does not allow this event"
    ),
    "too_many_requests": ErrorKind(
        809, "too_many_requests", "more requests than this broker answers; ask again later"
    ),
    "log_inconsistent": ErrorKind(810, "log_inconsistent", "the log contradicts what it said before"),
    "rehearsal": ErrorKind(811, "rehearsal", "this broker only rehearses; nothing was released"),
    "key_unavailable": ErrorKind(
        812, "key_unavailable", "where the data key is kept did not give it; ask again later"
    ),
    "dead": ErrorKind(901, "dead", "the enclave has stopped itself"),
    "entropy_failed": ErrorKind(902, "entropy_failed", "the processor gave no random numbers"),
}

ERRORS: Mapping[str, ErrorKind] = MappingProxyType(_TABLE)
"""Every numbered error, by name, as in ``docs/errors.toml``."""

_BY_NUMBER = {kind.number: kind for kind in _TABLE.values()}


class MyelinError(Exception):
    """Anything that Myelin refuses or fails at."""

    exit_code: ClassVar[int] = 1
    """What a command exits with when this error ends it."""


class InputError(MyelinError):
    """A file or value that the user gave is unusable: its place, what was expected, what was got."""

    exit_code = 2


class CheckError(MyelinError):
    """A check ran and did not pass."""


class BuildError(MyelinError):
    """A model or a plan cannot be built: what is in the way, why, and what to use instead."""


class HostError(MyelinError):
    """The loader or the enclave failed outside of the protocol: it died, or answered nothing readable."""


class ProtocolError(CheckError):
    """A numbered refusal, raised here or carried over the enclave or the broker boundary.

    ``number`` may come from the other side; one that is not in :data:`ERRORS` has the name ``unlisted``.
    ``detail`` is what was found, for people; programs look at ``number`` or ``name``.
    """

    def __init__(self, number: int, detail: str = "") -> None:
        kind = _BY_NUMBER.get(number)
        self.number = number
        self.name = kind.name if kind else "unlisted"
        self.meaning = kind.meaning if kind else "not an error that this version knows"
        self.detail = detail
        super().__init__(f"{self.name} ({number}): {detail or self.meaning}")

    @classmethod
    def named(cls, name: str, detail: str = "") -> ProtocolError:
        """Make the error that ``docs/errors.toml`` lists as ``name``; ``KeyError`` if it lists none."""
        return cls(_TABLE[name].number, detail)

    def __reduce__(self) -> tuple[type[ProtocolError], tuple[int, str]]:
        """Survive pickling, so that the error can cross a process boundary whole."""
        return (type(self), (self.number, self.detail))
