"""Revocation lists and OCSP answers: whose word counts, for whom, how long, and under which policy."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from flips import check_fuzzed
from vendors import der
from vendors.authority import Holder
from vendors.certificates import MADE_AT_S, issue, root
from vendors.nitro import NitroModule
from vendors.nvidia import Gpu
from vendors.revocation import ISSUING_POINT, answer, list_by, points_at, responder, revocation_list
from vendors.snp import LISTED_S, Machine, ark, ask, key, roots

from myelin.attest import MEDIA_TYPES, Evidence, Measurement, Policy, RealEvidence, ReferenceValues
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.attest.certificate import Certificate
from myelin.attest.nitro import NitroDocument
from myelin.attest.nvidia import driver_version, vbios_version
from myelin.attest.ocsp import RevocationAnswer
from myelin.attest.revocation import RevocationList, revocation_check, split_statements
from myelin.attest.spdm import SpdmReport
from myelin.errors import ProtocolError

SNP, NITRO, NVIDIA = RealEvidence.SEV_SNP, RealEvidence.NITRO, RealEvidence.NVIDIA
PRODUCTION = Policy.production()
NOW_S = 1_790_000_000
DAY_S = 86_400
GOOD = {"bootloader": 10, "tee": 1, "snp": 28, "microcode": 86, "fmc": 1}
MITIGATED = {"mitigations": (0b10111, 0b10111)}
GENOA = Machine("genoa", tcb=GOOD)
GENOA_NAME = "revocation of SEV-Genoa"
OTHER_ISSUER = der.sequence(der.oid("2.5.29.29"), der.boolean(True), der.octets(b""))


def failed(result):
    return [check.name for check in result.checks.failures()]


def got(result, name):
    return next(f"{check.got} {check.margin}" for check in walk(result.checks) if check.name == name)


def walk(check):
    yield check
    for child in check.children:
        yield from walk(child)


def snp(machine, endorsements, policy=PRODUCTION, now_s=NOW_S, **report):
    data = machine.report(**{**MITIGATED, **report})
    known = Measurement(kind="sev-snp", registers={"measurement": b"m" * 48})
    values = ReferenceValues(None, (bytes(range(64)),), (known,))
    evidence = Evidence(MEDIA_TYPES[SNP], data)
    return danger_appraise_with_roots(evidence, endorsements, values, policy, now_s, danger_roots=roots())


def genoa(*statements, policy=PRODUCTION, now_s=NOW_S):
    return snp(GENOA, (GENOA.certificate(), *statements), policy, now_s)


# --- AMD, and production's minima


@pytest.mark.parametrize(
    ("product", "tcb"),
    [("genoa", GOOD), ("genoa-x", {**GOOD, "microcode": 81}), ("turin", {**GOOD, "snp": 4, "microcode": 81})],
)
@pytest.mark.parametrize("vlek", [False, True])
def test_production_takes_firmware_that_is_up_to_date(product, tcb, vlek):
    machine = Machine(product, tcb=tcb, vlek=vlek)
    result = snp(machine, machine.endorsements())
    assert result.trusted, failed(result)
    for component in ("snp", "microcode"):
        older = Machine(product, tcb={**tcb, component: tcb[component] - 1}, vlek=vlek)
        result = snp(older, older.endorsements())
        assert failed(result) == [component]
        assert got(result, component).endswith("1 below the minimum")


def test_production_wants_mitigations_that_were_made_and_the_check_for_aliases():
    given = GENOA.endorsements()
    assert failed(snp(GENOA, given, mitigations=(0b00111, 0b10111))) == ["mitigations"]
    assert failed(snp(GENOA, given, mitigations=(0b10111, 0b10011))) == ["mitigations"]
    assert failed(snp(GENOA, given, version=3, mitigations=(0, 0))) == ["mitigations"]
    assert failed(snp(GENOA, given, platform_info=0)) == ["platform features"]


def test_production_takes_no_milan_and_says_why():
    milan = Machine("milan", tcb=dict.fromkeys(GOOD, 255))
    result = snp(milan, milan.endorsements())
    assert failed(result) == ["TCB versions"]
    assert "software alone can read the seed" in got(result, "TCB versions")


def test_without_a_list():
    result = genoa()
    assert failed(result) == [GENOA_NAME]
    assert "no revocation list" in got(result, GENOA_NAME)
    lenient = PRODUCTION.model_copy(update={"allow_unchecked_revocation": frozenset({SNP})})
    assert genoa(policy=lenient).trusted
    assert failed(genoa(GENOA.revocation_list(1), policy=lenient)) == [GENOA_NAME]


def test_a_revoked_intermediate():
    result = genoa(GENOA.revocation_list(7, 1, 9))
    assert failed(result) == [GENOA_NAME]
    assert "REVOKED by a list of 3" in got(result, GENOA_NAME)
    assert failed(genoa(GENOA.revocation_list(1), GENOA.revocation_list())) == [GENOA_NAME]


def test_serial_number_0_is_nobody():
    """AMD's root issued no certificate with it: a list that names it says nothing about any chip."""
    assert genoa(GENOA.revocation_list(0)).trusted


