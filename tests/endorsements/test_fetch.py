"""Each vendor's service, spoken by a stand-in: what is fetched is what the appraisal takes, and no more."""

import base64
import json
from dataclasses import replace
from itertools import pairwise
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from standin import Reply
from vendors import intel as intel_vendor
from vendors.azure import VirtualMachine
from vendors.certificates import MADE_AT_S, issue
from vendors.intel import IntelPlatform
from vendors.nitro import NitroModule
from vendors.nvidia import FIELDS, Gpu, blocks_of
from vendors.revocation import answer, list_by, responder
from vendors.rim import RimSigner
from vendors.snp import Machine, ark, ask
from vendors.snp import roots as amd_roots

from myelin.attest import (
    MEDIA_TYPES,
    Evidence,
    Measurement,
    Policy,
    RealEvidence,
    ReferenceValues,
    load_measurements,
)
from myelin.attest import appraise as appraise_pinned
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.attest.intel_quote import read_quote
from myelin.attest.nitro import NitroDocument
from myelin.attest.rim import check_rim
from myelin.cli import run
from myelin.cli.progress import console
from myelin.endorsements import Cache, fetch_endorsements
from myelin.errors import InputError

PRODUCTION = Policy.production()
FMSPC = intel_vendor.FMSPC.hex().upper()
GOOD = {"bootloader": 10, "tee": 1, "snp": 28, "microcode": 86, "fmc": 1}


def evidence(kind, data):
    return Evidence(MEDIA_TYPES[RealEvidence(kind)], data)


def failed(result):
    return [check.name for check in result.checks.failures()]


def serve_intel(standin, collateral, tee, fmspc=FMSPC, authority="platform", pccs=False):
    """Intel's interface out of collateral as one JSON object."""
    held = json.loads(collateral)

    def signed(name, field, header):
        body = f'{{"{name}":{held[field]},"signature":"{held[field + "_signature"]}"}}'
        return Reply(body.encode(), headers={header: quote(held[field + "_issuer_chain"])})

    base = f"/{tee}/certification/v4"
    standin.routes[f"{base}/tcb?fmspc={fmspc}"] = signed("tcbInfo", "tcb_info", "TCB-Info-Issuer-Chain")
    identity = signed("enclaveIdentity", "qe_identity", "SGX-Enclave-Identity-Issuer-Chain")
    standin.routes[f"{base}/qe/identity"] = identity
    listed, root = (held[name] for name in ("pck_crl", "root_ca_crl"))
    bodies = [value.encode() if pccs else bytes.fromhex(value) for value in (listed, root)]
    chain = {"SGX-PCK-CRL-Issuer-Chain": quote(held["pck_crl_issuer_chain"])}
    standin.routes[f"/sgx/certification/v4/pckcrl?ca={authority}&encoding=der"] = Reply(
        bodies[0], headers=chain
    )
    standin.routes["/sgx/certification/v4/rootcacrl" if pccs else "/IntelSGXRootCA.der"] = Reply(bodies[1])


