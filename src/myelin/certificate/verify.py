"""Verifying a certificate offline: no network, no enclave, no compiler."""

from __future__ import annotations

from dataclasses import dataclass, fields

from myelin.attest import (
    SIMULATED_MEDIA_TYPE,
    AppraisalPolicy,
    Check,
    Evidence,
    Measurement,
    Policy,
    ReferenceValues,
    Verdict,
    appraise,
    compare,
)
from myelin.certificate.claims import CERTIFICATE_TYPE, Certificate, CertificateBundle
from myelin.certificate.logged import LogClaim, check_logged
from myelin.contract import Accountant, DpEvent, SignedContract, default_accountant, epsilon_of
from myelin.errors import InputError, ProtocolError
from myelin.wire import digest, report_data, verify1

__all__ = ["PrivacyFigure", "Verification", "verify"]

_ENCLAVE = "the enclave's signing key, bound by the evidence"
_PARTIES = "the parties' signatures on the contract"
_ACCOUNTANT = "this program's accountant (PLD), from the signed event"


@dataclass(frozen=True)
class PrivacyFigure:
    """ε at a δ, recomputed here from the signed event; whose δ it is, and that owner's budget if known."""

    of: str
    delta: float
    epsilon: float
    budget: float | None


@dataclass(frozen=True)
class Verification:
    """What a verification came to. ``not_checked`` says what nobody could check with what was given."""

    certificate: Certificate
    checks: Check
    simulated: bool
    privacy: tuple[PrivacyFigure, ...]
    not_checked: tuple[str, ...]

    @property
    def verified(self) -> bool:
        """Whether every check passed."""
        return self.checks.passed

    def to_dict(self) -> dict[str, object]:
        """Everything as JSON-ready values."""
        certificate = self.certificate
        return {
            "verified": self.verified,
            "simulated": self.simulated,
            "measurement": certificate.measurement.hex(),
            "contract": certificate.contract.hex(),
            "plan": certificate.plan.hex(),
            "run": certificate.run.hex(),
            "model": certificate.model.hex(),
            "event": certificate.event.to_map(),
            "records": None if certificate.records is None else list(certificate.records),
            "nonfinite": certificate.nonfinite,
            "privacy": [
                {"of": f.of, "delta": f.delta, "epsilon": f.epsilon, "budget": f.budget} for f in self.privacy
            ],
            "not_checked": list(self.not_checked),
            "checks": self.checks.to_dict(),
        }


def verify(
    bundle: bytes,
    contract: SignedContract | None = None,
    *,
    allow_simulated: bool = False,
    policy: Policy | None = None,
    known: tuple[Measurement, ...] = (),
    endorsements: tuple[bytes, ...] = (),
    now_s: int,
    accountant: Accountant = default_accountant,
    delta: float = 1e-5,
    log: LogClaim | None = None,
) -> Verification:
    """Verify a certificate file.

    Checks the enclave's signature, the evidence for the key that made it, and what that evidence is bound to;
    with ``contract``, every party's signature and that the certificate is of exactly this contract; and
    recomputes ε from the signed event, at each owner's δ if the contract is given, else at ``delta``.
    Simulated evidence is refused unless ``allow_simulated``; the checks are made and shown all the same.
    Evidence of hardware is judged under ``policy`` (by default :meth:`~myelin.attest.Policy.production`),
    with ``known`` reference values for its registers and ``endorsements`` (certificates, collateral).

    With ``log`` (and ``contract``), a public log must have all that it should.

    Raises :class:`~myelin.errors.InputError` if the file is not a certificate. Everything else that is wrong
    is a failed check in the result.
    """
    if log is not None and contract is None:
        raise InputError("a log's proof is of a contract: give the contract too")
    try:
        read = CertificateBundle.from_bytes(bundle)
        evidence = Evidence.from_cmw(read.evidence)
        accepted: AppraisalPolicy = policy if policy is not None else Policy.production()
        if allow_simulated and evidence.media_type == SIMULATED_MEDIA_TYPE:
            accepted = Policy.insecure_accepting_simulated_evidence()
        attestation = appraise(
            evidence, endorsements, _reference_values(read, contract, accepted, known), accepted, now_s
        )
    except ProtocolError as error:
        raise InputError(f"expected a Myelin certificate: {error.detail}") from None
    certificate = read.certificate
    groups = [_signature_check(read), attestation.checks]
    not_checked = []
    if contract is None:
        not_checked = [
            "who agreed, and that image, plan and privacy are what they agreed to: give the contract",
        ]
    else:
        not_checked.append(
            "that the keys in the contract are those of the people named: compare the fingerprints once"
        )
        groups.append(_contract_checks(certificate, contract, attestation.policy))
        if log is not None:
            groups.append(check_logged(log, read.signed, contract))
        elif "log" in contract.contract.anchors:
            not_checked.append("that contract, ledgers and release are in the public log: give --log-proof")
    figures, privacy = _privacy(certificate, contract, accountant, delta)
    groups.append(privacy)
    if attestation.simulated:
        not_checked.append("that any of this ran in protected hardware: the evidence is SIMULATED")
    return Verification(
        certificate,
        Check.group("certificate", "all of the below", groups),
        attestation.simulated,
        tuple(figures),
        tuple(not_checked),
    )


