"""A compiled image without an attester, attested as an SGX enclave: from its contract to a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from quoting import TARGET_INFO, Quoting, serving
from stand_in import stand_in_loader
from vendors.intel import NOW_S, IntelPlatform, roots

from myelin.attest import Evidence, Measurement, Policy, RealEvidence, ReferenceValues
from myelin.attest.appraise import danger_appraise_with_roots
from myelin.errors import ProtocolError
from myelin.host import Enclave
from myelin.host.aesm import Aesm
from myelin.image import BuiltImage, read_manifest
from myelin.image.sgx import make_key, read_enclave, read_key, sign_enclave
from world import Host, World, build_platform_image, make_world

NONCE = bytes(range(32))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    return build_platform_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def policy(built: BuiltImage) -> Policy:
    enclave = read_enclave(built.path)
    build = Measurement(
        kind=RealEvidence.SGX, registers={"mrenclave": enclave.mrenclave}, image=built.measurement
    )
    return Policy(name="enclave", accepts=frozenset({RealEvidence.SGX}), measurements=(build,))


@pytest.fixture
def world(built: BuiltImage, policy: Policy, tmp_path: Path) -> World:
    manifest: dict[str, Any] = read_manifest(built.path)
    return make_world(tmp_path, built.path, manifest, built.measurement, built.plan_digest, policy=policy)


@pytest.fixture
def quoting() -> Quoting:
    return Quoting(IntelPlatform())


@pytest.fixture
def host(world: World, built: BuiltImage, quoting: Quoting, tmp_path: Path) -> Iterator[Host]:
    enclave, structure = read_enclave(built.path), tmp_path / "sigstruct"
    signing = read_key(make_key())
    structure.write_bytes(
        sign_enclave(enclave.mrenclave, signing, attributes=enclave.attributes, xfrm=enclave.xfrm)
    )
    with serving(quoting, tmp_path / "aesm") as socket:
        running = Enclave.start(
            built.path,
            threads=2,
            backend="sgx",
            sigstruct=structure,
            quoter=Aesm(socket),
            loader=stand_in_loader(),
        )
        with Host(world, enclave=running) as host:
            yield host


def test_evidence_is_for_what_the_image_chose_and_no_more(
    world: World, host: Host, policy: Policy, quoting: Quoting
) -> None:
    host.bind()
    collateral = quoting.platform.collateral("sgx")
    for asked, good in ((NONCE, True), (NONCE[::-1], False)):
        evidence = Evidence.from_cmw(host.session.attest(asked, policy.digest))
        values = ReferenceValues(frozenset({world.measurement}), (host.report_data(NONCE, policy),))
        result = danger_appraise_with_roots(
            evidence, (collateral,), values, policy, NOW_S, danger_roots=roots()
        )
        assert [check.name for check in result.checks.failures()] == ([] if good else ["report data"])
    # Once it is answered nothing is wanted any more, and a report says nothing.
    assert host.enclave.sgx_report(TARGET_INFO)[320:384] == bytes(64)


def test_a_broker_that_knows_intel_s_root_alone_gives_no_key(world: World, host: Host) -> None:
    host.bind()
    with pytest.raises(ProtocolError) as refusal:
        host.grant(0)
    assert refusal.value.name == "evidence_refused"
    assert world.debits() == [0, 0]