def intel_values(data):
    read = read_quote(data)
    names = {"sgx": ("mrenclave",), "tdx": ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")}[read.kind.value]
    registers = {name: value for name, value in read.registers if name in names}
    return ReferenceValues(None, (read.report_data,), (Measurement(kind=read.kind, registers=registers),))


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
@pytest.mark.parametrize("pccs", [False, True])
def test_intel(standin, tee, pccs):
    platform = IntelPlatform()
    data = platform.sgx_quote() if tee == "sgx" else platform.tdx_quote()
    serve_intel(standin, platform.collateral(tee), tee, pccs=pccs)
    fetcher = standin.fetcher()
    if pccs:
        fetcher = replace(fetcher, services=replace(fetcher.services, intel_root=""))
    found = fetch_endorsements(evidence(tee, data), (), fetcher)
    assert [one.name for one in found] == ["collateral.json"]
    given = tuple(one.body for one in found)
    result = danger_appraise_with_roots(
        evidence(tee, data), given, intel_values(data), PRODUCTION, intel_vendor.NOW_S,
        danger_roots=intel_vendor.roots(),
    )  # fmt: skip
    assert result.trusted, failed(result)
    assert len(standin.asked) == 4


def test_intels_recorded_collateral(standin, recorded):
    data = recorded("intel_tdx_quote_v4.bin")
    collateral = recorded("intel_tdx_quote_v4.collateral.json")
    serve_intel(standin, collateral, "tdx", fmspc="B0C06F000000")
    (found,) = fetch_endorsements(evidence("tdx", data), (), standin.fetcher())
    result = appraise_pinned(
        evidence("tdx", data), (found.body,), intel_values(data), PRODUCTION, 1_750_334_160
    )
    assert result.trusted, failed(result)


UNCHAINED = b'{"enclaveIdentity":{},"signature":"' + b"0" * 128 + b'"}'


@pytest.mark.parametrize(
    ("path", "reply", "said"),
    [
        (f"/tdx/certification/v4/tcb?fmspc={FMSPC}", Reply(b"{}"), "tcbInfo"),
        (f"/tdx/certification/v4/tcb?fmspc={FMSPC}", Reply(b'{"tcbInfo":{},"signature":"00"}'), "tcbInfo"),
        ("/tdx/certification/v4/qe/identity", Reply(b'{"enclaveIdentity":[' * 9999), "enclaveIdentity"),
        ("/tdx/certification/v4/qe/identity", Reply(UNCHAINED), "in the header"),
        ("/IntelSGXRootCA.der", Reply(b"<html>"), "a revocation list"),
        ("/IntelSGXRootCA.der", Reply(status=404), "answers 404"),
    ],
)  # fmt: skip
def test_intel_answers_that_are_something_else(standin, path, reply, said):
    platform = IntelPlatform()
    serve_intel(standin, platform.collateral("tdx"), "tdx")
    assert path in standin.routes
    standin.routes[path] = reply
    with pytest.raises(InputError, match=said):
        fetch_endorsements(evidence("tdx", platform.tdx_quote()), (), standin.fetcher())


def serve_amd(standin, machine, line):
    key = "vlek" if machine.vlek else "vcek"
    tcb, chip = machine.tcb, machine.chip_id[:8] if line == "Turin" else machine.chip_id
    names = {"bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
    names = {"fmc": "fmcSPL", **names} if line == "Turin" else names
    query = "&".join(f"{parameter}={tcb[name]:02d}" for name, parameter in names.items())
    if not machine.vlek:
        standin.routes[f"/vcek/v1/{line}/{chip.hex()}?{query}"] = Reply(machine.certificate())
    issuer = ask(machine.generation, "SEV-VLEK" if machine.vlek else "SEV")
    standin.routes[f"/{key}/v1/{line}/cert_chain"] = Reply(issuer.pem() + ark(machine.generation).pem())
    standin.routes[f"/{key}/v1/{line}/crl"] = Reply(machine.revocation_list())


def judge_amd(data, given, **other):
    known = Measurement(kind="sev-snp", registers={"measurement": b"m" * 48})
    return danger_appraise_with_roots(
        evidence("sev-snp", data), given, ReferenceValues(None, (bytes(range(64)),), (known,)),
        PRODUCTION, 1_790_000_000, danger_roots=amd_roots(), **other,
    )  # fmt: skip


@pytest.mark.parametrize(("product", "line"), [("genoa", "Genoa"), ("genoa-x", "Genoa"), ("turin", "Turin")])
def test_amd(standin, product, line):
    machine = Machine(product, tcb=GOOD)
    serve_amd(standin, machine, line)
    data = machine.report(mitigations=(0b10111, 0b10111))
    found = fetch_endorsements(evidence("sev-snp", data), (), standin.fetcher())
    assert [one.name for one in found] == ["vcek.der", "vcek-chain.pem", "vcek-revoked.crl"]
    assert judge_amd(data, tuple(one.body for one in found)).trusted
    standin.routes[f"/vcek/v1/{line}/crl"] = Reply(machine.revocation_list(1))
    revoked = fetch_endorsements(evidence("sev-snp", data), (), standin.fetcher())
    assert failed(judge_amd(data, tuple(one.body for one in revoked))) == [f"revocation of SEV-{line}"]


def test_amds_key_of_a_cloud_comes_from_the_cloud(standin):
    machine = Machine("genoa", tcb=GOOD, vlek=True)
    serve_amd(standin, machine, "Genoa")
    data = machine.report(mitigations=(0b10111, 0b10111))
    found = fetch_endorsements(evidence("sev-snp", data), (), standin.fetcher())
    assert [one.name for one in found] == ["vlek-chain.pem", "vlek-revoked.crl"]
    assert judge_amd(data, (machine.certificate(), *(one.body for one in found))).trusted


def test_a_report_that_does_not_name_its_processor_is_asked_for_in_turn(standin):
    machine = Machine("genoa", tcb=GOOD)
    serve_amd(standin, machine, "Genoa")
    found = fetch_endorsements(evidence("sev-snp", machine.report(version=2)), (), standin.fetcher())
    assert found[0].name == "vcek.der"
    assert [path.split("/")[3] for path in standin.asked] == ["Milan", "Genoa", "Genoa", "Genoa"]
    hidden = Machine("genoa", tcb=GOOD)
    hidden.chip_id = bytes(64)
    with pytest.raises(InputError, match="hides the chip's id"):
        fetch_endorsements(evidence("sev-snp", hidden.report()), (), standin.fetcher())


def test_azure_has_its_certificate_inside(standin):
    vm = VirtualMachine()
    serve_amd(standin, vm.chip, "Genoa")
    found = fetch_endorsements(evidence("azure-snp", vm.evidence(bytes(32))), (), standin.fetcher())
    assert [one.name for one in found] == ["vcek-chain.pem", "vcek-revoked.crl"]
    beside = fetch_endorsements(evidence("azure-snp", vm.evidence(bytes(32), vcek="")), (), standin.fetcher())
    assert beside[0].name == "vcek.der"


class ListedModule(NitroModule):
    """A module whose region and zone name lists at the given addresses."""

    def __init__(self, *uris):
        super().__init__()
        above, self.authorities = self.root, []
        for place, name in enumerate(("region", "zone", "instance")):
            extensions = tuple(
                (x509.CRLDistributionPoints([
                    x509.DistributionPoint([x509.UniformResourceIdentifier(uri)], None, None, None)
                ]), False)
                for uri in uris[place : place + 1]
            )  # fmt: skip
            above = issue(name, above, path_length=2 - place, extensions=extensions)
            self.authorities.append(above)
        self.leaf = issue("enclave", self.authorities[-1], authority=False)


HOSTS = (
    "aws-nitro-enclaves-crl.s3.amazonaws.com",
    "crl-us-east-1-aws-nitro-enclaves.s3.us-east-1.amazonaws.com",
)
LISTS = [f"http://{host}/crl/{n:08d}-7d63-42bd-9e9f-59338cb67f84.crl" for n, host in enumerate(HOSTS)]


def test_aws(standin):
    module = ListedModule(*LISTS)
    data = module.document()
    for uri, issuer in zip(LISTS, (module.root, module.authorities[0]), strict=True):
        standin.routes[uri.removeprefix("http:/")] = Reply(list_by(issuer, (), MADE_AT_S - 60))
    found = fetch_endorsements(evidence("nitro", data), (), standin.fetcher())
    assert [one.source for one in found] == LISTS
    strict = PRODUCTION.model_copy(update={"allow_unchecked_revocation": frozenset()})
    registers = {f"pcr{index}": value for index, value in NitroDocument.read(data).pcrs if index < 3}
    values = ReferenceValues(None, (bytes(range(64)),), (Measurement(kind="nitro", registers=registers),))
    result = danger_appraise_with_roots(
        evidence("nitro", data), tuple(one.body for one in found), values, strict, MADE_AT_S,
        danger_roots=module.roots,
    )  # fmt: skip
    assert result.trusted, failed(result)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/crl/00000000-7d63-42bd-9e9f-59338cb67f84.crl",
        "http://crl-us-east-1-aws-nitro-enclaves.s3.us-west-2.amazonaws.com/crl/00000000-7d63-42bd-9e9f-59338cb67f84.crl",
        "http://aws-nitro-enclaves-crl.s3.amazonaws.com.example.org/crl/00000000-7d63-42bd-9e9f-59338cb67f84.crl",
        "http://x@aws-nitro-enclaves-crl.s3.amazonaws.com/crl/00000000-7d63-42bd-9e9f-59338cb67f84.crl",
        "http://aws-nitro-enclaves-crl.s3.amazonaws.com:8080/crl/00000000-7d63-42bd-9e9f-59338cb67f84.crl",
        "http://aws-nitro-enclaves-crl.s3.amazonaws.com/latest/meta-data",
        "file:///etc/passwd",
    ],
)
def test_a_document_cannot_send_anybody_elsewhere(standin, uri):
    with pytest.raises(InputError, match="that is not AWS's"):
        fetch_endorsements(evidence("nitro", ListedModule(uri).document()), (), standin.fetcher())
    assert standin.asked == []