def _signature_check(read: CertificateBundle) -> Check:
    expected = "ES256 verifies with the key that the evidence is bound to"
    key = read.certificate.signing_key
    try:
        verify1(read.signed, CERTIFICATE_TYPE, key, invalid="signature_invalid", what="certificate")
    except ProtocolError as error:
        return Check("certificate signature", _ENCLAVE, expected, error.detail, Verdict.FAILED)
    return Check("certificate signature", _ENCLAVE, expected, "it verifies", Verdict.PASSED)


def _reference_values(
    read: CertificateBundle,
    contract: SignedContract | None,
    policy: AppraisalPolicy,
    known: tuple[Measurement, ...],
) -> ReferenceValues:
    """The image, and what the evidence must be bound to: the contract's policy, whatever is judged by now."""
    certificate = read.certificate
    # Which policy the parties agreed on is in the contract; without it, it can be this one or a usual one.
    usual = (Policy.production().digest, Policy.insecure_accepting_simulated_evidence().digest)
    agreed = (contract.contract.policy,) if contract is not None else (policy.digest, *usual)
    expected = tuple(
        report_data(
            1,
            nonce=digest(read.signed),
            hpke_key=certificate.hpke_key,
            signing_key=certificate.signing_key,
            measurement=certificate.measurement,
            contract=certificate.contract,
            policy=each,
        )
        for each in dict.fromkeys(agreed)
    )
    measurement = contract.contract.measurement if contract is not None else certificate.measurement
    return ReferenceValues(frozenset({measurement}), expected, known)


def _contract_checks(certificate: Certificate, signed: SignedContract, policy: bytes) -> Check:
    contract = signed.contract
    checks = []
    for index, party in enumerate(contract.parties):
        name, expected = f"signature of {party.name}", "this party signed exactly this contract"
        anchor = f"the public key of {party.name} in the contract"
        try:
            signed.verify_signature(index)
        except ProtocolError as error:
            checks.append(Check(name, anchor, expected, error.detail, Verdict.FAILED))
        else:
            checks.append(Check(name, anchor, expected, "it verifies", Verdict.PASSED))
    recipients = [ref.recipient for ref in certificate.sealed_models]
    records = [dataset.records for dataset in contract.datasets] if contract.release_records else None
    checks += [
        compare("contract digest", _PARTIES, signed.digest, certificate.contract),
        compare("image measurement", _PARTIES, contract.measurement, certificate.measurement),
        compare("plan", _PARTIES, contract.plan, certificate.plan),
        compare("appraisal policy", _PARTIES, contract.policy, policy),
        _event_check(contract.event, certificate.event),
        compare("recipients of the model", _PARTIES, list(contract.recipients), recipients),
        compare(
            "records per owner",
            _PARTIES,
            records,
            None if certificate.records is None else list(certificate.records),
        ),
        compare(
            "non-finite contributions",
            _PARTIES,
            "released" if contract.release_nonfinite else "not released",
            "not released" if certificate.nonfinite is None else "released",
        ),
    ]
    return Check.group("contract", _PARTIES, checks)


def _event_check(agreed: DpEvent, executed: DpEvent) -> Check:
    differing = [f.name for f in fields(DpEvent) if getattr(agreed, f.name) != getattr(executed, f.name)]
    got = executed.describe() + (f" (other: {', '.join(differing)})" if differing else "")
    verdict = Verdict.FAILED if differing else Verdict.PASSED
    return Check("executed mechanism", _PARTIES, agreed.describe(), got, verdict)


def _privacy(
    certificate: Certificate, signed: SignedContract | None, accountant: Accountant, delta: float
) -> tuple[list[PrivacyFigure], Check]:
    if signed is None:
        wanted: list[tuple[str, float, float | None]] = [("every owner", delta, None)]
    else:
        contract = signed.contract
        wanted = [
            (contract.parties[owner].name, budget.delta, budget.epsilon)
            for owner, budget in zip(contract.owners, contract.budgets, strict=True)
        ]
    figures, checks, known = [], [], {}
    for of, at, budget in wanted:
        name = f"privacy of {of}'s records" if budget is not None else "privacy loss"
        expected = f"ε at most {budget:g} at δ {at:g}" if budget is not None else f"a finite ε at δ {at:g}"
        try:
            if at not in known:
                known[at] = epsilon_of(accountant, [certificate.event], at, "certificate")
        except (InputError, ProtocolError) as error:
            checks.append(Check(name, _ACCOUNTANT, expected, str(error), Verdict.FAILED))
            continue
        epsilon = known[at]
        good = epsilon * 1e6 <= round(budget * 1e6) if budget is not None else epsilon < float("inf")
        verdict = Verdict.PASSED if good else Verdict.FAILED
        figures.append(PrivacyFigure(of, at, epsilon, budget))
        checks.append(Check(name, _ACCOUNTANT, expected, f"ε = {epsilon:.6g}", verdict))
    return figures, Check.group("privacy", _ACCOUNTANT, checks)
