"""The host's side of an owner's key broker: requests over any transport (``docs/protocol.md`` section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from myelin.contract import ask, connect_to
from myelin.errors import HostError

__all__ = ["BrokerConnection", "Grant"]

Fields = dict[str, Any]


@dataclass(frozen=True)
class Grant:
    """A broker's answer to ``release``: what the enclave opens, and whether the ledger was debited for it."""

    sealed: bytes
    party: int
    debited: bool


class BrokerConnection:
    """One connection to one broker. Use as a context manager.

    Raises:
        HostError: the socket is not there, or the broker closed or answered out of form.
        ProtocolError: the broker refused, with its number and its reason.
    """

    def __init__(self, path: str | Path, timeout_s: float = 60.0, ca: Path | None = None) -> None:
        self.path = path
        self._transport = connect_to(path, timeout_s=timeout_s, ca=ca)

    def __enter__(self) -> BrokerConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    def challenge(self) -> tuple[bytes, bytes]:
        """A fresh nonce (32 bytes) and the digest of the policy that this broker appraises by."""
        answer = self._ask({"verb": "challenge"})
        return self._bytes(answer, "nonce", 32), self._bytes(answer, "policy", 32)

    def release(
        self, contract: bytes, evidence: bytes, hpke_key: bytes, signing_key: bytes, nonce: bytes, mode: str
    ) -> Grant:
        """Ask for the owner's grant to this boot. `mode` is ``"fresh"`` (debited) or ``"resume"``."""
        answer = self._ask(
            {
                "verb": "release",
                "contract": contract,
                "evidence": evidence,
                "hpke_key": hpke_key,
                "signing_key": signing_key,
                "nonce": nonce,
                "mode": mode,
            }
        )
        party, debited = answer.get("party"), answer.get("debited")
        if not isinstance(party, int) or not isinstance(debited, bool):
            raise HostError(f"broker at {self.path}: answer to release lacks `party` or `debited`")
        return Grant(self._bytes(answer, "grant"), party, debited)

    def deposit(self, contract_digest: bytes, boot: bytes, sealed: bytes, signature: bytes) -> bytes:
        """Leave the owner's share of the job key; the answer is the owner's signed receipt."""
        fields = {"contract": contract_digest, "boot": boot, "sealed": sealed, "signature": signature}
        return self._bytes(self._ask({"verb": "deposit", **fields}), "receipt")

    def _bytes(self, answer: Fields, key: str, length: int | None = None) -> bytes:
        value = answer.get(key)
        if not isinstance(value, bytes) or (length is not None and len(value) != length):
            raise HostError(f"broker at {self.path}: `{key}` is not {length or 'a string of'} bytes")
        return value

    def _ask(self, request: Fields) -> Fields:
        return ask(self._transport, request)