def test_aws_recorded_document_names_aws_lists(standin, recorded):
    file = recorded("aws_nitro_document.bin")
    data = file[4 : 4 + (int.from_bytes(file[2:4], "little") >> 2)]
    with pytest.raises(InputError, match="answers 404"):
        fetch_endorsements(evidence("nitro", data), (), standin.fetcher())
    assert len(standin.asked) == 1
    assert "aws-nitro-enclaves" in standin.asked[0]


GPU, SIGNER = Gpu(), RimSigner()
NONCE = bytes(range(32))
GPU_FIELDS = {**FIELDS, 17: b"1010\0", 18: b"0200\0", 15: b"882\0", 35: b"GX100\0"}
REPORT = GPU.report(NONCE, fields=GPU_FIELDS)


def serve_nvidia(standin):
    """OCSP for both chains, and the manifests of a driver and a VBIOS."""
    chain = [GPU.leaf, *reversed(GPU.authorities), GPU.root]
    known = {
        one.certificate.serial_number: (one, above)
        for held in (chain, SIGNER.chain)
        for one, above in pairwise(held)
    }

    def answered(body):
        asked = ocsp.load_der_ocsp_request(body)
        assert isinstance(asked.hash_algorithm, hashes.SHA384)
        one, above = known[asked.serial_number]
        name = above.certificate.subject.public_bytes()
        digest = hashes.Hash(hashes.SHA384())
        digest.update(name)
        assert asked.issuer_name_hash == digest.finalize()
        return Reply(answer(one, above, responder(above), MADE_AT_S - 60))

    standin.routes["/ocsp"] = answered
    digests = blocks_of(3)
    manifests = {
        "NV_GPU_CC_DRIVER_GX100_535.86.09": SIGNER.manifest("535.86.09", {0: [digests[1]], 9: []}),
        "NV_GPU_VBIOS_1010_0200_882_96005E0001": SIGNER.manifest(
            "96.00.5E.00.01", {1: [digests[2]], 2: [digests[3], bytes(48)]}
        ),
    }
    for name, manifest in manifests.items():
        body = json.dumps({"id": name, "rim": base64.b64encode(manifest).decode(), "rim_format": "TEXT"})
        standin.routes[f"/v1/rim/{name}"] = Reply(body.encode())


