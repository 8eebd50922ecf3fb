"""The pinned roots of trust: which certificates a chain may end in. They come with the package
(``roots.toml``).

Neither policy, nor endorsement, nor evidence can add one. Tests that make vendor-shaped evidence of their
own bring :class:`Roots` of their own, through an argument that says so (``danger_roots``).
"""

from __future__ import annotations

import base64
import hashlib
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["PINNED_ROOTS", "PinnedCertificate", "Roots"]


@dataclass(frozen=True)
class PinnedCertificate:
    """A certificate that the package carries: whose it is, what it is called, and its DER bytes.

    ``product`` tells one vendor's roots apart (``milan``, ``genoa``, ``turin``); empty where there is one.
    """

    vendor: str
    name: str
    product: str
    der: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the DER bytes."""
        return hashlib.sha256(self.der).digest()


@dataclass(frozen=True)
class Roots:
    """Roots of trust, and intermediates that are believed only once they chain to one of them."""

    roots: tuple[PinnedCertificate, ...]
    intermediates: tuple[PinnedCertificate, ...] = ()

    def of(self, vendor: str) -> tuple[PinnedCertificate, ...]:
        """The roots of one vendor."""
        return tuple(root for root in self.roots if root.vendor == vendor)

    def intermediates_of(self, vendor: str) -> tuple[PinnedCertificate, ...]:
        """The carried intermediates of one vendor."""
        return tuple(known for known in self.intermediates if known.vendor == vendor)


def _pinned(row: dict[str, Any]) -> PinnedCertificate:
    certificate = PinnedCertificate(
        row["vendor"],
        row["name"],
        row["product"],
        base64.b64decode("".join(row["der"].split()), validate=True),
    )
    if certificate.fingerprint.hex() != row["sha256"]:
        raise RuntimeError(f"roots.toml: {row['name']} is not the certificate of its fingerprint; reinstall")
    return certificate


def _load() -> Roots:
    table = tomllib.loads(resources.files("myelin.attest").joinpath("roots.toml").read_text("utf-8"))
    return Roots(
        tuple(_pinned(row) for row in table["roots"]), tuple(_pinned(row) for row in table["intermediates"])
    )


PINNED_ROOTS = _load()
"""The roots that production trusts."""
