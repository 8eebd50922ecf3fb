"""SEV-SNP launch digests: one that hardware signed, ones of an independent tool, and what is refused."""

import hashlib
import struct

import pytest
from flips import check_fuzzed
from made import HASHES, HASHES_AT, RESET, SEV_SECTIONS, firmware, kernel, pattern

from myelin.errors import InputError
from myelin.measure import (
    CPU_TYPES,
    BootHashes,
    SnpFirmware,
    SnpPages,
    SnpSection,
    Vmm,
    cpu_signature,
    cpu_type_signature,
    launch_digest,
    measure_snp,
)

INITRD, LINE = pattern(5000, b"initrd"), "console=ttyS0 quiet"


def test_a_digest_that_hardware_signed():
    """A guest of dstack on a Milan machine, 2026-06-17, two processors: the inputs and the MEASUREMENT of the
    report that AMD's key signed (Dstack-TEE/dstack, dstack-attest/tests/sev_snp_attestation.bin)."""
    sections = (
        (0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3),
        (0x80F000, 0x1000, 4), (0x811000, 0xF000, 1), (0x810000, 0x1000, 0x10),
    )  # fmt: skip
    read = SnpFirmware(
        digest=bytes.fromhex(
            "ffb57e393469a497c0e3b07bd1c97d8611e555f464d14491837665893ac642b263a71f9507ff100a847897fe0c3f8c6f"
        ),
        sections=tuple(SnpSection(SnpPages(kind), at, size) for at, size, kind in sections),
        hashes_address=0x810C00,
        reset_address=0x80B004,
    )
    line = (
        "console=ttyS0 init=/init panic=1 net.ifnames=0 biosdevname=0 mce=off oops=panic pci=noearly "
        "pci=nommconf random.trust_cpu=y random.trust_bootloader=n tsc=reliable no-kvmclock "
        "dstack.rootfs_hash=ca5adaef0ac3a36108035925763b48a5818f634e700fbaab561d419fd30d7121 "
        "dstack.rootfs_size=490713088"
    )
    boot = BootHashes(
        kernel=bytes.fromhex("dd9ea274ce9a07090b22e8284b0c841b65c021c2d15ca57d0f16731089dd226c"),
        initrd=bytes.fromhex("5f844c4a2ca5a3d0711b3db38293b21ba929bb8e0b3c5bc1a779a57f69221c19"),
        command_line=BootHashes.of(b"", b"", line).command_line,
    )
    digest = launch_digest(read, boot, processors=2, signature=cpu_type_signature("EPYC-v4"))
    assert digest.hex() == (
        "7f51e17f72a04d5422cb2c00998166536019a217376f3aa45a630e59c805a599847ff250dbffcd07e1ba639771d6f05d"
    )


@pytest.mark.parametrize(
    ("vmm", "processors", "features", "booted", "expected"),
    [
        ("qemu", 1, 0x01, True, "b43a3a39e05566e0ec50a244bc6c5eeeee5267ba181950260deb973fa6cc9138a4933b9d830b1b0ff8907beac1559f5f"),  # noqa: E501
        ("qemu", 4, 0x01, True, "857a70b8fa714b7f320bf1e3a433395dd0f5be324bf43a40ec5456eddf2891225208118d97060d68a4986552fb96535e"),  # noqa: E501
        ("qemu", 2, 0x21, False, "722efcc545dfa269eb5f7c8aee06bfaf409a41c1955f379d9312810fd951eea05c0df5c7e10d0229a2b9b2d21aac6eb7"),  # noqa: E501
        ("ec2", 1, 0x01, True, "c2a41757638b92584dc9aa064bc41ab21405307fc942cb2ab440216297bb2b0d951dac2cc0d25bcf1cea1d51e0473d2c"),  # noqa: E501
        ("ec2", 4, 0x01, True, "20f09adb0c7bdf0773b0c2306f8b2a3e1f89c51fb959cf0d48994de5b8a8891db4ca22ca2f708d67808cb24c1a4463bf"),  # noqa: E501
        ("ec2", 2, 0x21, False, "7a0278e8b0f6b719e888abddea5de2156a9fb41078b6ff85bd372842bcbd711dd25326b294f223d1a6d4f747764b94a1"),  # noqa: E501
        ("gce", 1, 0x01, True, "9ef9e8b57c98241e9cecdb171eead81c15c8aafb4cda01955e6307a7d38cc6d17dfb126340dd31b59f031f36f8215173"),  # noqa: E501
        ("gce", 4, 0x01, True, "ba06c5eb6f21120bd5a971509cd65d6ab6acbe2792138944087043364deeda301c3bb369cf73362fff93e3c570035e76"),  # noqa: E501
        ("gce", 2, 0x21, False, "d297d75759a79f5bf2cca2c4bd890ede69a0a4b6e9889d561b6f9747f62f198f4cf53b678f3508dc4f450cd592e6e5b1"),  # noqa: E501
    ],
)  # fmt: skip
def test_digests_of_sev_snp_measure(vmm, processors, features, booted, expected):
    """What virtee's sev-snp-measure 0.0.13 gave for this very firmware, kernel and initrd (EPYC-Genoa)."""
    boot = BootHashes.of(kernel(), INITRD, LINE) if booted else None
    measured = measure_snp(
        firmware(), boot, processors=processors, signature=CPU_TYPES["EPYC-Genoa"], features=features,
        vmm=Vmm(vmm),
    )  # fmt: skip
    assert [(name, value.hex()) for name, value in measured.registers] == [("measurement", expected)]


