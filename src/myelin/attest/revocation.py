"""Revocation: what an issuer says of its own certificates, in lists (RFC 5280) or answers (OCSP, RFC 6960).

Both are endorsements: somebody fetched them, their issuer's signature makes them worth something, and how
old they may be is the policy's business. A list counts for the certificates of its own issuer only; indirect
lists, parts of lists and differences between lists are refused. An answer must be signed by the issuer of the
certificate, or by a responder that an authority above the certificate certified for that.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from myelin.attest.certificate import Certificate, signature_verifies
from myelin.attest.check import Check, duration, utc
from myelin.attest.der import BIT_STRING, INTEGER, OCTET_STRING, SEQUENCE, Element, context, read_element
from myelin.attest.kind import RealEvidence, unreadable
from myelin.attest.ocsp import RevocationAnswer, is_answer
from myelin.attest.policy import Policy
from myelin.errors import ProtocolError

__all__ = ["Statements", "distribution_points", "revocation_check", "split_statements"]

MOST_LIST_BYTES = 1 << 20
"""Longest revocation list that is looked at."""

_MOST_REVOKED = 65_536
_MOST_CLOCK_SKEW_S = 60
_ISSUING_POINT, _DISTRIBUTION_POINTS, _KEY_USAGE = "2.5.29.28", "2.5.29.31", "2.5.29.15"
_CRL_SIGN_BIT = 6
_URI = context(6, constructed=False)
_PEM_BEGIN, _PEM_END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
_POLICY = "the relying party's appraisal policy"


@dataclass(frozen=True)
class RevocationList:
    """A list, read but not believed. ``points`` are the addresses that it says it is the list of, or none."""

    issuer: bytes
    issued_s: int
    until_s: int
    revoked: frozenset[int]
    points: frozenset[str]
    tbs: bytes
    signature_algorithm: Element
    signature: bytes

    @classmethod
    def read(cls, der: bytes, what: str) -> RevocationList:
        """Read one DER list of version 2; raises ``evidence_unreadable``."""
        if len(der) > MOST_LIST_BYTES:
            raise unreadable(what, f"at most {MOST_LIST_BYTES} bytes", str(len(der)))
        return _remembered(der, what)

    def about(self, certificate: Certificate) -> bool:
        """Whether it is a list for this certificate: by its issuer, and for its address if it names one."""
        if self.issuer != certificate.issuer:
            return False
        return not self.points or bool(self.points & distribution_points(certificate))


@dataclass(frozen=True)
class Statements:
    """All that the endorsements say about revocation, and a failed check for each that cannot be read."""

    lists: tuple[RevocationList, ...]
    answers: tuple[RevocationAnswer, ...]
    unread: tuple[Check, ...]


def split_statements(endorsements: Iterable[bytes]) -> tuple[Statements, tuple[bytes, ...]]:
    """The statements about revocation among endorsements, and the endorsements that are something else."""
    lists: list[RevocationList] = []
    answers: list[RevocationAnswer] = []
    unread, others = [], []
    for place, data in enumerate(endorsements, 1):
        what = f"endorsement {place}"
        try:
            if is_answer(data):
                answers.append(RevocationAnswer.read(data, what))
            elif data.lstrip().startswith(_PEM_BEGIN):
                lists.append(RevocationList.read(_from_pem(data, what), what))
            elif _is_list(data):
                lists.append(RevocationList.read(data, what))
            else:
                others.append(data)
        except ProtocolError as error:
            unread.append(
                Check.made(what, "none", "a revocation list or an OCSP answer", error.detail, False)
            )
    return Statements(tuple(lists), tuple(answers), tuple(unread)), tuple(others)


def revocation_check(
    chain: Sequence[Certificate],
    places: Iterable[int],
    statements: Statements,
    policy: Policy,
    kind: RealEvidence,
    anchor: str,
    now_s: int,
) -> Check:
    """Check that no certificate at ``places`` of a chain (leaf first, root last) is revoked.

    Without a statement about one of them the check is skipped, so failed, unless the policy allows this kind
    without (``allow_unchecked_revocation``); a statement that is there counts under every policy.
    """
    checks = [
        _one_check(chain, place, statements, policy, kind, anchor, now_s)
        for place in places
        if place + 1 < len(chain)
    ]
    if not checks:
        expected = "a statement for each certificate that can be revoked"
        if kind in policy.allow_unchecked_revocation:
            return Check.made("revocation", _POLICY, "nothing: the policy asks for none", "none", True)
        return Check.skipped("revocation", anchor, expected, "the chain has no such certificate")
    return Check.group("revocation", anchor, [*checks, *statements.unread])


def distribution_points(certificate: Certificate) -> frozenset[str]:
    """The addresses of the lists that a certificate may stand on (RFC 5280, 4.2.1.13); none if unreadable."""
    extension = certificate.extensions.get(_DISTRIBUTION_POINTS)
    if extension is None:
        return frozenset()
    try:
        points = read_element(extension[1], "distribution points").children()
        return frozenset(uri for point in points for uri in _addresses(point.children()))
    except (ProtocolError, UnicodeDecodeError):
        return frozenset()


def _one_check(
    chain: Sequence[Certificate],
    place: int,
    statements: Statements,
    policy: Policy,
    kind: RealEvidence,
    anchor: str,
    now_s: int,
) -> Check:
    certificate, issuer, above = chain[place], chain[place + 1], chain[place + 1 :]
    name = f"revocation of {certificate.common_name}"
    most_s = policy.maximum_revocation_age_s
    expected = f"not revoked, by {issuer.common_name}'s word of at most {duration(most_s)} ago"
    found: list[tuple[str, bool, int, int]] = []
    problem = ""
    for given in (item for item in statements.lists if item.about(certificate)):
        if _may_sign_lists(issuer) and signature_verifies(
            given.signature_algorithm, issuer.public_key_info, given.signature, given.tbs
        ):
            listed = certificate.serial in given.revoked
            found.append((f"a list of {len(given.revoked)}", listed, given.issued_s, given.until_s))
        else:
            problem = f"a list in the name of {issuer.common_name} that it did not sign"
    for answer in (item for item in statements.answers if item.about(certificate, issuer)):
        why = answer.refused(above, now_s)
        if why:
            problem = f"an OCSP answer that does not count: {why}"
        else:
            until_s = answer.until_s if answer.until_s is not None else answer.issued_s + most_s
            found.append((f"an OCSP answer, {answer.status},", answer.revoked, answer.issued_s, until_s))
    revoked = [(text, issued) for text, is_revoked, issued, _ in found if is_revoked]
    if revoked:
        got = f"REVOKED by {revoked[0][0]} issued {utc(revoked[0][1])}"
        return Check.made(name, anchor, expected, got, False)
    if found:
        return _age_check(name, anchor, expected, max(found, key=lambda item: item[2]), most_s, now_s)
    if problem:
        return Check.made(name, anchor, expected, problem, False)
    if kind in policy.allow_unchecked_revocation:
        return Check.made(
            name, _POLICY, f"nothing: the policy asks for none with {kind.value}", "not known", True
        )
    why = f"no revocation list and no OCSP answer about {certificate.common_name} among the endorsements"
    return Check.skipped(name, anchor, expected, why)


def _age_check(
    name: str, anchor: str, expected: str, latest: tuple[str, bool, int, int], most_s: int, now_s: int
) -> Check:
    """Whether the latest statement, by which nothing is revoked, is from this time."""
    text, _, issued_s, until_s = latest
    last_s = min(until_s, issued_s + most_s)
    if now_s < issued_s - _MOST_CLOCK_SKEW_S:
        margin = f"{duration(issued_s - now_s)} in the future"
    elif now_s > last_s:
        why = "past its next update" if now_s > until_s else "too old for the policy"
        margin = f"{duration(now_s - last_s)} {why}"
    else:
        margin = f"{duration(last_s - now_s)} left"
    good = issued_s - _MOST_CLOCK_SKEW_S <= now_s <= last_s
    return Check.made(
        name, anchor, expected, f"not revoked, by {text} issued {utc(issued_s)}", good, margin=margin
    )


def _may_sign_lists(issuer: Certificate) -> bool:
    """Whether the issuer's key usage has cRLSign; a certificate without key usage may sign what it likes."""
    usage = issuer.extensions.get(_KEY_USAGE)
    if usage is None:
        return True
    try:
        bits = read_element(usage[1], "key usage").expect(BIT_STRING).content
    except ProtocolError:
        return False
    return len(bits) >= 2 and bool(bits[1] >> (7 - _CRL_SIGN_BIT) & 1)


