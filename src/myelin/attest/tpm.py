"""TPM 2.0 quotes with the firmware's event log: what a machine booted, by a key that never leaves its TPM.

No vendor's root is pinned for TPMs: makers are many, and a TPM tells nothing about who can open the
machine. So the relying party's policy lists the attestation keys (``platforms``) of its own machines. A
certificate of the attestation key is believed only where a root for TPMs is given, which production has
none of.

The evidence is a CBOR map: ``quote`` (``TPMS_ATTEST``), ``signature`` (``TPMT_SIGNATURE``), ``ak_public``
(``TPMT_PUBLIC``), ``pcrs`` (index to value, exactly the quoted ones), ``event_log`` (empty if there is
none, which fails).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from myelin.attest.chain import device_chain_check, endorsed_certificates, root_name
from myelin.attest.check import Check, compare
from myelin.attest.event_log import MOST_EVENT_LOG_BYTES, EventLog
from myelin.attest.kind import Claims, RealEvidence, ReferenceValues, unreadable
from myelin.attest.policy import Policy
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.attest.tpm_structures import (
    HASH_BYTES,
    HASH_NAMES,
    MOST_PCRS,
    TpmPublic,
    TpmQuote,
    TpmSignature,
    quote_signature_verifies,
)
from myelin.wire import Shape, decode

__all__ = ["TpmEvidence", "appraise_tpm", "quote_signature_check", "register_check"]

_REFUSAL = "evidence_unreadable"
_FIELDS = ("ak_public", "event_log", "pcrs", "quote", "signature")
_MOST_STRUCTURE_BYTES = 2048
_FIRMWARE_REGISTERS = frozenset(range(8))
_UNDERSTOOD = frozenset({"2.5.29.17", "2.5.29.37"})
"""Names and extended key usages, which certificates of attestation keys mark as critical."""

_POLICY = "the relying party's list of platforms"


@dataclass(frozen=True)
class TpmEvidence:
    """A quote with all that it takes to check it, as read, not yet believed."""

    quote: TpmQuote
    signature: TpmSignature
    key: TpmPublic
    pcrs: tuple[tuple[int, bytes], ...]
    event_log: EventLog | None

    @classmethod
    def read(cls, data: bytes) -> TpmEvidence:
        """Read the evidence; raises ``evidence_unreadable``."""
        shape, what = Shape(_REFUSAL, _REFUSAL), "TPM evidence"
        limit = MOST_EVENT_LOG_BYTES + (8 << 10)
        if len(data) > limit:
            raise unreadable(what, f"at most {limit} bytes", str(len(data)))
        fields = shape.map(decode(data, refusal=_REFUSAL, what=what), what, _FIELDS)
        raw = {
            name: shape.bytes(fields[name], f"{what}, {name}", most=_MOST_STRUCTURE_BYTES)
            for name in ("ak_public", "quote", "signature")
        }
        log = shape.bytes(fields["event_log"], f"{what}, event_log", most=MOST_EVENT_LOG_BYTES)
        quote = TpmQuote.read(raw["quote"])
        return cls(
            quote,
            TpmSignature.read(raw["signature"]),
            TpmPublic.read(raw["ak_public"]),
            _pcrs(shape, fields["pcrs"], quote),
            EventLog.read(log, quote.bank) if log else None,
        )


def _pcrs(shape: Shape, value: object, quote: TpmQuote) -> tuple[tuple[int, bytes], ...]:
    what = "TPM evidence, pcrs"
    if not isinstance(value, dict) or len(value) > MOST_PCRS:
        raise unreadable(what, "a map of registers", "something else")
    size = HASH_BYTES[quote.bank]
    pcrs = tuple(
        (shape.uint(index, f"{what}, index", most=MOST_PCRS - 1), shape.bytes(pcr, what, size=size))
        for index, pcr in sorted(value.items(), key=lambda item: str(item[0]).zfill(2))
    )
    named = tuple(index for index, _ in pcrs)
    if named != quote.selection:
        raise unreadable(what, f"the quoted registers {list(quote.selection)}", str(list(named)))
    return pcrs


def appraise_tpm(
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> tuple[Claims | None, tuple[Check, ...]]:
    """Check a quote's signature, key, registers and log; a :class:`~myelin.attest.kind.KindVerifier`.

    ``endorsements`` may hold the attestation key's certificate and its authorities, the leaf first. A TPM
    says nothing about debugging, versions or time that a relying party could use.
    """
    read = TpmEvidence.read(evidence)
    trust, anchor = _trust_check(read.key, endorsements, policy, now_s, danger_roots)
    claims = Claims(
        kind=RealEvidence.TPM,
        trust_anchor=anchor,
        registers=tuple((f"pcr{index}", value) for index, value in read.pcrs),
        report_data=(("nonce", read.quote.extra_data),),
        debug=False,
        platform_id=read.key.digest,
        security_version=None,
        product="",
        tcb=(),
        tcb_status=None,
        advisories=(),
        issued_s=None,
        collateral_issued_s=None,
    )
    unfit = ", ".join(read.key.unfit) or "a restricted signing key, fixed in its TPM"
    use = Check.made(
        "use of the key", anchor, "a restricted signing key, fixed in its TPM", unfit, not read.key.unfit
    )
    return claims, (
        quote_signature_check(read.quote, read.signature, read.key.key, anchor),
        Check.group("attestation key", anchor, [trust, use]),
        register_check(read.quote, read.signature, dict(read.pcrs), anchor),
        _event_log_check(read, anchor),
    )


def quote_signature_check(quote: TpmQuote, signature: TpmSignature, key: object, anchor: str) -> Check:
    """Check the quote's signature by the attestation key, with a digest that is as long as the bank's."""
    good = quote_signature_verifies(quote, signature, key)  # type: ignore[arg-type]
    expected = "the attestation key's signature over the quote"
    return Check.made("evidence signature", anchor, expected, "it verifies" if good else "it does not", good)


def register_check(quote: TpmQuote, signature: TpmSignature, pcrs: Mapping[int, bytes], anchor: str) -> Check:
    """Check that the registers' values, in order, hash to the digest that the quote signed.

    The digest is by the hash of the signature scheme (TPM 2.0 Library, Part 3, TPM2_Quote).
    """
    values = b"".join(pcrs[index] for index in quote.selection)
    digest = hashlib.new(HASH_NAMES[signature.hash], values).digest()
    return compare("register values", anchor, quote.pcr_digest, digest)


def _trust_check(
    key: TpmPublic, endorsements: tuple[bytes, ...], policy: Policy, now_s: int, roots: Roots
) -> tuple[Check, str]:
    """Whose word the key is: a certificate under a root for TPMs, or else the policy's list."""
    pinned, chain = roots.of("tpm"), endorsed_certificates(endorsements)
    if pinned and chain:
        anchor = root_name(pinned)
        mine = key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        checks = [
            device_chain_check(chain, pinned, now_s, understood=_UNDERSTOOD),
            compare("certified key", anchor, mine, chain[0].public_key_info),
        ]
        return Check.group("trust in the key", anchor, checks), anchor
    expected = "a key that the policy lists (platforms)"
    if policy.platforms is None:
        why = f"the policy lists none; add {key.digest.hex()} if this is a machine of yours"
        return Check.skipped("trust in the key", _POLICY, expected, why), _POLICY
    return (
        Check.made("trust in the key", _POLICY, expected, key.digest.hex(), key.digest in policy.platforms),
        _POLICY,
    )


def _event_log_check(read: TpmEvidence, anchor: str) -> Check:
    """The log must come to every quoted register that it, or the firmware of every PC, extends."""
    if read.event_log is None:
        why = "the evidence has none; take it from binary_bios_measurements"
        return Check.skipped("event log", anchor, "events that come to the quoted registers", why)
    log, quoted = read.event_log, dict(read.pcrs)
    named = sorted(set(quoted) & (_FIRMWARE_REGISTERS | log.registers))
    if not named:
        why = "the quote has none of the registers that the log extends"
        return Check.skipped("event log", anchor, "events that come to the quoted registers", why)
    checks = [compare(f"replay to pcr{index}", anchor, quoted[index], log.replay(index)) for index in named]
    return Check.group("event log", anchor, checks)
