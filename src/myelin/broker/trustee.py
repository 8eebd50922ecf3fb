"""Data keys in Trustee: a Key Broker Service of Confidential Containers gives them to this broker, at each
release.

The KBS attestation protocol (Trustee, ``kbs/docs/kbs_attestation_protocol.md``): *request* and *challenge* at
``/kbs/v0/auth``, *attestation* at ``/kbs/v0/attest``, then the resource, encrypted to a key that was drawn
for this handshake (JWE: ECDH-ES+A256KW on P-256, A256GCM). The broker is the client: it runs in a
confidential VM of its own, and Trustee's policy decides whether it gets the key. Contract, evidence of the
enclave, budget and anchors are checked by the broker as ever, before it asks.

*Assumes* Trustee to keep the key; the ledger no longer does so alone, so deleting the ledger does not delete
the key, and an anchor is what keeps a new ledger from being worth anything.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias, final
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from myelin.errors import InputError, ProtocolError

__all__ = ["Attester", "Call", "TrusteeKeys", "call_http", "open_jwe"]

PROTOCOL_VERSION = "0.4.0"
"""The version of the KBS protocol that is asked for."""

_MOST_ANSWER_BYTES = 256 << 10
_KEY_BYTES = 32
_LOCAL = ("localhost", "127.0.0.1", "::1")

Attester: TypeAlias = Callable[[bytes], Mapping[str, Any]]
"""Gives this machine's evidence, as Trustee's verifier for it expects, over the SHA-384 of the runtime
data."""

Call: TypeAlias = Callable[[str, str, bytes, Mapping[str, str]], "tuple[int, Mapping[str, str], bytes]"]
"""Method, path, body, headers; gives status, headers (lower case) and body. Raises ``OSError``."""


def _refused(why: str) -> ProtocolError:
    return ProtocolError.named("key_unavailable", f"Trustee: {why}")


def call_http(address: str, *, ca: str | None = None, timeout_s: float = 20.0) -> Call:
    """Calls over HTTPS (plain HTTP to this machine alone); ``ca`` is a file of certificates to trust."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InputError(f"Trustee: expected https://HOST:PORT, got {address[:200]!r}")
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        raise InputError(f"Trustee: expected https:// for another machine, got {address[:200]!r}")
    host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)

    def call(
        method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca)
            connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        try:
            connection.request(method, path, body or None, dict(headers))
            response = connection.getresponse()
            data = response.read(_MOST_ANSWER_BYTES + 1)
            return response.status, {k.lower(): v for k, v in response.getheaders()}, data
        except http.client.HTTPException as error:
            raise OSError(f"HTTP: {error.__class__.__name__}") from None
        finally:
            connection.close()

    return call


