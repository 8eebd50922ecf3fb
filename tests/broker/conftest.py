"""Anchored owners; a TPM where the test wants one."""

import shutil

import pytest
from anchoring import AnchoredWorld, software_tpm


@pytest.fixture
def tpm(tmp_path):
    if shutil.which("swtpm") is None:
        pytest.skip("swtpm is not installed")
    with software_tpm(tmp_path / "tpm") as socket:
        yield socket


@pytest.fixture(params=["tpm", "witnesses", "log"])
def world(request, tmp_path):
    tpm = request.getfixturevalue("tpm") if request.param == "tpm" else None
    world = AnchoredWorld(tmp_path, (request.param,), tpm)
    yield world
    for owner in world.agreement.owners:
        world.stop(owner)
    world.journal.close()
