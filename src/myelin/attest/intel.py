"""Intel SGX and TDX: quotes judged by ``dcap-qvl`` under its strict policy, at a given time, offline.

The collateral (TCB info, identity of the quoting enclave, revocation lists) comes as one JSON object, as
Intel's and others' caching services give it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

import dcap_qvl

from myelin.attest.check import Check, within
from myelin.attest.der import read_element
from myelin.attest.intel_quote import IntelQuote, read_quote
from myelin.attest.kind import Claims, RealEvidence, ReferenceValues, unreadable
from myelin.attest.policy import Policy
from myelin.attest.roots import PINNED_ROOTS, PinnedCertificate, Roots
from myelin.errors import ProtocolError

__all__ = ["appraise_sgx", "appraise_tdx", "quote_platform"]

_MOST_COLLATERAL_BYTES = 1 << 20
_STATUSES = frozenset(
    {
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    }
)
"""Intel's judgements that a policy can accept; ``Revoked`` is none of them."""

_SGX_INIT, _SGX_DEBUG, _SGX_MODE_64, _SGX_PROVISION_KEY, _SGX_EINITTOKEN_KEY = 1, 2, 4, 1 << 4, 1 << 5
_TDX_DEBUGGABLE, _TDX_SEPT_VE_DISABLE = 0xFF, 1 << 28
_TDX_HARMLESS = _TDX_SEPT_VE_DISABLE | 1 << 30 | 1 << 31 | 1 << 63
"""Attributes that give nobody a way in: no #VE on unmapped pages, PKS, key locker, performance counters of
its own."""

_Result = TypeVar("_Result")