def digest(**changes):
    boot = {"kernel": kernel(), "initrd": INITRD, "command_line": LINE}
    boot = {name: changes.pop(name, value) for name, value in boot.items()}
    settings = {"processors": 2, "signature": CPU_TYPES["EPYC-Milan"], **changes}
    return measure_snp(settings.pop("firmware", firmware()), BootHashes.of(**boot), **settings)


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": kernel() + b"\0"}, {"initrd": INITRD[:-1]}, {"command_line": LINE + " "},
        {"processors": 3}, {"signature": CPU_TYPES["EPYC-Genoa"]}, {"features": 3}, {"vmm": Vmm.EC2},
        {"firmware": firmware(sev=[SEV_SECTIONS[1], SEV_SECTIONS[0], *SEV_SECTIONS[2:]])},
        {"firmware": firmware(others=((HASHES, struct.pack("<I", HASHES_AT)), (RESET, struct.pack("<I", 0x80B008))))},  # noqa: E501
    ],
    ids=str,
)  # fmt: skip
def test_every_input_counts(change):
    assert digest(**change).registers != digest().registers


def test_any_byte_of_firmware_counts():
    good, expected = firmware(), digest().registers
    for place in (0, len(good) // 2, len(good) - 1):
        changed = bytearray(good)
        changed[place] ^= 1
        assert digest(firmware=bytes(changed)).registers != expected


def test_host_data_is_beside_the_measurement():
    with_it = digest(host_data=bytes(range(32)))
    assert with_it.registers == (*digest().registers, ("host_data", bytes(range(32))))
    with pytest.raises(InputError, match="32 bytes"):
        digest(host_data=bytes(31))


@pytest.mark.parametrize(
    ("name", "family", "model", "stepping"),
    [("EPYC", 23, 1, 2), ("EPYC-Genoa-v2", 25, 17, 0), ("EPYC-Turin", 26, 0, 0), ("25/97/2", 25, 97, 2)],
)
def test_processor_types(name, family, model, stepping):
    assert cpu_type_signature(name) == cpu_signature(family, model, stepping)


def test_a_signature_is_as_cpuid_has_it():
    assert cpu_signature(25, 97, 2) == 0xA60F12, "AMD Zen 4, family 19h, model 61h, stepping 2"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"processors": 0}, "processors"), ({"processors": 513}, "processors"),
        ({"features": 0}, "bit 0"), ({"features": 1 << 64}, "SEV_FEATURES"),
        ({"firmware": firmware(sev=None)}, "SEV metadata"),
        ({"firmware": firmware(sev=SEV_SECTIONS[:-1])}, "kernel hashes"),
        ({"firmware": firmware(others=((HASHES, struct.pack("<I", HASHES_AT)),))}, "further processors"),
        ({"firmware": firmware(others=((HASHES, b"\0\0\x90\0"), (RESET, b"\1\0\0\0")))}, "elsewhere"),
        ({"firmware": firmware(others=((HASHES, b"\xff\x0f\x81\0"), (RESET, b"\1\0\0\0")))}, "inside"),
        ({"firmware": firmware(sev=[(0x800000, 0x1000, 7)])}, "type of a section"),
        ({"firmware": firmware(sev=[(0x800000, 0x1001, 1)])}, "whole pages"),
        ({"firmware": firmware(sev=[(0x800000, 0x2000, 2)])}, "one page"),
        ({"firmware": firmware(sev=[(0xFFFFF000, 0x2000, 1)])}, "below 4 GiB"),
        ({"firmware": firmware(sev=[])}, "number of sections"),
        ({"firmware": bytes(0x20000)}, "table of GUIDs"), ({"firmware": firmware()[:-1]}, "whole pages"),
        ({"firmware": b""}, "whole pages"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refusals(change, says):
    with pytest.raises(InputError, match=says):
        digest(**change)


@pytest.mark.parametrize("name", ["EPYC-Naples", "25/1", "999/1/1", "25/1/16", "-v1", ""])
def test_unknown_processors(name):
    with pytest.raises(InputError, match="processor"):
        cpu_type_signature(name)


def test_the_digest_of_firmware_stands_for_the_file():
    data, digest = firmware(), bytes(48)
    for at in range(0, len(data), 4096):
        page = hashlib.sha384(data[at : at + 4096]).digest()
        address = (1 << 32) - len(data) + at
        digest = hashlib.sha384(digest + page + struct.pack("<HBBIQ", 0x70, 1, 0, 0, address)).digest()
    assert SnpFirmware.read(data).digest == digest


@pytest.mark.fuzz
def test_fuzzed():
    check_fuzzed(SnpFirmware.read, firmware(), refusal=InputError, examples=50)
    end = firmware()[-0x1000:]
    rest = firmware()[:-0x1000]
    check_fuzzed(lambda tail: SnpFirmware.read(rest[: len(rest) - len(tail) % 4096] + tail), end,
                 refusal=InputError, examples=50)  # fmt: skip
