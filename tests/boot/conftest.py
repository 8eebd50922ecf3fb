"""One image, its boot files, one machine, and what a first boot of it, that is trusted, showed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from software_machine import StandIn, kernel_package, missing
from trusted import NONCE, Recorded, Settle

from myelin.attest import AppraisalPolicy, Evidence, Measurement, Policy, RealEvidence
from myelin.attest.tpm import TpmEvidence
from myelin.boot import BootFiles, BootKind, make_boot_files
from myelin.image import BuiltImage, read_manifest
from world import POLICY, Host, World, build_platform_image, make_world


@pytest.fixture(scope="session")
def kernel() -> Path:
    """The kernel package; without what the machine takes, the tests of it are skipped."""
    lacking = missing()
    if lacking:
        pytest.skip("no machine with measured boot here; missing: " + "; ".join(lacking))
    package = kernel_package()
    assert package is not None
    return package


@pytest.fixture(scope="session")
def built(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """A small job's image, without the simulated attester."""
    return build_platform_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def boot(built: BuiltImage, kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> BootFiles:
    """The boot files of it, for TDX."""
    return make_boot_files(built.path, BootKind.TDX, kernel, tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="session")
def settle(built: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Settle:
    """Makes owners, brokers and a contract that all signed, under a policy."""

    def world_under(policy: AppraisalPolicy) -> World:
        manifest: dict[str, Any] = read_manifest(built.path)
        folder = tmp_path_factory.mktemp("world")
        return make_world(folder, built.path, manifest, built.measurement, built.plan_digest, policy=policy)

    return world_under


@pytest.fixture(scope="session")
def recorded(boot: BootFiles, machine: StandIn, settle: Settle) -> Recorded:
    world = settle(POLICY)
    with machine.boot(boot) as enclave:
        host = Host(world, enclave=enclave)
        host.bind()
        envelope = Evidence.from_cmw(host.session.attest(NONCE, POLICY.digest))
    evidence = TpmEvidence.read(envelope.body)
    pcrs = dict(evidence.pcrs)
    build = Measurement(
        kind=RealEvidence.TPM,
        image=boot.measurement,
        registers={f"pcr{index}": pcrs[index] for index in (0, 4, 9)},
    )
    policy = Policy(
        name="one machine",
        accepts=frozenset({RealEvidence.TPM}),
        platforms=frozenset({evidence.key.digest}),
        measurements=(build,),
    )
    return Recorded(evidence, policy)