@pytest.mark.parametrize(
    ("now_s", "said"),
    [
        (LISTED_S - 61, "in the future"),
        (LISTED_S + 30 * DAY_S + 1, "1 seconds past its next update"),
    ],
)
def test_a_list_of_another_time(now_s, said):
    result = genoa(GENOA.revocation_list(), now_s=now_s)
    assert failed(result) == [GENOA_NAME]
    assert said in got(result, GENOA_NAME)


def test_the_policy_says_how_old():
    assert genoa(GENOA.revocation_list(), now_s=LISTED_S + 30 * DAY_S).trusted
    short = PRODUCTION.model_copy(update={"maximum_revocation_age_s": 3600})
    result = genoa(GENOA.revocation_list(), policy=short)
    assert failed(result) == [GENOA_NAME]
    assert "too old for the policy" in got(result, GENOA_NAME)
    long = revocation_list(ark("genoa"), (), LISTED_S, valid_s=300 * DAY_S)
    assert genoa(long, now_s=LISTED_S + 60 * DAY_S).trusted
    assert failed(genoa(long, now_s=LISTED_S + 60 * DAY_S + 1)) == [GENOA_NAME]


def test_a_list_of_somebody_else():
    forged = revocation_list(Holder("ARK-Genoa", key("somebody"), b""), (), LISTED_S)
    result = genoa(forged)
    assert failed(result) == [GENOA_NAME]
    assert "it did not sign" in got(result, GENOA_NAME)
    assert genoa(forged, GENOA.revocation_list()).trusted, "it takes nothing from the right one"
    assert failed(genoa(Machine("turin").revocation_list())) == [GENOA_NAME]
    below = revocation_list(ask("genoa"), (), LISTED_S)
    assert failed(genoa(below)) == [GENOA_NAME]


def test_every_flipped_byte_of_a_list_is_refused():
    listed = GENOA.revocation_list(5)
    for place in range(len(listed)):
        flipped = bytearray(listed)
        flipped[place] ^= 1 << place % 8
        assert not genoa(bytes(flipped)).trusted, place


def test_a_list_in_pem_and_beside_other_files():
    encoded = base64.encodebytes(GENOA.revocation_list())
    assert genoa(b"\n-----BEGIN X509 CRL-----\n" + encoded + b"-----END X509 CRL-----\n").trusted
    broken = genoa(GENOA.revocation_list(), b"-----BEGIN X509 CRL-----\nno")
    assert failed(broken) == ["endorsement 3"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"extensions": {"2.5.29.27": (True, der.integer(1))}},
        {"extensions": {ISSUING_POINT: (True, der.sequence(der.tlv(0x81, b"\xff")))}},
        {"extensions": {ISSUING_POINT: (True, der.sequence(der.tlv(0x84, b"\xff")))}},
        {"entry_extensions": der.sequence(OTHER_ISSUER)},
    ],
    ids=["version 1", "a difference", "of leaves alone", "indirect", "an entry of another issuer"],
)
def test_lists_of_kinds_that_are_not_read(changes):
    listed = revocation_list(ark("genoa"), (9,), LISTED_S, **changes)
    with pytest.raises(ProtocolError, match="evidence_unreadable"):
        RevocationList.read(listed, "list")
    assert not genoa(listed).trusted


def test_an_issuer_that_may_not_sign_lists():
    mute = issue("mute", root("r"), may_list=False)
    chain = (issue("leaf", mute, authority=False), mute)
    statements, _ = split_statements((list_by(mute, (), MADE_AT_S),))
    held = [Certificate.read(one.der, "c") for one in chain]
    check = revocation_check(held, [0], statements, PRODUCTION, SNP, "root", MADE_AT_S)
    assert "it did not sign" in check.children[0].got
    assert not check.passed


