"""AWS Nitro documents: the recorded one at its time, and ones of these tests for what no recording shows."""

import itertools
from datetime import timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from flips import believed, check_every_flip, check_fuzzed
from vendors.certificates import MADE_AT, MADE_AT_S, issue
from vendors.nitro import PROTECTED, NitroModule

from myelin.attest import MEDIA_TYPES, Evidence, Measurement, Policy, RealEvidence, ReferenceValues, appraise
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.attest.nitro import MOST_NITRO_BYTES, NitroDocument
from myelin.errors import ProtocolError
from myelin.wire import decode, encode

KIND = RealEvidence.NITRO
POLICY = Policy.production()
RECORDED_AT_S = 1_766_668_537
MODULE = NitroModule()


def reference(document, report_data, pcrs=(0, 1, 2)):
    registers = {f"pcr{index}": value for index, value in document.pcrs if index in pcrs}
    return ReferenceValues(None, report_data, (Measurement(kind=KIND, registers=registers),))


@pytest.fixture(scope="session")
def document(recorded):
    """The recorded file is a SCALE envelope: version, variant, the document after its length, more."""
    file = recorded("aws_nitro_document.bin")
    return file[4 : 4 + (int.from_bytes(file[2:4], "little") >> 2)]


@pytest.fixture(scope="session")
def expected(document):
    return reference(NitroDocument.read(document), (bytes(64),))


def judged(document, expected, now_s=RECORDED_AT_S, policy=POLICY):
    return appraise(Evidence(MEDIA_TYPES[KIND], document), (), expected, policy, now_s)


def failed(result):
    return [check.name for check in result.checks.failures()]


def test_recorded_document_is_trusted_at_its_time(document, expected):
    result = judged(document, expected)
    assert result.trusted, failed(result)
    root = next(check for check in walk(result.checks) if check.name == "chain: root")
    assert root.got.endswith("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")
    assert judged(b"\xd2" + document, expected).trusted, "COSE's own tag for it"


def walk(check):
    yield check
    for child in check.children:
        yield from walk(child)


@pytest.mark.parametrize("late_s", [-3600, 301, 3 * 3600, 400 * 86_400])
def test_recorded_document_is_refused_at_another_time(document, expected, late_s):
    assert failed(judged(document, expected, RECORDED_AT_S + late_s)) == ["age of evidence"]


def test_an_old_document_may_be_kept_where_the_policy_says_so(document, expected):
    policy = POLICY.model_copy(update={"maximum_evidence_age_s": 365 * 86_400})
    assert judged(document, expected, RECORDED_AT_S + 300 * 86_400, policy).trusted


def test_a_leaf_is_judged_at_the_time_of_its_document():
    later = MADE_AT_S + 30 * 86_400
    assert failed(made(MODULE.document(), now_s=later)) == ["age of evidence"]
    keeping = POLICY.model_copy(update={"maximum_evidence_age_s": 31 * 86_400})
    assert made(MODULE.document(), now_s=later, policy=keeping).trusted
    early = MODULE.document(timestamp=(MADE_AT_S - 120) * 1000)
    assert set(failed(made(early))) == {"validity"}, (
        "before the leaf began, though the document is young enough"
    )


def test_recorded_document_with_another_nonce_or_image(document, expected):
    read = NitroDocument.read(document)
    assert failed(judged(document, reference(read, (b"\1" * 64,)))) == ["report data"]
    assert failed(judged(document, ReferenceValues(None, (bytes(64),)))) == ["measurement"]


def test_recorded_document_under_another_root(document, expected):
    result = danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[KIND], document), (), expected, POLICY, RECORDED_AT_S, danger_roots=MODULE.roots
    )
    assert failed(result) == ["chain: root"]


@pytest.mark.slow
def test_recorded_document_with_any_byte_changed(document, expected):
    assert check_every_flip(lambda data: judged(data, expected), document) == len(document)


