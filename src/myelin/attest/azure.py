"""Azure's confidential virtual machines: a quote by a TPM that runs inside the SEV-SNP guest.

Azure's paravisor (the "HCL") is what AMD's processor measured and signed. It made the virtual TPM's
attestation key and put the digest of that key, with the rest of its runtime data, into the SNP report; so
the quote's signature leads to AMD. What the guest booted is in the TPM's registers, what runs under it in
the SNP measurement: a reference value names both. Only the quote is fresh: the report is made once a boot.

The evidence is the JSON document that Azure's attestation clients pass on: ``report`` (the HCL's, as
numbers), ``quote`` (``message``, ``pcrs`` and a bare RSASSA ``signature``), ``vcek`` (PEM, a chain or one
certificate).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from myelin.attest.check import Check, compare
from myelin.attest.kind import Claims, RealEvidence, ReferenceValues, unreadable
from myelin.attest.octets import Octets
from myelin.attest.policy import Policy
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.attest.snp import snp_claims, verify_snp_report
from myelin.attest.snp_report import SnpReport, read_report
from myelin.attest.tpm import quote_signature_check, register_check
from myelin.attest.tpm_structures import HASH_BYTES, TpmQuote, TpmSignature, rsa_public_key

__all__ = ["AzureEvidence", "HclReport", "appraise_azure"]

_MOST_JSON_BYTES = 128 << 10
_MOST_DEPTH = 8
_MOST_HCL_BYTES = 8 << 10
_MOST_PEM_CHARACTERS = 16 << 10
_HEADER_BYTES, _REQUEST_BYTES, _SNP_BYTES = 32, 20, 1184
_SNP_REQUEST, _SNP_TYPE = 2, 2
_HASHES: Mapping[int, str] = MappingProxyType({1: "sha256", 2: "sha384", 3: "sha512"})
_ATTESTATION_KEY = "HCLAkPub"
_BINDING = "the paravisor, by its SNP report"


@dataclass(frozen=True)
class HclReport:
    """The paravisor's report: the SNP report, the runtime data it binds, and the key named in those."""

    snp: SnpReport
    runtime_data: bytes
    runtime_hash: str
    key: rsa.RSAPublicKey

    @classmethod
    def read(cls, data: bytes) -> HclReport:
        """Read the paravisor's report; raises ``evidence_unreadable``."""
        what = "HCL report"
        if len(data) > _MOST_HCL_BYTES:
            raise unreadable(what, f"at most {_MOST_HCL_BYTES} bytes", str(len(data)))
        octets = Octets(data, what, "little")
        octets.constant(b"HCLA", "signature")
        octets.uint(4, "version", least=1, most=2)
        size = octets.uint(4, "size", least=_HEADER_BYTES + _SNP_BYTES + _REQUEST_BYTES, most=len(data))
        octets.uint(4, "type of request", least=_SNP_REQUEST, most=_SNP_REQUEST)
        octets.constant(bytes(16), "status and reserved")
        snp = read_report(octets.take(_SNP_BYTES, "SNP report"))
        octets.uint(4, "runtime data, size", least=size - octets.at, most=size - octets.at)
        octets.constant((1).to_bytes(4, "little"), "runtime data, version")
        octets.uint(4, "runtime data, type of report", least=_SNP_TYPE, most=_SNP_TYPE)
        runtime_hash = octets.uint(4, "runtime data, hash", least=1, most=3)
        runtime = octets.sized(4, "runtime data", most=_MOST_HCL_BYTES)
        if octets.at != size:
            raise unreadable(f"{what}, size", str(size), str(octets.at))
        octets.constant(bytes(octets.left), "padding")
        return cls(snp, runtime, _HASHES[runtime_hash], _attestation_key(runtime))


