"""What the relying party wants of every kind of hardware evidence alike, compared with its claims."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from myelin.attest.check import Check, at_least, duration, utc
from myelin.attest.kind import Claims, Measurement, RealEvidence, ReferenceValues
from myelin.attest.policy import Policy, built_in_minima

__all__ = ["claim_checks", "no_claims"]

_POLICY = "the relying party's appraisal policy"
_REFERENCE = "the relying party's reference values"
_LEAST_REPORT_DATA_BYTES = 8
_MOST_CLOCK_SKEW_S = 60
_SELF_VOUCHED = frozenset({RealEvidence.TPM})
"""Kinds whose keys no vendor's root vouches for: only a list of one's own machines does."""

_SAME_PLATFORM = {RealEvidence.AZURE_SNP: RealEvidence.SEV_SNP}
"""Kinds that run on another kind's platform: its minimum TCB versions are theirs."""


def claim_checks(
    claims: Claims, reference: ReferenceValues, policy: Policy, now_s: int
) -> tuple[list[Check], bytes | None]:
    """Compare claims with reference values and policy; the checks, and the image that was recognised."""
    matched, measurement = _measurement_checks(claims, reference, policy)
    checks = [
        _debug_check(claims),
        *measurement,
        _report_data_check(claims, reference),
        *_evidence_age_checks(claims, policy, now_s),
        *_collateral_age_checks(claims, policy, now_s),
        *_tcb_checks(claims, policy),
        _platform_check(claims, policy),
    ]
    return checks, matched.image if matched is not None else None


def no_claims(why: str) -> list[Check]:
    """The checks that cannot be made without claims: skipped, so failed."""
    return [
        Check.skipped("measurement", "none", "a reference value", why),
        Check.skipped("report data", "none", "the nonce, keys and digests of this request", why),
    ]


def _debug_check(claims: Claims) -> Check:
    got = "DEBUG: its operator can read and change everything inside" if claims.debug else "off"
    return Check.made("debugging", claims.trust_anchor, "off", got, claims.debug is False)


def _measurement_checks(
    claims: Claims, reference: ReferenceValues, policy: Policy
) -> tuple[Measurement | None, list[Check]]:
    """Find the reference value that all registers agree with; without one, show what is nearest."""
    known = [m for m in (*policy.measurements, *reference.known) if m.kind is claims.kind]
    got = dict(claims.registers)
    shown = ", ".join(f"{name} {value.hex()}" for name, value in claims.registers)
    best: Measurement | None = None
    for candidate in known:
        wrong = candidate.differing(got)
        image_known = reference.measurements is None or candidate.image in reference.measurements
        if not wrong and image_known:
            best = candidate
            break
    if best is None:
        if not known:
            expected, margin = f"a reference value for {claims.kind.value}: none was given", ""
        else:
            nearest = min(known, key=lambda m: len(m.differing(got)))
            expected = ", ".join(f"{name} {value.hex()}" for name, value in nearest.registers)
            wrong = nearest.differing(got)
            margin = (
                f"differs in {', '.join(wrong)}" if wrong else "it is of another image than the one asked for"
            )
        return None, [Check.made("measurement", _REFERENCE, expected, shown, False, margin=margin)]
    checks = [
        Check.made(
            "measurement",
            _REFERENCE,
            ", ".join(f"{name} {value.hex()}" for name, value in best.registers),
            ", ".join(f"{name} {got[name].hex()}" for name, _ in best.registers),
            True,
        )
    ]
    if claims.security_version is not None:
        checks.append(
            at_least("security version", _REFERENCE, best.minimum_security_version, claims.security_version)
        )
    elif best.minimum_security_version:
        why = f"{claims.kind.value} evidence carries no security version"
        checks.append(
            Check.skipped("security version", _REFERENCE, f"at least {best.minimum_security_version}", why)
        )
    return best, checks


def _report_data_check(claims: Claims, reference: ReferenceValues) -> Check:
    """One slot must hold an expected value, or the SHA-256 of it where the slot has no room for more."""
    name, anchor = "report data", claims.trust_anchor
    expected = [value for value in reference.report_data if len(value) >= _LEAST_REPORT_DATA_BYTES]
    shown = " or ".join(value.hex() for value in expected)
    got = ", ".join(f"{slot} {value.hex()}" for slot, value in claims.report_data) or "none"
    if not expected:
        return Check.skipped(name, anchor, "the value that this request was made with", "no nonce was given")
    good = any(
        bytes(value) == want or (len(value) == 32 and value == hashlib.sha256(want).digest())
        for _, value in claims.report_data
        for want in expected
    )
    return Check.made(name, anchor, shown, got, good)


