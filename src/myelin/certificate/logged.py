"""Checks that a certificate, its contract and the ledgers behind it stand in a public log."""

from __future__ import annotations

from dataclasses import dataclass

from myelin.attest import Check, Verdict
from myelin.contract import SignedContract
from myelin.errors import ProtocolError
from myelin.log import LogProof
from myelin.wire import digest

__all__ = ["LogClaim", "check_logged"]


@dataclass(frozen=True)
class LogClaim:
    """A proof from a log, the log's signing key, and a checkpoint of it that was seen before, if any."""

    proof: LogProof
    signing_key: bytes
    seen: bytes | None = None


def check_logged(claim: LogClaim, certificate: bytes, contract: SignedContract) -> Check:
    """Whether the log has the contract, the certificate (COSE_Sign1), and a head of every owner's ledger.

    A log that was forked, or had entries taken out since ``claim.seen``, fails.
    """
    anchor = "the log's signature on its checkpoint"
    expected = "all leaves under one signed root that extends what was seen before"
    try:
        checkpoint, leaves = claim.proof.check(claim.signing_key, claim.seen)
    except ProtocolError as error:
        failed = Check("log checkpoint", anchor, expected, error.detail or error.meaning, Verdict.FAILED)
        return Check.group("transparency log", "all of the below", [failed])
    got = f"{checkpoint.size} leaves of {checkpoint.origin}"
    checks = [Check("log checkpoint", anchor, expected, got, Verdict.PASSED)]

    def present(name: str, what: str, found: bool) -> None:
        verdict = Verdict.PASSED if found else Verdict.FAILED
        checks.append(Check(name, anchor, what, "it is there" if found else "it is not", verdict))

    of = [leaf for leaf in leaves if leaf["contract"] == contract.digest]
    named = contract.contract.measurement
    logged = any(leaf["kind"] == "contract" and leaf["measurement"] == named for leaf in of)
    present("contract in the log", "a leaf for this contract and its measurement", logged)
    released = digest(certificate)
    found = any(leaf["kind"] == "release" and leaf["certificate"] == released for leaf in of)
    present("release in the log", "a leaf for this certificate", found)
    for owner in contract.contract.owners if "log" in contract.contract.anchors else ():
        party = contract.contract.parties[owner]
        head = any(leaf["kind"] == "head" and leaf["owner"] == party.signing_key for leaf in of)
        present(f"ledger of {party.name} in the log", "a head of the ledger with its debit", head)
    return Check.group("transparency log", "all of the below", checks)
