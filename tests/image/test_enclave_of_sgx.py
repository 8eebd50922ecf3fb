"""A compiled image, whole, as an SGX enclave: on the stand-in for driver and processor."""

from __future__ import annotations

import sys
from pathlib import Path

from myelin.host import Enclave, EnclaveSession
from myelin.image import BuiltImage
from myelin.image.sgx import make_key, read_enclave, read_key, sign_enclave

sys.path.append(str(Path(__file__).resolve().parents[1] / "host"))

from stand_in import stand_in_loader

TARGET_INFO = bytes([7] * 32) + bytes(480)


def test_a_compiled_image_answers_and_is_reported_as_what_was_computed(
    built: BuiltImage, tmp_path: Path
) -> None:
    enclave = read_enclave(built.path)
    structure = tmp_path / "sigstruct"
    signing = read_key(make_key())
    structure.write_bytes(
        sign_enclave(enclave.mrenclave, signing, attributes=enclave.attributes, xfrm=enclave.xfrm)
    )
    with Enclave.start(
        built.path, threads=2, backend="sgx", sigstruct=structure, loader=stand_in_loader()
    ) as running:
        description = EnclaveSession(running).describe()
        assert (description.state, description.plan_digest) == ("launched", built.plan_digest)
        report = running.sgx_report(TARGET_INFO)
        assert report[64:96] == enclave.mrenclave
        # Nothing wants evidence: no byte of the image's other data goes out.
        assert report[320:384] == bytes(64)
        assert EnclaveSession(running).describe() == description