def _evidence_age_checks(claims: Claims, policy: Policy, now_s: int) -> Iterator[Check]:
    """Evidence that carries no time is fresh by what it is bound to, which has a check of its own."""
    if claims.issued_s is not None:
        most_s = policy.maximum_evidence_age_s
        yield _age("age of evidence", claims.trust_anchor, claims.issued_s, most_s, now_s)


def _collateral_age_checks(claims: Claims, policy: Policy, now_s: int) -> Iterator[Check]:
    if claims.collateral_issued_s is not None:
        most_s = policy.maximum_collateral_age_s
        yield _age("age of collateral", claims.trust_anchor, claims.collateral_issued_s, most_s, now_s)


def _age(name: str, anchor: str, issued_s: int, most_s: int, now_s: int) -> Check:
    age_s = now_s - issued_s
    if age_s < -_MOST_CLOCK_SKEW_S:
        margin = f"{duration(-age_s)} in the future"
    elif age_s <= most_s:
        margin = f"{duration(most_s - max(age_s, 0))} left"
    else:
        margin = f"{duration(age_s - most_s)} too old"
    got = f"issued {utc(issued_s)}, {duration(max(age_s, 0))} ago"
    good = -_MOST_CLOCK_SKEW_S <= age_s <= most_s
    return Check.made(name, anchor, f"at most {duration(most_s)}", got, good, margin=margin)


def _tcb_checks(claims: Claims, policy: Policy) -> Iterator[Check]:
    if claims.tcb_status is not None:
        accepted = ", ".join(sorted(policy.tcb_statuses)) or "(none)"
        good = claims.tcb_status in policy.tcb_statuses
        yield Check.made("TCB status", claims.trust_anchor, accepted, claims.tcb_status, good)
        open_ = [advisory for advisory in claims.advisories if advisory not in policy.advisories]
        allowed = ", ".join(sorted(policy.advisories))
        expected = f"none but {allowed}" if allowed else "none"
        got = ", ".join(claims.advisories) or "none"
        margin = f"{len(open_)} not allowed: {', '.join(open_)}" if open_ else ""
        yield Check.made("advisories", claims.trust_anchor, expected, got, not open_, margin=margin)
    if claims.tcb:
        yield _minimum_tcb_check(claims, policy)


def _minimum_tcb_check(claims: Claims, policy: Policy) -> Check:
    kind = _SAME_PLATFORM.get(claims.kind, claims.kind)
    which = f"{kind.value} {claims.product}".strip()
    for minimum in policy.minimum_tcb:
        if minimum.kind is kind and minimum.product == claims.product:
            wanted = dict(minimum.components)
            checks = [
                at_least(name, claims.trust_anchor, wanted[name], version)
                if name in wanted
                else Check.made(name, _POLICY, f"a minimum in the policy for {which}", "none", False)
                for name, version in claims.tcb
            ]
            missing = sorted(set(wanted) - {name for name, _ in claims.tcb})
            checks += [
                Check.made(name, claims.trust_anchor, f"at least {wanted[name]}", "no such component", False)
                for name in missing
            ]
            return Check.group("TCB versions", claims.trust_anchor, checks)
    got = "none; versions are " + ", ".join(f"{name} {version}" for name, version in claims.tcb)
    why = built_in_minima().without_minimum.get(claims.product, "") if policy.minimum_tcb else ""
    return Check.made("TCB versions", _POLICY, f"a minimum in the policy for {which}", got, False, margin=why)


def _platform_check(claims: Claims, policy: Policy) -> Check:
    got = claims.platform_id.hex() if claims.platform_id is not None else "the evidence names none"
    if policy.platforms is None:
        if claims.kind in _SELF_VOUCHED:
            expected = f"a list of platforms in the policy: nobody else vouches for {claims.kind.value} keys"
            return Check.made("platform", _POLICY, expected, got, False)
        return Check.made("platform", _POLICY, f"any that {claims.trust_anchor} vouches for", got, True)
    count = len(policy.platforms)
    good = claims.platform_id is not None and claims.platform_id in policy.platforms
    return Check.made("platform", _POLICY, f"one of the {count} that the policy lists", got, good)