def appraise_sgx(
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> tuple[Claims | None, tuple[Check, ...]]:
    """Appraise an SGX quote of version 3; ``endorsements`` hold its collateral as JSON."""
    return _appraise(RealEvidence.SGX, evidence, endorsements, policy, now_s, danger_roots)


def appraise_tdx(
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> tuple[Claims | None, tuple[Check, ...]]:
    """Appraise a TDX quote of version 4 or 5; ``endorsements`` hold its collateral as JSON."""
    return _appraise(RealEvidence.TDX, evidence, endorsements, policy, now_s, danger_roots)


def quote_platform(quote: IntelQuote) -> tuple[str, str]:
    """What Intel's services know the quote's platform by: its FMSPC in upper-case hex, and the authority of
    its PCK certificate, ``platform`` or ``processor``. Raises ``evidence_unreadable``."""
    what = "quote, PCK certificate"
    try:
        parsed = _guarded(lambda: dcap_qvl.Quote.parse(quote.raw))
        fmspc, authority = _guarded(lambda: (str(parsed.fmspc()), str(parsed.ca())))
    except ValueError as error:
        raise unreadable(what, "Intel's extension with an FMSPC", str(error)[:120]) from None
    if not re.fullmatch("[0-9A-Fa-f]{12}", fmspc) or authority not in ("platform", "processor"):
        raise unreadable(
            what, "an FMSPC of 6 bytes, of a platform or processor", f"{fmspc[:40]} {authority[:20]}"
        )
    return fmspc.upper(), authority


@dataclass(frozen=True)
class _Collateral:
    """Collateral that has its form; whether it is signed is for ``dcap-qvl`` to say."""

    value: dcap_qvl.QuoteCollateralV3
    issued_s: int
    from_s: int
    until_s: int


def _appraise(
    kind: RealEvidence,
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    policy: Policy,
    now_s: int,
    roots: Roots,
) -> tuple[Claims | None, tuple[Check, ...]]:
    quote = read_quote(evidence)
    if quote.kind is not kind:
        raise unreadable("quote", f"a quote of {kind.value}", f"one of {quote.kind.value}")
    known = roots.of("intel")
    anchor = known[0].name if known else "no Intel root"
    expected = "everything signed verifies up to Intel's root"
    collateral, problem = _find_collateral(endorsements)
    verified: dict[str, Any] | None = None
    if collateral is None or not known:
        checks = [Check.skipped("evidence signature", anchor, expected, problem or "no Intel root is known")]
    else:
        verified, got = _verify(quote, collateral, known[0], now_s, dcap_qvl.QuotePolicy.claims_only(now_s))
        checks = [Check.made("evidence signature", anchor, expected, got, verified is not None)]
        checks.append(within("collateral validity", anchor, collateral.from_s, collateral.until_s, now_s))
        strict, got = _verify(quote, collateral, known[0], now_s, _strict(policy, now_s))
        allowed = "it passes a strict policy with the statuses and properties that this one allows"
        checks.append(Check.made("platform policy", anchor, allowed, got, strict is not None))
    checks += [_root_check(quote, known, anchor), *_attribute_checks(quote, anchor)]
    return _claims(quote, verified, collateral, anchor), tuple(checks)


def _claims(
    quote: IntelQuote, verified: dict[str, Any] | None, collateral: _Collateral | None, anchor: str
) -> Claims:
    tcb = verified["tcb"] if verified is not None else {}
    pck = verified["platform"]["pck"] if verified is not None else {}
    flags = int.from_bytes(quote.attributes[:8], "little")
    debuggable = _SGX_DEBUG if quote.kind is RealEvidence.SGX else _TDX_DEBUGGABLE
    return Claims(
        kind=quote.kind,
        trust_anchor=anchor,
        registers=quote.registers,
        report_data=(("report_data", quote.report_data),),
        debug=bool(flags & debuggable),
        platform_id=bytes(pck["ppid"]) if "ppid" in pck else None,
        security_version=quote.security_version,
        product=bytes(pck["fmspc"]).hex() if "fmspc" in pck else "",
        tcb=(),
        tcb_status=str(tcb.get("status", "unknown")),
        advisories=tuple(str(advisory) for advisory in tcb.get("advisory_ids", ("unknown",))),
        issued_s=None,
        collateral_issued_s=collateral.issued_s if collateral is not None else None,
    )


def _verify(
    quote: IntelQuote,
    collateral: _Collateral,
    root: PinnedCertificate,
    now_s: int,
    policy: dcap_qvl.QuotePolicy,
) -> tuple[dict[str, Any] | None, str]:
    """What ``dcap-qvl`` found, or ``None`` and why it refused."""
    verifier = dcap_qvl.QuoteVerifier(root_ca_der=root.der)
    try:
        claims = _guarded(lambda: verifier.verify_with_policy(quote.raw, collateral.value, now_s, policy))
    except ValueError as error:
        return None, str(error).removeprefix("Verification failed: ")
    return json.loads(claims.to_json()), "it is so"


def _strict(policy: Policy, now_s: int) -> dcap_qvl.QuotePolicy:
    strict = (
        dcap_qvl.QuotePolicy.strict(now_s)
        .allow_smt(policy.allow_smt)
        .allow_dynamic_platform(policy.allow_dynamic_platform)
        .allow_cached_keys(policy.allow_cached_keys)
    )
    for status in sorted(policy.tcb_statuses & _STATUSES):
        strict = strict.allow_status(status)
    return strict


def _guarded(call: Callable[[], _Result]) -> _Result:
    """Call into the extension; a panic there (which is no ``Exception``) is a refusal, not a crash."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ValueError(str(error)[:500] or type(error).__name__) from None


def _find_collateral(endorsements: tuple[bytes, ...]) -> tuple[_Collateral | None, str]:
    """The one collateral among the endorsements, or what is wrong with it."""
    found = [data for data in endorsements if data.lstrip()[:1] == b"{"]
    if len(found) != 1:
        return None, f"expected one collateral (JSON) among the endorsements, got {len(found)}"
    if len(found[0]) > _MOST_COLLATERAL_BYTES:
        return None, f"expected collateral of at most {_MOST_COLLATERAL_BYTES} bytes"
    try:
        fields = json.loads(found[0].decode("utf-8"))
        fields.pop("pck_certificate_chain", None)  # it would stand for the chain in the quote, unseen
        text = json.dumps(fields)
        value = _guarded(lambda: dcap_qvl.QuoteCollateralV3.from_json(text))
        tcb_info, identity = json.loads(value.tcb_info), json.loads(value.qe_identity)
        signed = [(_time(part["issueDate"]), _time(part["nextUpdate"])) for part in (tcb_info, identity)]
        revoked = [_crl_times(value.pck_crl), _crl_times(value.root_ca_crl)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ProtocolError) as error:
        return None, f"the collateral cannot be read: {str(error)[:200]}"
    # The root's revocation list is issued once a year; its age says nothing.
    dated = [*signed, revoked[0]]
    return _Collateral(
        value,
        min(issued for issued, _ in dated),
        max(issued for issued, _ in (*signed, *revoked)),
        min(until for _, until in (*signed, *revoked)),
    ), ""


def _time(text: object) -> int:
    if not isinstance(text, str):
        raise ValueError("a date is no text")
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp())


def _crl_times(der: bytes) -> tuple[int, int]:
    """When a revocation list was issued, and until when it counts (RFC 5280 section 5.1)."""
    fields = read_element(der, "revocation list").children()[0].children()
    times = [field.time_s() for field in fields[3:5]]
    if len(times) != 2:
        raise ValueError("a revocation list without its times")
    return times[0], times[1]


def _root_check(quote: IntelQuote, known: tuple[PinnedCertificate, ...], anchor: str) -> Check:
    """The chain in the quote ends in a copy of the root, which no signature covers: it must be the very
    one."""
    ends = quote.certificates[-1]
    shown = f"SHA-256 {hashlib.sha256(ends).hexdigest()}"
    expected = " or ".join(root.name for root in known) or "a pinned root"
    return Check.made("root", anchor, expected, shown, ends in [root.der for root in known])


def _attribute_checks(quote: IntelQuote, anchor: str) -> Iterator[Check]:
    flags = int.from_bytes(quote.attributes[:8], "little")
    if quote.kind is RealEvidence.SGX:
        bad = flags & (_SGX_PROVISION_KEY | _SGX_EINITTOKEN_KEY)
        # MRENCLAVE does not say whether the same bytes are run as 64-bit code or as 32-bit code.
        good = flags & (_SGX_INIT | _SGX_MODE_64) == _SGX_INIT | _SGX_MODE_64 and not bad
        expected = "initialised, 64-bit, without the platform's own keys"
        yield Check.made("attributes", anchor, expected, f"{flags:#x}", good)
        return
    strange = flags & ~_TDX_HARMLESS & ~_TDX_DEBUGGABLE  # debugging has a check of its own, for every kind
    good = bool(flags & _TDX_SEPT_VE_DISABLE) and not strange
    yield Check.made(
        "attributes", anchor, "no #VE on unmapped pages, not migratable, nothing unknown", f"{flags:#x}", good
    )
    none = not any(quote.service_td)
    got = "none" if none else quote.service_td.hex()
    yield Check.made("service TD", anchor, "none: no other domain is bound to this one", got, none)