def _is_list(data: bytes) -> bool:
    """Whether DER looks like a list: inside of the first element there is a version, not its wrapper."""
    head = _after_header(data[:16], SEQUENCE)
    inner = _after_header(head, SEQUENCE) if head is not None else None
    return inner is not None and inner[:3] == b"\x02\x01\x01" and inner[3:4] == bytes([SEQUENCE])


def _after_header(data: bytes, tag: int) -> bytes | None:
    if len(data) < 2 or data[0] != tag:
        return None
    return data[2 + (data[1] & 0x7F if data[1] & 0x80 else 0) :]


def _from_pem(data: bytes, what: str) -> bytes:
    body, closed, after = data.lstrip()[len(_PEM_BEGIN) :].partition(_PEM_END)
    try:
        if not closed or after.strip():
            raise ValueError
        return base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError:
        raise unreadable(what, "one revocation list in PEM", "something else") from None


@lru_cache(maxsize=64)
def _remembered(der: bytes, what: str) -> RevocationList:
    """Reading is a pure function, and one list comes with many machines' evidence."""
    parts = read_element(der, what).children()
    if len(parts) != 3:
        raise unreadable(what, "a revocation list of three parts", str(len(parts)))
    tbs, algorithm, signature = parts
    fields = tbs.children()
    if len(fields) < 5 or fields[0].tag != INTEGER or fields[0].integer() != 1:
        raise unreadable(what, "a revocation list of version 2", "another")
    if fields[1].raw != algorithm.raw:
        raise unreadable(what, "one signature algorithm", "two that differ")
    rest = fields[5:]
    revoked = _revoked(rest.pop(0), what) if rest and rest[0].tag == SEQUENCE else frozenset()
    points = _issuing_points(rest.pop(0), what) if rest and rest[0].tag == context(0) else frozenset()
    if rest:
        raise unreadable(what, "nothing after the extensions", "another field")
    return RevocationList(
        fields[2].expect(SEQUENCE).raw,
        fields[3].time_s(),
        fields[4].time_s(),
        revoked,
        points,
        tbs.raw,
        algorithm.expect(SEQUENCE),
        signature.bits(),
    )