def _attestation_key(runtime: bytes) -> rsa.RSAPublicKey:
    what = "HCL runtime data"
    fields = _json(runtime, what)
    keys = fields.get("keys") if isinstance(fields, dict) else None
    if not isinstance(keys, list):
        raise unreadable(what, "a list 'keys'", "none")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == _ATTESTATION_KEY]
    if len(named) != 1 or named[0].get("kty") != "RSA":
        raise unreadable(f"{what}, keys", f"one RSA key {_ATTESTATION_KEY!r}", f"{len(named)} by that name")
    what = f"{what}, {_ATTESTATION_KEY}"
    modulus, exponent = (_base64url(named[0].get(part), f"{what}, {part}") for part in ("n", "e"))
    bits = 8 * len(modulus)
    if bits not in (2048, 3072, 4096):
        raise unreadable(what, "2048, 3072 or 4096 bits", str(bits))
    return rsa_public_key(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"), bits, what)


def _base64url(value: object, what: str) -> bytes:
    if not isinstance(value, str) or not value.isascii() or not 1 <= len(value) <= 1024:
        raise unreadable(what, "base64url text", type(value).__name__)
    padded = value + "=" * (-len(value) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        raise unreadable(what, "base64url text", "other characters") from None


@dataclass(frozen=True)
class AzureEvidence:
    """A quote of the virtual TPM with the paravisor's report, as read, not yet believed."""

    quote: TpmQuote
    signature: TpmSignature
    pcrs: tuple[tuple[int, bytes], ...]
    hcl: HclReport
    vcek: bytes

    @classmethod
    def read(cls, data: bytes) -> AzureEvidence:
        """Read the JSON document; raises ``evidence_unreadable``."""
        what = "Azure evidence"
        if len(data) > _MOST_JSON_BYTES:
            raise unreadable(what, f"at most {_MOST_JSON_BYTES} bytes", str(len(data)))
        fields = _object(_json(data, what), what, ("quote", "report", "vcek"))
        parts = _object(fields["quote"], f"{what}, quote", ("message", "pcrs", "signature"))
        quote = TpmQuote.read(_numbers(parts["message"], f"{what}, quote, message", 2048))
        signature = _numbers(parts["signature"], f"{what}, quote, signature", 512)
        vcek = fields["vcek"]
        if not isinstance(vcek, str) or not vcek.isascii() or len(vcek) > _MOST_PEM_CHARACTERS:
            raise unreadable(f"{what}, vcek", "certificates in PEM", type(vcek).__name__)
        return cls(
            quote,
            TpmSignature.rsassa_sha256(signature),
            _pcrs(parts["pcrs"], quote, f"{what}, quote, pcrs"),
            HclReport.read(_numbers(fields["report"], f"{what}, report", _MOST_HCL_BYTES)),
            vcek.encode(),
        )


def _json(data: bytes, what: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise unreadable(what, "JSON with each name once", str(error)[:80]) from None


def _object(value: object, what: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        got = ", ".join(sorted(value))[:80] if isinstance(value, dict) else type(value).__name__
        raise unreadable(what, f"the fields {', '.join(names)}", got)
    return value


def _numbers(value: object, what: str, most: int) -> bytes:
    """Bytes, which these documents write as a list of numbers."""
    if not isinstance(value, list) or len(value) > most:
        raise unreadable(what, f"a list of at most {most} numbers", type(value).__name__)
    if not all(type(number) is int and 0 <= number <= 255 for number in value):
        raise unreadable(what, "numbers from 0 to 255", "others")
    return bytes(value)


def _pcrs(value: object, quote: TpmQuote, what: str) -> tuple[tuple[int, bytes], ...]:
    size = HASH_BYTES[quote.bank]
    if not isinstance(value, list) or len(value) != len(quote.selection):
        raise unreadable(what, f"the {len(quote.selection)} quoted registers", type(value).__name__)
    pcrs = [_numbers(pcr, what, size) for pcr in value]
    if any(len(pcr) != size for pcr in pcrs):
        raise unreadable(what, f"registers of {size} bytes", "others")
    return tuple(zip(quote.selection, pcrs, strict=True))


def appraise_azure(
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> tuple[Claims | None, tuple[Check, ...]]:
    """Check the way from AMD's root to the quote; a :class:`~myelin.attest.kind.KindVerifier`.

    The chip's certificate may be in the evidence or among the ``endorsements``, where the revocation list of
    AMD's root belongs.
    """
    read = AzureEvidence.read(evidence)
    snp = read.hcl.snp
    kind = RealEvidence.AZURE_SNP
    verified = verify_snp_report(kind, snp, (read.vcek, *endorsements), policy, now_s, danger_roots)
    anchor = verified.trust_anchor
    claims = snp_claims(
        kind,
        snp,
        verified,
        registers=tuple((f"pcr{index}", value) for index, value in read.pcrs),
        report_data=("nonce", read.quote.extra_data),
    )
    level = Check.made(
        "privilege level", anchor, "VMPL 0, the paravisor's", f"VMPL {snp.vmpl}", snp.vmpl == 0
    )
    return claims, (
        quote_signature_check(read.quote, read.signature, read.hcl.key, _BINDING),
        register_check(read.quote, read.signature, dict(read.pcrs), _BINDING),
        _runtime_data_check(read.hcl, anchor),
        Check.group("SNP report", anchor, [*verified.checks, level]),
    )


def _runtime_data_check(hcl: HclReport, anchor: str) -> Check:
    """The report data of the SNP report are the digest of the runtime data, and nothing else."""
    digest = hashlib.new(hcl.runtime_hash, hcl.runtime_data).digest()
    return compare("runtime data", anchor, hcl.snp.report_data, digest.ljust(64, b"\0"))