# --- AWS


class ListedModule(NitroModule):
    """A module whose region and zone name a list, as AWS's do."""

    def __init__(self, hosts=("aws-nitro-enclaves-crl.s3.amazonaws.com",) * 2):
        super().__init__()
        self.uris = [f"http://{host}/crl/{place:08d}-0000-0000-0000-000000000000.crl"
                     for place, host in enumerate(hosts)]  # fmt: skip
        above, self.authorities = self.root, []
        for place, name in enumerate(("region", "zone", "instance")):
            points = x509.CRLDistributionPoints([
                x509.DistributionPoint([x509.UniformResourceIdentifier(uri)], None, None, None)
                for uri in self.uris[place : place + 1]
            ]) if place < 2 else None  # fmt: skip
            extensions = ((points, False),) if points is not None else ()
            above = issue(name, above, path_length=2 - place, extensions=extensions)
            self.authorities.append(above)
        self.leaf = issue("enclave", self.authorities[-1], authority=False)

    def lists(self, region=(), zone=(), **other):
        return (
            list_by(self.root, region, MADE_AT_S - 60, **other),
            list_by(self.authorities[0], zone, MADE_AT_S - 60, **other),
        )

    def judged(self, endorsements, policy):
        data = self.document()
        registers = {f"pcr{index}": value for index, value in NitroDocument.read(data).pcrs if index < 3}
        values = ReferenceValues(None, (bytes(range(64)),), (Measurement(kind=NITRO, registers=registers),))
        evidence = Evidence(MEDIA_TYPES[NITRO], data)
        return danger_appraise_with_roots(
            evidence, endorsements, values, policy, MADE_AT_S, danger_roots=self.roots
        )


def test_nitro_lists():
    module = ListedModule()
    strict = PRODUCTION.model_copy(update={"allow_unchecked_revocation": frozenset()})
    assert module.judged((), PRODUCTION).trusted
    assert failed(module.judged((), strict)) == ["revocation of zone", "revocation of region"]
    assert module.judged(module.lists(), strict).trusted
    zone = module.authorities[1].certificate.serial_number
    for policy in (strict, PRODUCTION):
        assert failed(module.judged(module.lists(zone=(5, zone)), policy)) == ["revocation of zone"]
    assert module.judged(module.lists(region=(zone,)), strict).trusted, "it is not the root's to revoke"


def test_a_list_that_names_its_address_is_for_those_that_name_it_too():
    module = ListedModule()
    strict = PRODUCTION.model_copy(update={"allow_unchecked_revocation": frozenset()})

    def pointed(*uris):
        return {"extensions": {ISSUING_POINT: (True, der.sequence(points_at(*uris)))}}

    assert module.judged(module.lists(**pointed(*module.uris)), strict).trusted
    other = module.lists(**pointed("http://other/list"))
    assert failed(module.judged(other, strict)) == ["revocation of zone", "revocation of region"]
    assert failed(NoLists().judged((), strict)) == ["revocation"]
    assert NoLists().judged((), PRODUCTION).trusted


class NoLists(ListedModule):
    def __init__(self):
        super().__init__()
        NitroModule.__init__(self)


# --- NVIDIA

GPU = Gpu()
CHAIN = [GPU.leaf, *reversed(GPU.authorities), GPU.root]
NONCE = bytes(range(32))


def answers(at_s=MADE_AT_S, **other):
    """One for each certificate of the chain that can be revoked."""
    return [answer(CHAIN[n], CHAIN[n + 1], responder(CHAIN[n + 1]), at_s - 60, **other) for n in (1, 2, 3)]


def gpu(statements, policy=PRODUCTION, now_s=MADE_AT_S):
    data = GPU.report(NONCE)
    read = SpdmReport.read(data)
    registers = {"driver_version": driver_version(read).encode()}
    registers["vbios_version"] = vbios_version(read).encode()
    registers |= {f"block{index}": value for index, value in read.blocks.items() if any(value)}
    values = ReferenceValues(None, (NONCE,), (Measurement(kind=NVIDIA, registers=registers),))
    evidence = Evidence(MEDIA_TYPES[NVIDIA], data)
    given = (GPU.chain, *statements)
    return danger_appraise_with_roots(evidence, given, values, policy, now_s, danger_roots=GPU.roots)