def _revoked(entries: Element, what: str) -> frozenset[int]:
    serials = []
    for entry in entries.children(most=_MOST_REVOKED):
        fields = entry.children()
        if len(fields) not in (2, 3):
            raise unreadable(what, "entries of a number, a time and perhaps extensions", str(len(fields)))
        fields[1].time_s()
        if len(fields) == 3 and any(critical for _, critical, _ in _extensions(fields[2], what)):
            raise unreadable(what, "entries of its own issuer", "an entry with a critical extension")
        serials.append(fields[0].integer())
    return frozenset(serials)


def _issuing_points(field: Element, what: str) -> frozenset[str]:
    """The addresses of the one critical extension that is understood; others than whole lists are refused."""
    points: frozenset[str] = frozenset()
    for name, critical, value in _extensions(field.only(context(0)), what):
        if name == _ISSUING_POINT:
            parts = read_element(value, f"{what}, issuing point").children()
            if any(part.tag not in (context(0), context(2, constructed=False)) for part in parts):
                raise unreadable(what, "a list of all of its issuer's authorities", "a part of it")
            try:
                points = frozenset(_addresses(parts))
            except UnicodeDecodeError:
                raise unreadable(what, "an address in ASCII", "something else") from None
        elif critical:
            raise unreadable(what, "critical extensions that are understood", name)
    return points


def _addresses(point: Sequence[Element]) -> Iterable[str]:
    """The URIs of a distribution point: [0] the point, [0] its full names, [6] a URI."""
    for part in point:
        if part.tag == context(0):
            for form in part.children(context(0)):
                if form.tag == context(0):
                    names = form.children(context(0))
                    yield from (name.content.decode("ascii") for name in names if name.tag == _URI)


def _extensions(field: Element, what: str) -> Iterable[tuple[str, bool, bytes]]:
    for extension in field.children():
        parts = extension.children()
        if len(parts) not in (2, 3) or parts[-1].tag != OCTET_STRING:
            raise unreadable(what, "an extension of a name and a value", "something else")
        yield parts[0].oid(), len(parts) == 3 and parts[1].boolean(), parts[-1].content