def test_nvidia(standin, tmp_path, monkeypatch):
    serve_nvidia(standin)
    found = fetch_endorsements(evidence("nvidia", REPORT), (GPU.chain,), standin.fetcher())
    assert [one.name for one in found] == [
        "chain.pem", "device-1.ocsp", "device-2.ocsp", "device-3.ocsp",
        "driver.swidtag", "driver-rim-0.ocsp", "driver-rim-1.ocsp", "driver-rim-2.ocsp",
        "vbios.swidtag", "vbios-rim-0.ocsp", "vbios-rim-1.ocsp", "vbios-rim-2.ocsp",
    ]  # fmt: skip
    folder = tmp_path / "nvidia"
    folder.mkdir()
    for one in found:
        (folder / one.name).write_bytes(one.body)
    words = ["gpu-reference", folder / "driver.swidtag", folder / "vbios.swidtag", "--at", MADE_AT_S]
    words = [*map(str, words), "-o", str(tmp_path / "gpu.toml")]
    with console.capture() as capture:
        assert run([*words, "--endorsements", str(folder)]) == 1, "under NVIDIA's own root"
    assert "chain: root" in " ".join(capture.get().split())
    assert not (tmp_path / "gpu.toml").exists()
    monkeypatch.setitem(check_rim.__kwdefaults__, "danger_roots", SIGNER.roots)
    with console.capture():
        assert run(words) == 1, "without answers about revocation"
        assert run([*words, "--endorsements", str(folder)]) == 0
    known = load_measurements(tmp_path / "gpu.toml")
    result = danger_appraise_with_roots(
        evidence("nvidia", REPORT), tuple(one.body for one in found), ReferenceValues(None, (NONCE,), known),
        PRODUCTION, MADE_AT_S, danger_roots=GPU.roots,
    )  # fmt: skip
    assert result.trusted, failed(result)


