"""What the commands that judge evidence have in common: policy, reference values, endorsements, as files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from myelin.attest import Measurement, Policy, load_measurements
from myelin.contract import read_bounded
from myelin.errors import InputError

__all__ = ["ENDORSEMENTS_HELP", "POLICY_HELP", "REFERENCE_HELP", "endorsements", "policy", "references"]

POLICY_HELP = "what to accept: production, or a TOML file (docs/attestation.md)"
REFERENCE_HELP = "TOML with tables of measurements, beside the policy's own; may be repeated"
ENDORSEMENTS_HELP = "the vendor's certificates (DER, PEM) or collateral (JSON); may be repeated"

_MOST_ENDORSEMENT_BYTES = 1 << 20


def policy(name: str) -> Policy:
    """The policy that a command line names; :class:`~myelin.errors.InputError` for the file and field."""
    if name == "production":
        return Policy.production()
    if not name.endswith(".toml"):
        raise InputError(f"--policy: expected production, or a policy file NAME.toml, got {name!r}")
    return Policy.load(name)


def references(paths: Iterable[Path] | None) -> tuple[Measurement, ...]:
    """All reference values of some files."""
    return tuple(measurement for path in paths or () for measurement in load_measurements(path))


def endorsements(paths: Iterable[Path] | None) -> tuple[bytes, ...]:
    """The endorsements in some files, as they are now."""
    return tuple(read_bounded(path, _MOST_ENDORSEMENT_BYTES) for path in paths or ())
