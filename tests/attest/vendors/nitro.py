"""Documents of a Nitro security module that does not exist."""

from __future__ import annotations

from typing import Any

import cbor2

from myelin.wire import encode
from vendors.certificates import MADE_AT_S, Issued, chain, issue, raw_signature, root

PROTECTED = bytes.fromhex("a1013822")


class NitroModule:
    """A module with a root, authorities and a leaf like AWS's."""

    def __init__(self) -> None:
        self.root = root("vendor test root (nitro)")
        self.authorities = chain("region", "zone", "instance", vendor_root=self.root)
        self.leaf = issue("enclave", self.authorities[-1], authority=False)
        self.roots = self.root.pinned_as("aws")

    def fields(self, **changes: Any) -> dict[str, Any]:
        """The payload's fields; a change to ``None`` of a needed one drops it."""
        fields: dict[str, Any] = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef0",
            "digest": "SHA384",
            "timestamp": MADE_AT_S * 1000 + 250,
            "pcrs": {index: bytes([index + 1] * 48 if index < 5 else 48) for index in range(16)},
            "certificate": self.leaf.der,
            "cabundle": [self.root.der, *(issued.der for issued in self.authorities)],
            "public_key": b"a public key of the enclave",
            "user_data": bytes(range(64)),
            "nonce": b"a nonce of the verifier",
        }
        return {**fields, **changes}

    def document(self, signer: Issued | None = None, *, indefinite: bool = True, **changes: Any) -> bytes:
        """A signed document with the given fields changed."""
        payload = cbor2.dumps(self.fields(**changes))
        if indefinite:
            payload = b"\xbf" + payload[1:] + b"\xff"
        return self.signed(payload, signer)

    def signed(self, payload: bytes, signer: Issued | None = None) -> bytes:
        """Any payload, signed."""
        to_sign = encode(["Signature1", PROTECTED, b"", payload])
        signature = raw_signature((signer or self.leaf).key, to_sign)
        return encode([PROTECTED, {}, payload, signature])