def made(data, expected=None, now_s=MADE_AT_S, roots=MODULE.roots, policy=POLICY):
    expected = expected or reference(NitroDocument.read(MODULE.document()), (bytes(range(64)),))
    return danger_appraise_with_roots(
        Evidence(MEDIA_TYPES[KIND], data), (), expected, policy, now_s, danger_roots=roots
    )


def test_made_documents_under_their_own_root_and_under_production():
    for indefinite in (True, False):
        data = MODULE.document(indefinite=indefinite)
        assert made(data).trusted
        result = appraise(
            Evidence(MEDIA_TYPES[KIND], data), (), reference(NitroDocument.read(data), (bytes(range(64)),)),
            POLICY, MADE_AT_S,
        )  # fmt: skip
        assert failed(result) == ["chain: root"]


@pytest.mark.parametrize("slot", ["public_key", "user_data", "nonce"])
def test_any_slot_that_the_enclave_fills_binds(slot):
    value = b"what this request was made with"
    expected = reference(NitroDocument.read(MODULE.document()), (value,))
    assert made(MODULE.document(**{slot: value}), expected).trusted
    assert failed(made(MODULE.document(), expected)) == ["report data"]
    assert failed(made(MODULE.document(public_key=None, user_data=None, nonce=None), expected)) == [
        "report data"
    ]


@pytest.mark.parametrize("zero", [(0,), (1,), (2,), (0, 1, 2)])
def test_debug_enclaves_are_refused(zero):
    pcrs = {**MODULE.fields()["pcrs"], **dict.fromkeys(zero, bytes(48))}
    data = MODULE.document(pcrs=pcrs)
    assert failed(made(data, reference(NitroDocument.read(data), (bytes(range(64)),)))) == ["debugging"]


def test_another_key_under_the_same_root():
    other = issue("other enclave", MODULE.authorities[-1], authority=False)
    assert failed(made(MODULE.document(signer=other))) == ["evidence signature"]


def leaf(**changes):
    settings = {"authority": False, **changes}
    issued = issue("enclave", MODULE.authorities[-1], **settings)
    return MODULE.document(issued, certificate=issued.der)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"authority": True, "path_length": 0}, ["use of the leaf's key"]),
        ({"authority": True, "may_issue": False, "may_sign": True}, ["use of the leaf's key"]),
        ({"may_sign": False}, ["use of the leaf's key"]),
        ({"may_issue": True}, ["use of the leaf's key"]),
        ({"begins": MADE_AT + timedelta(seconds=2)}, ["validity"]),
        ({"valid": timedelta(seconds=59)}, ["validity"]),
        ({"extensions": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True),)},
         ["critical extensions"]),
        ({"extensions": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), False),)},
         []),
        ({"key": ec.generate_private_key(ec.SECP256R1())}, ["evidence signature"]),
    ],
)  # fmt: skip
def test_leaves_that_do_not_do(changes, names):
    if isinstance(changes.get("key"), ec.EllipticCurvePrivateKey):
        issued = issue("enclave", MODULE.authorities[-1], authority=False, **changes)
        data = MODULE.document(certificate=issued.der)
    else:
        data = leaf(**changes)
    assert failed(made(data)) == names


def authorities(*settings):
    above, issued = MODULE.root, []
    for place, changes in enumerate(settings):
        above = issue(f"authority {place}", above, **{"valid": timedelta(days=1), **changes})
        issued.append(above)
    end = issue("enclave", above, authority=False)
    return MODULE.document(end, certificate=end.der, cabundle=[MODULE.root.der, *(i.der for i in issued)])


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{}, {}], []),
        ([{"path_length": 1}, {"path_length": 0}], []),
        ([{"path_length": 0}, {}], ["may issue"]),
        ([{"authority": False}], ["may issue"]),
        ([{"may_issue": False}], ["may issue"]),
        ([{"valid": timedelta(seconds=59)}, {}], ["validity"]),
        ([{}, {"begins": MADE_AT + timedelta(hours=1)}], ["validity"]),
    ],
)
def test_authorities_that_do_not_do(settings, names):
    assert failed(made(authorities(*settings))) == names


