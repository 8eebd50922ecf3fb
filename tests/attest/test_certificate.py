"""Certificates and the DER they are made of: one form read, every other refused; one rule of chains."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from vendors import der
from vendors.authority import FROM_S, UNTIL_S, authority_extensions, issue, pem

from myelin.attest.certificate import Certificate, chain_check, read_pem, read_public_key
from myelin.attest.der import read_element
from myelin.attest.roots import PINNED_ROOTS
from myelin.errors import ProtocolError

NOW_S = 1_790_000_000
ROOT_KEY, MIDDLE_KEY, LEAF_KEY = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
ROOT = issue("root", ROOT_KEY, None, authority_extensions())
MIDDLE = issue("middle", MIDDLE_KEY, ROOT, authority_extensions(0))
LEAF = issue("leaf", LEAF_KEY, MIDDLE, {})
ROOTS = (ROOT.pinned("us"),)


def refused(data):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        Certificate.read(data, "certificate")


def chain(*holders, roots=ROOTS, now_s=NOW_S, **options):
    certificates = [Certificate.read(holder.certificate, holder.common_name) for holder in holders]
    result = chain_check(certificates, roots, now_s, anchor="us", **options)
    return [check.name for check in result.failures()], result


# --- chains


def test_a_good_chain_with_and_without_its_root():
    for holders in ((LEAF, MIDDLE), (LEAF, MIDDLE, ROOT)):
        names, result = chain(*holders)
        assert names == []
        assert result.passed
    margins = [leaf.margin for group in result.children for leaf in group.children if leaf.name == "validity"]
    assert margins == [f"{(UNTIL_S - NOW_S) // 86_400} days left"] * 3


def test_each_rule_of_a_chain():
    other = issue("root", ec.generate_private_key(ec.SECP384R1()), None, authority_extensions())
    assert chain(LEAF, MIDDLE, roots=(other.pinned("us"),))[0] == ["signature"]
    assert chain(LEAF, MIDDLE, other)[0] == ["signature", "signature"]  # nor is it the root, by its name
    assert "certificate chain: root" in chain(LEAF, MIDDLE, roots=())[0]
    assert "signature" in chain(MIDDLE, LEAF)[0]
    assert chain()[0] == ["certificate chain"]
    assert chain(*[LEAF] * 9)[0] == ["certificate chain"]
    assert chain(LEAF, MIDDLE, now_s=FROM_S - 1)[0] == ["validity"] * 3
    assert chain(LEAF, MIDDLE, now_s=UNTIL_S + 1)[0] == ["validity"] * 3


def test_a_root_that_a_chain_brings_along():
    rogue = issue("rogue", ec.generate_private_key(ec.SECP384R1()), None, authority_extensions())
    leaf = issue("leaf", LEAF_KEY, rogue, {})
    assert chain(leaf, rogue)[0] == ["certificate chain: root"]
    assert chain(leaf, rogue, roots=(rogue.pinned("us"),))[0] == []


def test_a_leaf_cannot_issue_and_path_lengths_count():
    below = issue("below", ec.generate_private_key(ec.SECP384R1()), LEAF, {})
    assert chain(below, LEAF, MIDDLE)[0] == ["may issue", "may issue"]
    issuer = issue("issuer", LEAF_KEY, MIDDLE, authority_extensions())
    below = issue("below", ec.generate_private_key(ec.SECP384R1()), issuer, {})
    names, result = chain(below, issuer, MIDDLE)
    assert names == ["may issue"]
    assert next(result.failures()).got == "up to 0 issuers below it"


@pytest.mark.parametrize(
    "extensions",
    [
        {},
        {"2.5.29.19": (True, der.sequence())},
        {"2.5.29.19": (True, der.sequence(der.boolean(False)))},
        {**authority_extensions(), "2.5.29.15": (True, der.bits(b"\x80", 7))},
        {"2.5.29.19": (True, der.sequence(der.boolean(True)))},
        {**authority_extensions(), "2.5.29.19": (True, b"\x05\x00")},
        {**authority_extensions(), "2.5.29.19": (True, der.sequence(der.boolean(True), der.integer(-1)))},
    ],
)
def test_who_may_issue(extensions):
    middle = issue("middle", MIDDLE_KEY, ROOT, extensions)
    assert chain(LEAF, middle)[0] == ["may issue"]


def test_critical_extensions_must_be_understood():
    leaf = issue("leaf", LEAF_KEY, MIDDLE, {"1.2.3.4": (True, b"x"), "1.2.3.5": (False, b"y")})
    names, result = chain(leaf, MIDDLE)
    assert names == ["critical extensions"]
    assert next(result.failures()).got == "1.2.3.4"
    assert chain(leaf, MIDDLE, understood=frozenset({"1.2.3.4"}))[0] == []


def test_a_name_that_is_not_the_issuers():
    leaf = issue("leaf", LEAF_KEY, MIDDLE, {}, issuer_name="somebody else")
    assert chain(leaf, MIDDLE)[0] == ["signature"]


def test_the_pinned_certificates_are_the_vendors():
    expected = {  # as published; the digests stand in many other verifiers too
        "AMD ARK-Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "AMD ARK-Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "AMD ARK-Turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
        "AWS Nitro Enclaves Root-G1": "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
        "Intel SGX Root CA": "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
        "NVIDIA Device Identity CA": "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
        "NVIDIA CoRIM signing Root CA": "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
    }
    assert {root.name: root.fingerprint.hex() for root in PINNED_ROOTS.roots} == expected
    for root in PINNED_ROOTS.roots:
        read = Certificate.read(root.der, root.name)
        assert read.signed_by(read)
        assert read.path_length() is not None
    for known in PINNED_ROOTS.intermediates:
        read = Certificate.read(known.der, known.name)
        roots = [root for root in PINNED_ROOTS.of(known.vendor) if root.product == known.product]
        assert chain_check([read], roots, NOW_S, anchor=known.name).passed


def test_recorded_roots_are_the_pinned_ones(recorded):
    files = {"amd_milan_ark.pem": "AMD ARK-Milan", "amd_genoa_ark.pem": "AMD ARK-Genoa",
             "aws_nitro_root_g1.pem": "AWS Nitro Enclaves Root-G1"}  # fmt: skip
    pinned = {root.name: root.der for root in PINNED_ROOTS.roots}
    for name, root in files.items():
        assert read_pem(recorded(name), name) == [pinned[root]]


# --- reading


def test_the_reader_agrees_with_cryptography():
    for pinned in (*PINNED_ROOTS.roots, *PINNED_ROOTS.intermediates):
        ours, theirs = Certificate.read(pinned.der, ""), x509.load_der_x509_certificate(pinned.der)
        assert ours.serial == theirs.serial_number
        assert ours.tbs == theirs.tbs_certificate_bytes
        assert ours.subject == theirs.subject.public_bytes()
        assert ours.issuer == theirs.issuer.public_bytes()
        assert ours.signature == theirs.signature
        assert ours.not_before_s == int(theirs.not_valid_before_utc.timestamp())
        assert ours.not_after_s == int(theirs.not_valid_after_utc.timestamp())
        assert ours.public_key() == theirs.public_key()
        assert set(ours.extensions) == {extension.oid.dotted_string for extension in theirs.extensions}
        assert ours.signature_algorithm.children()[0].oid() == theirs.signature_algorithm_oid.dotted_string


def test_every_byte_of_a_certificate_counts():
    issuer = Certificate.read(MIDDLE.certificate, "middle")
    assert Certificate.read(LEAF.certificate, "leaf").signed_by(issuer)
    for place in range(len(LEAF.certificate)):
        flipped = bytearray(LEAF.certificate)
        flipped[place] ^= 1 << place % 8
        try:
            read = Certificate.read(bytes(flipped), "leaf")
        except ProtocolError as error:
            assert error.name == "evidence_unreadable"
        else:
            assert not read.signed_by(issuer), f"byte {place}"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x30", b"\x30\x00", b"\x30\x80\x00\x00", b"\x30\x81\x01\x00", b"\x30\x82\x00\x80" + bytes(128),
        b"\x30\x84\x00\x00\x00\x00", b"\x1f\x01\x00", b"\x30\x03\x02\x01", bytes(1 << 15),
        der.sequence(*[der.integer(1)] * 300),
    ],
)  # fmt: skip
def test_der_out_of_form(data):
    refused(data)


@pytest.mark.parametrize(
    "data", [b"\x04\x81\x01x", b"\x04\x82\x00\x80" + bytes(128), b"\x04\x01xy", b"\x04\x02x"]
)
def test_lengths_have_one_form(data):
    assert read_element(b"\x04\x01x", "").content == b"x"
    assert len(read_element(b"\x04\x81\x80" + bytes(128), "").content) == 128
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        read_element(data, "")


@pytest.mark.parametrize(
    ("element", "read"),
    [
        (b"\x02\x00", "integer"), (b"\x02\x02\x00\x01", "integer"), (b"\x02\x02\xff\xff", "integer"),
        (b"\x03\x01\x00", "integer"), (b"\x01\x01\x01", "boolean"), (b"\x01\x00", "boolean"),
        (b"\x03\x00", "bits"), (b"\x03\x02\x01\x80", "bits"), (b"\x06\x00", "oid"), (b"\x06\x01\x80", "oid"),
        (b"\x06\x02\x80\x01", "oid"), (b"\x06\x02\x2a\x86", "oid"), (b"\x17\x0b2001010000Z", "time_s"),
        (b"\x18\x0f20010101000000+", "time_s"), (b"\x18\x0f20011301000000Z", "time_s"),
        (b"\x18\x0f2001010100 000Z", "time_s"), (b"\x18\x0f20010101000060Z", "time_s"),
        (b"\x04\x0f20010101000000Z", "time_s"), (b"\x17\x0d\xff\xff0101000000Z", "time_s"),
    ],
)  # fmt: skip
def test_values_out_of_form(element, read):
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        getattr(read_element(element, "value"), read)()


def test_values():
    assert [read_element(der.integer(v), "").integer() for v in (0, 127, 128, 256, -1)] == [
        0,
        127,
        128,
        256,
        -1,
    ]
    for dotted in ("1.2.840.10045.4.3.3", "2.5.29.15", "0.9.2342", "2.999.3", "1.3.6.1.4.1.3704.1.3.8"):
        if dotted != "2.999.3":
            assert read_element(der.oid(dotted), "").oid() == dotted
    assert read_element(b"\x06\x03\x88\x37\x03", "").oid() == "2.999.3"
    assert read_element(b"\x17\x0d500101000000Z", "").time_s() == -631_152_000
    assert read_element(b"\x17\x0d491231235959Z", "").time_s() == 2_524_607_999
    assert read_element(b"\x18\x0f99991231235959Z", "").time_s() == 253_402_300_799


@given(st.integers(-(1 << 100), 1 << 100), st.integers(0, 4_000_000_000))
def test_numbers_and_times_come_back(number, at_s):
    assert read_element(der.integer(number), "").integer() == number
    assert read_element(der.time(at_s), "").time_s() == at_s


@pytest.mark.fuzz
@given(st.binary(max_size=600), st.integers(0, 600))
def test_any_bytes_are_read_or_refused(data, kept):
    for given_ in (data, LEAF.certificate[:kept] + data):
        for read in (lambda d: Certificate.read(d, "").path_length(), lambda d: read_pem(d, ""),
                     lambda d: read_public_key(d, "")):  # fmt: skip
            try:
                read(given_)
            except ProtocolError as error:
                assert error.name == "evidence_unreadable"


def test_keys_that_no_vendor_uses():
    keys = (
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
    )
    for key in keys:
        info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            read_public_key(info, "key")


def test_pem_out_of_form():
    assert read_pem(b"text\n" + pem(b"abc") + pem(b"def"), "") == [b"abc", b"def"]
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    for data in (
        b"",
        begin + b"YQ==",
        begin + b"!!!" + end,
        pem(b"a") * 9,
        pem(b"a") * 1000 + bytes(1 << 20),
    ):
        with pytest.raises(ProtocolError, match="evidence_unreadable"):
            read_pem(data, "file")
