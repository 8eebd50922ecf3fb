"""A confidential virtual machine of a cloud that does not exist: paravisor, virtual TPM and SNP report."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from vendors.authority import pem
from vendors.snp import Machine
from vendors.tpm import Tpm


def base64url(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class VirtualMachine:
    """One boot of a machine, with the TPM that its paravisor made."""

    def __init__(self) -> None:
        self.chip = Machine("genoa")
        self.tpm = Tpm()

    def runtime(self, **changes: Any) -> bytes:
        """The paravisor's runtime data."""
        numbers = self.tpm.key.public_key().public_numbers()
        key = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": base64url(numbers.e)}
        key = {**key, "n": base64url(numbers.n), **changes.pop("key", {})}
        fields = {"keys": [key, {**key, "kid": "HCLEkPub"}], "user-data": "00" * 64, **changes}
        return json.dumps(fields).encode()

    def hcl(self, runtime: bytes | None = None, *, hash_: int = 1, **changes: Any) -> bytes:
        """The paravisor's report; ``snp`` gives the SNP report's own changes."""
        runtime = self.runtime() if runtime is None else runtime
        name = {1: "sha256", 2: "sha384", 3: "sha512"}.get(hash_, "sha256")
        data = changes.get("report_data", hashlib.new(name, runtime).digest().ljust(64, b"\0"))
        snp = self.chip.report(report_data=data, **changes.get("snp", {}))
        size = changes.get("size", 32 + 1184 + 20 + len(runtime))
        header = changes.get("magic", b"HCLA") + struct.pack(
            "<III", changes.get("version", 2), size, changes.get("request", 2)
        )
        request = struct.pack("<IIIII", 20 + len(runtime), 1, changes.get("type", 2), hash_, len(runtime))
        padding = changes.get("padding", bytes(64))
        return header + changes.get("reserved", bytes(16)) + snp + request + runtime + padding

    def fields(self, nonce: bytes, hcl: bytes | None = None) -> dict[str, Any]:
        """The document's fields."""
        selection = tuple(range(24))
        quote = self.tpm.quote(nonce, selection)
        return {
            "quote": {
                "message": list(quote),
                "pcrs": [list(self.tpm.pcrs[index]) for index in selection],
                "signature": list(self.tpm.sign(quote)[6:]),
            },
            "report": list(self.hcl() if hcl is None else hcl),
            "vcek": pem(self.chip.certificate()).decode(),
        }

    def evidence(self, nonce: bytes, hcl: bytes | None = None, **changes: Any) -> bytes:
        """The document."""
        return json.dumps({**self.fields(nonce, hcl), **changes}).encode()