def test_answers_about_a_gpus_chain():
    names = [f"revocation of {name}" for name in ("GX100 A01 GSP BROM", "Provisioner ICA 1", "Identity")]
    assert gpu(answers()).trusted
    assert failed(gpu(())) == names
    for place in range(3):
        given = answers()
        assert failed(gpu(given[:place] + given[place + 1 :])) == [names[place]]
        revoked = answer(
            CHAIN[place + 1], CHAIN[place + 2], responder(CHAIN[place + 2]), MADE_AT_S - 60,
            status=ocsp.OCSPCertStatus.REVOKED,
        )  # fmt: skip
        assert failed(gpu([*given, revoked])) == [names[place]]
    unknown = answers(status=ocsp.OCSPCertStatus.UNKNOWN)
    assert failed(gpu(unknown)) == names


def test_a_list_does_for_an_answer():
    lists = [list_by(CHAIN[place], (), MADE_AT_S - 60) for place in (3, 4)]
    assert gpu([answers()[0], *lists]).trusted


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: responder(root("another root")), "no authority over the certificate"),
        (lambda: responder(CHAIN[2], ocsp_signing=False), "not for signing answers"),
        (lambda: GPU.leaf, "no authority over the certificate"),
    ],
)
def test_whose_answer_counts(make, said):
    rest = answers()[1:]
    other = answer(CHAIN[1], CHAIN[2], make(), MADE_AT_S - 60)
    result = gpu([other, *rest])
    assert failed(result) == ["revocation of GX100 A01 GSP BROM"]
    assert said in got(result, "revocation of GX100 A01 GSP BROM")


def test_the_issuer_and_authorities_above_it_may_answer():
    rest = answers()[1:]
    assert gpu([answer(CHAIN[1], CHAIN[2], CHAIN[2], MADE_AT_S - 60), *rest]).trusted
    assert gpu([answer(CHAIN[1], CHAIN[2], responder(CHAIN[4]), MADE_AT_S - 60), *rest]).trusted


def test_old_answers():
    names = ["revocation of GX100 A01 GSP BROM", "revocation of Provisioner ICA 1", "revocation of Identity"]
    late = MADE_AT_S + 3600
    assert failed(gpu(answers(valid_s=60), now_s=late)) == names
    assert gpu(answers(valid_s=None), now_s=late).trusted, "without a next update the policy's age counts"
    short = PRODUCTION.model_copy(update={"maximum_revocation_age_s": 600})
    assert failed(gpu(answers(valid_s=None), short, late)) == names
    assert failed(gpu(answers(late + 3600), now_s=late)) == names


def test_an_answer_about_another_certificate():
    given = answers()
    other = issue("another", CHAIN[2])
    wrong = answer(other, CHAIN[2], responder(CHAIN[2]), MADE_AT_S - 60)
    assert failed(gpu([wrong, *given[1:]])) == ["revocation of GX100 A01 GSP BROM"]


def test_every_flipped_byte_of_an_answer_is_refused():
    given = answers()
    first = given[0]
    end = (
        len(first) - len(responder(CHAIN[2]).der) - 16
    )  # the certificate that it carries is not signed by it
    for place in range(0, end):
        flipped = bytearray(first)
        flipped[place] ^= 1 << place % 8
        assert not gpu([bytes(flipped), *given[1:]]).trusted, place
    signature = RevocationAnswer.read(first, "answer").signature
    forged = gpu([first.replace(signature, signature[:-1] + bytes([signature[-1] ^ 1])), *given[1:]])
    assert "not by the issuer" in got(forged, "revocation of GX100 A01 GSP BROM")


def test_a_refusal_is_no_answer():
    refusal = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    with pytest.raises(ProtocolError, match="try_later"):
        RevocationAnswer.read(refusal.public_bytes(Encoding.DER), "x")


@pytest.mark.fuzz
def test_arbitrary_and_mutated_statements():
    check_fuzzed(lambda data: RevocationList.read(data, "list"), GENOA.revocation_list(1, 2, 3))
    check_fuzzed(lambda data: RevocationAnswer.read(data, "answer"), answers()[0])
    check_fuzzed(lambda data: split_statements((data,)), GENOA.revocation_list())