def test_nvidia_without_its_chain_or_with_other_answers(standin):
    with pytest.raises(InputError, match="give it with --endorsements"):
        fetch_endorsements(evidence("nvidia", REPORT), (), standin.fetcher())
    serve_nvidia(standin)
    for body in (b"[]", b'{"rim":7}', b'{"rim":"!"}', b'{"rim":"' + base64.b64encode(b"<a/>") + b'"}'):
        standin.routes["/v1/rim/NV_GPU_CC_DRIVER_GX100_535.86.09"] = Reply(body)
        with pytest.raises(InputError, match="v1/rim"):
            fetch_endorsements(evidence("nvidia", REPORT), (GPU.chain,), standin.fetcher())
    hostile = GPU.report(NONCE, fields={**GPU_FIELDS, 35: b"../../x\0"})
    with pytest.raises(InputError, match="no name of NVIDIA's"):
        fetch_endorsements(evidence("nvidia", hostile), (GPU.chain,), standin.fetcher())


def test_nobody_endorses_a_tpm(standin):
    with pytest.raises(InputError, match="a policy lists its machines"):
        fetch_endorsements(evidence("tpm", b""), (), standin.fetcher())


def command(*words):
    with console.capture() as capture:
        code = run(["fetch-endorsements", *map(str, words)])
    return code, " ".join(capture.get().split())


def test_the_command_writes_a_folder_that_attest_takes(standin, tmp_path):
    platform = IntelPlatform()
    serve_intel(standin, platform.collateral("tdx"), "tdx", pccs=True)
    (tmp_path / "quote.bin").write_bytes(platform.tdx_quote())
    (tmp_path / "ca.pem").write_bytes(standin.ca)
    words = [
        tmp_path / "quote.bin",
        "-o",
        tmp_path / "out",
        "--pccs",
        standin.https,
        "--cache",
        tmp_path / "cache",
    ]
    code, said = command(*words, "--ca-file", tmp_path / "ca.pem")
    assert code == 0, said
    assert "collateral.json" in said
    count = len(standin.asked)
    code, said = command(*words, "--offline")
    assert (code, len(standin.asked)) == (0, count)
    judged = ["--policy", "production", "--nonce", bytes(range(64)).hex(), "--at", intel_vendor.NOW_S]
    with console.capture() as capture:
        code = run(list(map(str, ["attest", words[0], "--endorsements", words[2], *judged])))
    assert code == 1, "a root of these tests"
    assert "expected one collateral" not in capture.get()


def test_the_command_without_what_it_needs(standin, tmp_path):
    platform = IntelPlatform()
    (tmp_path / "quote.bin").write_bytes(platform.tdx_quote())
    (tmp_path / "text").write_text("no evidence")
    out = ["-o", tmp_path / "out"]
    for words, said in (
        ([tmp_path / "none", *out], "cannot be read"),
        ([tmp_path / "text", *out], "an envelope, or a known vendor's file"),
        ([tmp_path / "quote.bin", *out, "--offline"], "offline"),
        ([tmp_path / "quote.bin", *out, "--pccs", "http://127.0.0.1"], "expected https"),
        ([tmp_path / "quote.bin", *out, "--ca-file", tmp_path / "text"], "certificates in PEM"),
    ):
        code, got = command(*words)
        assert (code, said in got) == (2, True), got
    assert not (tmp_path / "out").exists()


def test_fetched_things_are_kept(standin, tmp_path):
    machine = Machine("genoa", tcb=GOOD)
    serve_amd(standin, machine, "Genoa")
    data = evidence("sev-snp", machine.report())
    first = fetch_endorsements(data, (), standin.fetcher(cache=Cache(tmp_path), now=lambda: 5000))
    standin.forget()
    again = fetch_endorsements(data, (), standin.fetcher(cache=Cache(tmp_path), now=lambda: 6000))
    assert again == first
    assert {one.fetched_s for one in again} == {5000}
    with pytest.raises(InputError, match="answers 404"):
        fetch_endorsements(data, (), standin.fetcher(cache=Cache(tmp_path), now=lambda: 5000 + 86_401))


def test_der_is_what_x509_reads():
    """The stand-in's lists are lists to others, too."""
    listed = x509.load_der_x509_crl(Machine("genoa").revocation_list(5))
    assert [one.serial_number for one in listed] == [5]
