"""What stands around evidence in a file comes off before anything is judged."""

import pytest

from myelin.attest import Evidence, RealEvidence
from myelin.attest.wrapping import unwrapped

NITRO, NVIDIA = RealEvidence.NITRO, RealEvidence.NVIDIA
DOCUMENT = b"\x84\x44\xa1\x01\x38\x22" + bytes(200)


def scale(document, more=b"more"):
    return b"\0\2" + (len(document) << 2 | 1).to_bytes(2, "little") + document + more


def test_recorded_files_are_what_they_hold(recorded):
    report = Evidence.from_file(recorded("nvidia_h100_report.txt"))
    assert (report.body[:4], len(report.body)) == (b"\x11\xe0\x01\xff", 4052)
    document = Evidence.from_file(recorded("aws_nitro_document.bin"))
    assert (document.body[:2], len(document.body)) == (b"\x84\x44", 4527)
    assert Evidence.from_file(recorded("azure_snp_vtpm_genoa.json")).media_type.endswith("vtpm+json")


@pytest.mark.parametrize(
    ("kind", "data", "inner"),
    [
        (NITRO, scale(DOCUMENT), DOCUMENT),
        (NITRO, DOCUMENT, DOCUMENT),
        (NITRO, b"\xd2" + DOCUMENT, b"\xd2" + DOCUMENT),
        (NITRO, scale(DOCUMENT)[:100], scale(DOCUMENT)[:100]),
        (NITRO, b"\0\2", b"\0\2"),
        (NVIDIA, b" 11E0 ", b"\x11\xe0"),
        (NVIDIA, b"11e0\n", b"\x11\xe0"),
        (NVIDIA, b"\x11\xe0", b"\x11\xe0"),
        (NVIDIA, b"11e", b"11e"),
        (NVIDIA, b"", b""),
        (RealEvidence.TPM, b"11e0", b"11e0"),
        (RealEvidence.TPM, scale(DOCUMENT), scale(DOCUMENT)),
    ],
)
def test_wrappings(kind, data, inner):
    assert unwrapped(kind, data) == inner
