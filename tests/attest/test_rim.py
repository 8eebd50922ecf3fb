"""NVIDIA's manifests: what verifies, what is read of it, and the ways in which signed XML has been abused."""

import pytest
from flips import check_every_flip, check_fuzzed
from vendors.certificates import MADE_AT_S, issue
from vendors.revocation import answer, responder
from vendors.rim import RimSigner, document, rewritten

from myelin.attest import Policy, RealEvidence
from myelin.attest.rim import RimFile, check_rim, gpu_reference
from myelin.attest.xml_signature import SignedXml
from myelin.errors import ProtocolError

SIGNER = RimSigner()
D1, D2, D3 = (bytes([n]) * 48 for n in (1, 2, 3))
DRIVER = SIGNER.manifest("570.1.2", {0: [], 7: [D1], 35: [D1, D2, D1]})
VBIOS = SIGNER.manifest("96.00.5E.00.01", {0: [bytes(48)], 1: [D3]})
LENIENT = Policy(
    accepts={RealEvidence.NVIDIA}, allow_unchecked_revocation={RealEvidence.NVIDIA}, allow_smt=True
)
NOW_S = MADE_AT_S + 86_400


def checked(data, endorsements=(), policy=LENIENT, now_s=NOW_S, roots=SIGNER.roots):
    check = check_rim(RimFile.read(data), endorsements, policy, now_s, danger_roots=roots)
    return [failure.name for failure in check.failures()]


def refused(data):
    with pytest.raises(ProtocolError, match="evidence_unreadable") as caught:
        RimFile.read(data)
    return caught.value.detail


def test_two_manifests_make_a_reference_value():
    assert checked(DRIVER) == checked(VBIOS) == []
    known = gpu_reference(RimFile.read(VBIOS), RimFile.read(DRIVER))
    assert known == gpu_reference(RimFile.read(DRIVER), RimFile.read(VBIOS))
    assert dict(known.registers) == {
        "driver_version": b"570.1.2", "vbios_version": b"96.00.5E.00.01",
        "block1": bytes(48), "block2": D3, "block8": D1, "block36": D2,
    }  # fmt: skip
    assert [value for name, value in known.registers if name == "block36"] == [D1, D2]


def test_the_same_document_in_another_form():
    other = rewritten(DRIVER)
    assert other != DRIVER
    assert checked(other) == []
    assert RimFile.read(other).blocks == RimFile.read(DRIVER).blocks


def test_under_nvidias_own_root_it_is_refused():
    check = check_rim(RimFile.read(DRIVER), (), LENIENT, NOW_S)
    assert [failure.name for failure in check.failures()] == ["chain: root"]


def test_a_changed_document_signature_signer_or_clock():
    assert checked(DRIVER.replace(D1.hex().encode(), D3.hex().encode(), 1)) == ["manifest's signature"]
    assert checked(DRIVER.replace(b"570.1.2", b"570.1.3")) == ["manifest's signature"]
    stranger = issue("stranger", authority=False)
    assert checked(SIGNER.manifest("570.1.2", {7: [D1]}, key=stranger.key)) == ["manifest's signature"]
    assert set(checked(DRIVER, now_s=NOW_S + 1000 * 86_400)) == {"validity"}
    issuing = RimSigner(may_issue=True)
    assert checked(issuing.manifest("570.1.2", {7: [D1]}), roots=issuing.roots) == ["use of the leaf's key"]


def test_any_byte_changed():
    """Of the signed document; the signature's own form has its own tests."""
    end = DRIVER.index(b"<ds:Signature ")

    class Result:
        def __init__(self, data):
            self.trusted = not checked(data)

    # White space inside of tags is no part of a document's canonical form, so another one is no change.
    places = [n for n in range(end) if DRIVER[n : n + 1] not in b' "']
    assert check_every_flip(Result, DRIVER, places) == len(places)


def test_revocation_is_asked_for():
    strict = LENIENT.model_copy(update={"allow_unchecked_revocation": frozenset()})
    names = [f"revocation of {one.certificate.subject.rfc4514_string()[3:]}" for one in SIGNER.chain[:-1]]
    assert checked(DRIVER, policy=strict) == names
    chain = SIGNER.chain
    answers = tuple(
        answer(chain[place], chain[place + 1], responder(chain[place + 1]), NOW_S - 60) for place in range(3)
    )
    assert checked(DRIVER, answers, strict) == []
    assert checked(DRIVER, answers[1:], strict) == names[:1]