@final
@dataclass(frozen=True)
class TrusteeKeys:
    """Data keys as resources ``REPOSITORY/TYPE/TAG`` of a KBS: the tag is the digest of the sealed file, in
    hex.

    ``tee`` is Trustee's word for the kind of machine (``snp``, ``tdx``, …); ``sample`` proves nothing and is
    for tests. Usable as :data:`~myelin.contract.DataKeys`.
    """

    call: Call = field(repr=False)
    attest: Attester = field(repr=False)
    tee: str
    resources: str

    def __post_init__(self) -> None:
        parts = self.resources.split("/")
        if len(parts) != 2 or not all(p and p.replace("-", "").replace("_", "").isalnum() for p in parts):
            raise InputError(f"Trustee resources: expected REPOSITORY/TYPE, got {self.resources[:80]!r}")

    def __call__(self, dataset: bytes) -> bytes:
        """Fetch one data key; raises ``key_unavailable``, or ``dataset_unknown`` if there is none."""
        private = ec.generate_private_key(ec.SECP256R1())
        session, nonce = self._auth()
        token = self._attest(session, nonce, private)
        path = f"/kbs/v0/resource/{self.resources}/{dataset.hex()}"
        headers = {"Cookie": session, "Authorization": f"Bearer {token}"}
        status, _, body = self._called("GET", path, b"", headers)
        if status == 404:
            raise ProtocolError.named("dataset_unknown", f"Trustee has no resource {path}")
        if status != 200:
            raise _refused(f"it refused the resource (HTTP {status}); its policy decides")
        key = open_jwe(_json(body, "resource"), private)
        if len(key) != _KEY_BYTES:
            raise _refused(f"the resource has {len(key)} bytes; expected a data key of {_KEY_BYTES}")
        return key

    def _auth(self) -> tuple[str, str]:
        request = {"version": PROTOCOL_VERSION, "tee": self.tee, "extra-params": ""}
        status, headers, body = self._posted("/kbs/v0/auth", request, {})
        if status != 200:
            raise _refused(
                f"it refused the request (HTTP {status}); does it speak version {PROTOCOL_VERSION}?"
            )
        try:
            cookie = SimpleCookie(headers.get("set-cookie", "")).get("kbs-session-id")
        except CookieError:
            cookie = None
        nonce = _json(body, "challenge").get("nonce")
        if cookie is None or not isinstance(nonce, str) or not 1 <= len(nonce) <= 1024:
            raise _refused("its challenge lacks a session or a nonce")
        return f"kbs-session-id={cookie.value}", nonce

    def _attest(self, session: str, nonce: str, private: ec.EllipticCurvePrivateKey) -> str:
        numbers = private.public_key().public_numbers()
        public = {
            "kty": "EC",
            "crv": "P-256",
            "alg": "ECDH-ES+A256KW",
            "x": _base64(numbers.x.to_bytes(32, "big")),
            "y": _base64(numbers.y.to_bytes(32, "big")),
        }
        runtime = {"nonce": nonce, "tee-pubkey": public}
        hasher = hashes.Hash(hashes.SHA384())
        hasher.update(json.dumps(runtime, sort_keys=True, separators=(",", ":")).encode())
        evidence = {"primary_evidence": dict(self.attest(hasher.finalize())), "additional_evidence": "{}"}
        attestation = {"runtime-data": runtime, "tee-evidence": evidence}
        status, _, body = self._posted("/kbs/v0/attest", attestation, {"Cookie": session})
        if status != 200:
            raise _refused(f"it does not trust this broker's machine (HTTP {status})")
        token = _json(body, "attestation result").get("token")
        if not isinstance(token, str) or not token.isascii() or not 1 <= len(token) <= 128 << 10:
            raise _refused("its attestation result has no token")
        return token

    def _posted(
        self, path: str, payload: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        body = json.dumps(payload).encode()
        return self._called("POST", path, body, {"Content-Type": "application/json", **headers})

    def _called(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            status, answered, data = self.call(method, path, body, headers)
        except OSError as error:
            raise _refused(f"it does not answer: {error.strerror or error}") from None
        if len(data) > _MOST_ANSWER_BYTES:
            raise _refused(f"an answer of more than {_MOST_ANSWER_BYTES} bytes")
        return status, answered, data


def open_jwe(jwe: Mapping[str, Any], private: ec.EllipticCurvePrivateKey) -> bytes:
    """Open a JWE in flattened JSON (RFC 7516) that was made for a P-256 key with ECDH-ES+A256KW and A256GCM.

    Raises ``key_unavailable``; any other algorithm is refused.
    """
    protected = jwe.get("protected")
    if not isinstance(protected, str) or not protected.isascii():
        raise _refused("the resource is no JWE")
    header = _json(_unbase64(protected, "protected"), "JWE header")
    if (header.get("alg"), header.get("enc")) != ("ECDH-ES+A256KW", "A256GCM") or "crit" in header:
        raise _refused("expected ECDH-ES+A256KW and A256GCM in the JWE, got others")
    try:
        point = header["epk"]
        if (point["kty"], point["crv"]) != ("EC", "P-256"):
            raise ValueError("curve")
        x, y = (int.from_bytes(_unbase64(point[name], name), "big") for name in ("x", "y"))
        shared = private.exchange(ec.ECDH(), ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
        info = b"".join(
            len(part).to_bytes(4, "big") + part
            for part in (
                b"ECDH-ES+A256KW",
                *(_unbase64(header.get(name, ""), name) for name in ("apu", "apv")),
            )
        ) + (256).to_bytes(4, "big")
        wrapping = ConcatKDFHash(hashes.SHA256(), 32, info).derive(shared)
        key = aes_key_unwrap(wrapping, _unbase64(jwe.get("encrypted_key"), "encrypted_key"))
        further = jwe.get("aad")
        bound = protected if not further else f"{protected}.{further}"
        sealed = _unbase64(jwe.get("ciphertext"), "ciphertext") + _unbase64(jwe.get("tag"), "tag")
        return AESGCM(key).decrypt(_unbase64(jwe.get("iv"), "iv"), sealed, bound.encode("ascii"))
    except (KeyError, TypeError, ValueError, InvalidUnwrap, InvalidTag):
        raise _refused("the resource does not open with the key of this handshake") from None


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _refused(f"the {what} is no JSON object")
    return value


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: object, what: str) -> bytes:
    if not isinstance(text, str) or len(text) > _MOST_ANSWER_BYTES:
        raise _refused(f"JWE, {what}: expected base64url text")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise _refused(f"JWE, {what}: expected base64url text") from None
