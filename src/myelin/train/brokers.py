"""The host's side of an owner's key broker: frames over a Unix socket (``docs/protocol.md`` section 4)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cbor2

from myelin.errors import HostError, ProtocolError

__all__ = ["FRAME_BYTES_MAX", "BrokerConnection", "Grant"]

FRAME_BYTES_MAX = 1 << 20
"""The longest frame that either side accepts."""

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

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"no broker answers at {path}: {error.strerror or error}; start it with `myelin broker run`"
            ) from error

    def __enter__(self) -> BrokerConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

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
        frame = cbor2.dumps(request, canonical=True)
        try:
            self._socket.sendall(struct.pack("<I", len(frame)) + frame)
            (length,) = struct.unpack("<I", self._read(4))
            if length > FRAME_BYTES_MAX:
                raise HostError(f"broker at {self.path}: frame of {length} bytes, at most {FRAME_BYTES_MAX}")
            answer = cbor2.loads(self._read(length))
        except (OSError, cbor2.CBORDecodeError) as error:
            raise HostError(f"broker at {self.path}: {request['verb']} was not answered: {error}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            raise HostError(f"broker at {self.path}: answer is not a map with `ok`")
        if not answer["ok"]:
            number, message = answer.get("error"), answer.get("message")
            if not isinstance(number, int) or not isinstance(message, str):
                raise HostError(f"broker at {self.path}: refusal lacks `error` or `message`")
            raise ProtocolError(number, message)
        return answer

    def _read(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                raise HostError(f"broker at {self.path} closed the connection")
            parts += part
        return bytes(parts)
