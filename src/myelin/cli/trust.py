"""What the commands that judge evidence have in common: policy, reference values, endorsements, as files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from myelin.attest import Measurement, Policy, load_measurements
from myelin.contract import read_bounded
from myelin.errors import InputError

__all__ = [
    "AT_HELP",
    "ENDORSEMENTS_HELP",
    "POLICY_HELP",
    "REFERENCE_HELP",
    "endorsements",
    "policy",
    "references",
    "time_of",
]

POLICY_HELP = "what to accept: production, or a TOML file (docs/attestation.md)"
REFERENCE_HELP = "TOML with tables of measurements, beside the policy's own; may be repeated"
ENDORSEMENTS_HELP = (
    "the vendor's certificates, collateral, revocation lists: a file or folder; may be repeated"
)
AT_HELP = "judge at this time: 2025-06-19T12:00:00Z or Unix seconds; default: now"

_MOST_ENDORSEMENT_BYTES = 1 << 20
_MOST_ENDORSEMENTS = 64


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
    """The endorsements in some files, and in the files of some folders, as they are now."""
    files: list[Path] = []
    for path in paths or ():
        inside = sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]
        files += [child for child in inside if not child.name.startswith(".")] if path.is_dir() else inside
    if len(files) > _MOST_ENDORSEMENTS:
        raise InputError(f"--endorsements: expected at most {_MOST_ENDORSEMENTS} files, got {len(files)}")
    return tuple(read_bounded(path, _MOST_ENDORSEMENT_BYTES) for path in files)


def time_of(text: str | None) -> int:
    """The Unix time that a command line names; now if it names none."""
    if text is None:
        return int(time.time())
    if re.fullmatch(r"[0-9]{1,11}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InputError(f"--at: expected a time with its zone, as in 2025-06-19T12:00:00Z, got {text!r}")
    return int(moment.timestamp())