@pytest.mark.parametrize(
    "info",
    [
        {"canonical": "http://www.w3.org/2001/10/xml-exc-c14n#"},
        {"signature": "http://www.w3.org/2000/09/xmldsig#hmac-sha1"},
        {"signature": "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"},
        {"hash": "http://www.w3.org/2000/09/xmldsig#sha1"},
        {"uri": "#payload"},
    ],
)
def test_one_set_of_algorithms(info):
    assert "expected" in refused(SIGNER.manifest("570.1.2", {7: [D1]}, info=info))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<SoftwareIdentity", b'<!DOCTYPE a [<!ENTITY b "c">]><SoftwareIdentity'),
        (b"  <ns0:Payload>", b"  <!-- a comment --><ns0:Payload>"),
        (b"  <ns0:Payload>", b"  <?an instruction?><ns0:Payload>"),
        (b"  <ns0:Payload>", b"  <![CDATA[text]]><ns0:Payload>"),
        (b"<ns0:Payload>", b'<ns0:Payload xml:space="preserve">'),
        (b"<ns0:Payload>", b'<ns0:Payload other:x="1">'),
        (b"<SoftwareIdentity", b'<?xml version="1.0" encoding="latin-1"?><SoftwareIdentity'),
        (b"</ns0:Payload>", b"</ns0:Meta>"),
        (b"tagId=", b"tagId='1' tagId="),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"),
        (b"<ds:SignedInfo>", b"<ds:SignedInfo>text"),
        (b"</ds:KeyInfo>", b"</ds:KeyInfo><ds:Object></ds:Object>"),
        (b"<ds:Transforms>", b'<ds:Transforms><ds:Transform Algorithm="x"></ds:Transform>'),
    ],
)
def test_no_other_kind_of_xml(old, new):
    assert old in DRIVER
    refused(DRIVER.replace(old, new, 1))


def test_a_signature_elsewhere_or_twice():
    start, end = DRIVER.index(b"<ds:Signature "), DRIVER.index(b"</ds:Signature>") + len(b"</ds:Signature>")
    envelope, bare = DRIVER[start:end], DRIVER[:start] + DRIVER[end:]
    refused(bare)
    refused(DRIVER[:start] + envelope + DRIVER[start:])
    inside = bare.replace(b"</ns0:Payload>", envelope + b"</ns0:Payload>")
    refused(inside)
    # Wrapped: a new root around the signed one, with other values where a reader would look.
    assert "RIM file" in refused(b"<a>" + DRIVER + b"</a>")


def test_sizes():
    refused(DRIVER + b" " * (1 << 20))
    refused(b"<a>" * 17 + b"</a>" * 17)
    refused(b"<a>" + b"<b></b>" * 5000 + b"</a>")
    refused(b"<a " + b" ".join(b'x%d="1"' % n for n in range(70)) + b"></a>")
    refused(b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "latest"},
        {"product": "GX 100"},
        {"blocks": {}},
        {"blocks": {7: []}},
        {"blocks": {128: [D1]}},
        {"blocks": {7: [D1[:47]]}},
        {"blocks": {7: [D1] * 17}},
        {"extra": "<ns0:Other></ns0:Other>"},
        {"extra": "<ns0:Resource type='File'></ns0:Resource>"},
    ],
)
def test_what_a_manifest_must_say(changes):
    given = {"version": "570.1.2", "blocks": {7: [D1]}, **changes}
    refused(SIGNER.manifest(given.pop("version"), given.pop("blocks"), **given))


def test_an_index_twice():
    row = document("1.2", {7: [D1]})[0].split("<ns0:Payload>\n")[1].split("\n  </ns0:Payload>")[0]
    assert "7 twice" in refused(SIGNER.manifest("1.2", {7: [D2]}, extra=row))


def test_manifests_that_do_not_belong_together():
    driver, vbios = RimFile.read(DRIVER), RimFile.read(VBIOS)
    other = RimFile.read(SIGNER.manifest("96.00.5E.00.01", {1: [D1]}, product="GY200"))
    both = RimFile.read(SIGNER.manifest("96.00.5E.00.01", {7: [D1]}))
    for one, two in ((driver, driver), (vbios, vbios), (driver, other), (driver, both)):
        with pytest.raises(ProtocolError, match="RIM files"):
            gpu_reference(one, two)


@pytest.mark.fuzz
def test_arbitrary_and_mutated_manifests():
    check_fuzzed(RimFile.read, VBIOS)
    check_fuzzed(lambda data: SignedXml.read(data, "x").problem(), VBIOS, examples=50)