def test_chains_out_of_order_or_with_gaps():
    bundle = MODULE.fields()["cabundle"]
    for order in itertools.permutations(range(1, 4)):
        data = MODULE.document(cabundle=[bundle[0], *(bundle[place] for place in order)])
        assert made(data).trusted is (order == (1, 2, 3))
    for place in (1, 2, 3):
        assert not made(MODULE.document(cabundle=bundle[:place] + bundle[place + 1 :])).trusted
    assert made(MODULE.document(cabundle=bundle[1:])).trusted, "the root is known, not taken from there"


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "SHA256"}, {"timestamp": 0}, {"timestamp": 1 << 60}, {"timestamp": "1"}, {"module_id": ""},
        {"pcrs": {}}, {"pcrs": {0: bytes(48), 1: bytes(48)}}, {"pcrs": {i: bytes(48) for i in range(33)}},
        {"pcrs": {0: bytes(32), 1: bytes(32), 2: bytes(32)}}, {"pcrs": [bytes(48)] * 3},
        {"pcrs": {"0": bytes(48), 1: bytes(48), 2: bytes(48)}}, {"certificate": b""},
        {"certificate": bytes(100)}, {"certificate": bytes(1025)}, {"cabundle": []}, {"cabundle": [b"x"]},
        {"cabundle": [b"x"] * 7}, {"user_data": bytes(513)}, {"nonce": bytes(513)}, {"nonce": "text"},
        {"public_key": bytes(1025)}, {"more": 1}, {"pcrs": cbor2.CBORTag(4, [1, 2])},
    ],
    ids=str,
)  # fmt: skip
def test_documents_out_of_form(changes):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        made(MODULE.document(**changes))


@pytest.mark.parametrize("dropped", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_documents_without_a_field(dropped):
    fields = MODULE.fields()
    del fields[dropped]
    with pytest.raises(ProtocolError, match=dropped):
        made(MODULE.signed(cbor2.dumps(fields)))


def test_other_encodings_of_the_same():
    payload = cbor2.dumps(MODULE.fields())
    twice = b"\xaa" + payload[1:] + cbor2.dumps("nonce") + b"\xf6"
    longer = payload.replace(b"\x66SHA384", b"\x78\x06SHA384")
    chunked = payload.replace(b"\x66SHA384", b"\x7f\x66SHA384\xff")
    for other in (twice, longer, chunked, payload + b"\0", b"\xbf" + payload[1:], b"\x80", b""):
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            made(MODULE.signed(other))


def test_tags_are_not_acted_on():
    for tag in (cbor2.CBORTag(0, "2026-03-01T12:00:00Z"), cbor2.CBORTag(35, "("), cbor2.CBORTag(9999, 1)):
        with pytest.raises(ProtocolError, match="without tags"):
            made(MODULE.document(nonce=tag))


def test_envelopes_out_of_form():
    good = MODULE.document()
    _, _, payload, signature = decode(good)
    for data in (
        b"", bytes(4), b"\xd2", good[:-1], good + b"\0", bytes(4) + good, b"\xd2\xd2" + good,
        bytes(MOST_NITRO_BYTES + 1), encode([PROTECTED, {"x": 1}, payload, signature]),
        encode([bytes.fromhex("a10126"), {}, payload, signature]), encode([PROTECTED, {}, None, signature]),
        encode([PROTECTED, {}, payload, signature[1:]]),
    ):  # fmt: skip
        assert not believed(made, data)
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            NitroDocument.read(data)


@pytest.mark.fuzz
def test_fuzzed():
    check_fuzzed(NitroDocument.read, MODULE.document())
    check_fuzzed(made, MODULE.document(), examples=50)
