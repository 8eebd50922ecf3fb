"""Nitro's enclave image files: written twice the same, read back, measured, and refused."""

import datetime
import hashlib
import json
import struct
import zlib

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from flips import check_fuzzed
from made import pattern

from myelin.errors import InputError
from myelin.measure import Eif, build_eif, eif_registers, measure_nitro, measure_nitro_parts

KERNEL, RAMDISKS, LINE = pattern(4000, b"k"), [pattern(900, b"1"), pattern(700, b"2")], "console=ttyS0 quiet"
HEADER = 548


def good(**changes):
    return build_eif(**{"kernel": KERNEL, "initrds": RAMDISKS, "cmdline": LINE, **changes})


def test_the_same_parts_give_the_same_bytes():
    assert good() == good()
    assert good(name="other") != good()
    assert good(name="other", version="9", memory_bytes=1 << 20, processors=1)[HEADER:] != good()[HEADER:]


def test_read_back():
    read = Eif.read(good(memory_bytes=512 << 20, processors=3))
    assert (read.kernel, list(read.ramdisks), read.command_line) == (KERNEL, RAMDISKS, LINE)
    assert (read.memory_bytes, read.processors, read.certificate) == (512 << 20, 3, b"")
    metadata = json.loads(read.metadata)
    assert metadata["ImageName"] == "myelin"
    assert metadata["BuildMetadata"]["BuildTime"] == "1970-01-01T00:00:00+00:00"


def test_the_layout_is_the_format_s():
    """Offsets as AWS's crate defines them, read here by hand."""
    image = good()
    assert image[:8] == b".eif\0\4\0\0"
    assert struct.unpack(">QQHH", image[8:28]) == (1 << 30, 2, 0, 5)
    offsets, sizes = struct.unpack(">32Q", image[28:284]), struct.unpack(">32Q", image[284:540])
    kinds = [struct.unpack(">HHQ", image[at : at + 12]) for at in offsets[:5]]
    assert [kind for kind, _, _ in kinds] == [1, 2, 5, 3, 3], "kernel, command line, metadata, ramdisks"
    assert tuple(size for _, _, size in kinds) == sizes[:5]
    assert offsets[0] == HEADER
    assert not any(offsets[5:] + sizes[5:])
    assert int.from_bytes(image[544:548], "big") == zlib.crc32(image[:544] + image[548:])


def extended(*parts):
    return hashlib.sha384(bytes(48) + hashlib.sha384(b"".join(parts)).digest()).digest()


def test_registers():
    """As AWS defines PCR0, PCR1 and PCR2. With one ramdisk the first two are the same, and PCR2 is that of
    nothing: so it is in what AWS's tools print for such images (among others, tkhq/qos, host tests)."""
    line = LINE.encode()
    registers = dict(Eif.read(good()).registers())
    assert registers == dict(eif_registers(KERNEL, RAMDISKS, LINE))
    assert registers == {
        "pcr0": extended(KERNEL, line, *RAMDISKS),
        "pcr1": extended(KERNEL, line, RAMDISKS[0]),
        "pcr2": extended(RAMDISKS[1]),
    }
    alone = dict(measure_nitro(good(initrds=RAMDISKS[:1])).registers)
    assert alone["pcr0"] == alone["pcr1"]
    assert alone["pcr2"].hex() == (
        "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
    )
    assert measure_nitro_parts(KERNEL, RAMDISKS, LINE) == measure_nitro(good())


def test_the_bytes_are_those_of_aws_s_own_crate():
    """What aws-nitro-enclaves-image-format (at 935dc62) wrote and measured, given the same parts."""
    image = good()
    assert hashlib.sha256(image).hexdigest() == (
        "cea74bbadaff3e039bd33a0569794a3a94771afe180653d9f03deb35c0f5c3dc"
    )
    assert {name: value.hex() for name, value in measure_nitro(image).registers} == {
        "pcr0": "7d62f07680b9ed70adae952af19c348b89f4d48578ca5f2e"
        "caa51018ab745ce9e262fb885a588d1a3cb32295fda1b869",
        "pcr1": "ab60d0dec3636d06da6466dd14e464afb7c2e21bea4f8fe5"
        "804026324c34a2d8ae6029dd34b7e974de95505064c01ad9",
        "pcr2": "a8352b94ec23883097f64b4c4e6d0196eab6ed195365b10a"
        "b683a78f59fb9a145f3d1f6e71314abc5f5e3147041e7b29",
    }


def test_metadata_and_settings_are_in_no_register():
    one, other = measure_nitro(good()), measure_nitro(good(name="x", version="2", processors=1))
    assert one.registers == other.registers


def certificate():
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA384())


def signed(section, count=None):
    """An image with one more section, a signature."""
    image = bytearray(good())
    end = len(image)
    struct.pack_into(">H", image, 26, 6 if count is None else count)
    struct.pack_into(">Q", image, 28 + 8 * 5, end)
    struct.pack_into(">Q", image, 284 + 8 * 5, len(section))
    return summed(bytes(image) + struct.pack(">HHQ", 4, 0, len(section)) + section)


def summed(image):
    crc = zlib.crc32(image[:544] + image[548:])
    return image[:544] + struct.pack(">I", crc) + image[548:]


def test_a_signed_image_has_its_signer_in_pcr8():
    signer = certificate()
    pem = list(signer.public_bytes(Encoding.PEM))
    image = signed(cbor2.dumps([{"signing_certificate": pem, "signature": [1, 2]}]))
    registers = dict(measure_nitro(image).registers)
    assert registers["pcr8"] == extended(signer.public_bytes(Encoding.DER))
    assert registers["pcr0"] == dict(measure_nitro(good()).registers)["pcr0"]


@pytest.mark.parametrize(
    "value",
    [[], {}, [{}], 7, [{"signing_certificate": 1 << 40}], [{"signing_certificate": [1, 2]}],
     [{"signing_certificate": [300]}], [{"signing_certificate": b"x"}], b"\xff"],
    ids=str,
)  # fmt: skip
def test_signatures_out_of_form(value):
    section = value if isinstance(value, bytes) else cbor2.dumps(value)
    with pytest.raises(InputError, match="signature"):
        measure_nitro(signed(section))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kernel": b""}, "kernel"), ({"initrds": []}, "ramdisk"), ({"initrds": [b"x", b""]}, "empty"),
        ({"initrds": [b"x"] * 30}, "at most 29"), ({"cmdline": ""}, "printable ASCII"),
        ({"cmdline": "é"}, "printable ASCII"), ({"cmdline": "a\nb"}, "printable ASCII"),
        ({"cmdline": "x" * 4097}, "1 to 4096"), ({"processors": 0}, "processors"),
        ({"memory_bytes": 0}, "memory"),
    ],
    ids=str,
)  # fmt: skip
def test_images_that_are_not_written(changes, says):
    with pytest.raises(InputError, match=says):
        good(**changes)


def changed(at, data):
    image = bytearray(good())
    image[at : at + len(data)] = data
    return summed(bytes(image))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"", "header"), (good()[:-1], "inside"), (good() + b"\0", "after its end"),
        (changed(0, b".elf"), "'.eif'"), (changed(5, b"\3"), "version 4"), (changed(7, b"\1"), "x86-64"),
        (changed(24, b"\1"), "no other field"), (changed(543, b"\1"), "no other field"),
        (changed(26, b"\0\2"), "number of sections"), (changed(26, b"\0\x21"), "number of sections"),
        (changed(26, b"\0\4"), "places of sections"), (changed(8, bytes(8)), "memory"),
        (changed(16, bytes(8)), "processors"), (changed(28, bytes(8)), "in the header"),
        (changed(284, bytes(8)), "in the header"), (changed(HEADER, b"\0\6"), "known type"),
        (changed(HEADER + 3, b"\1"), "known type"), (changed(HEADER, b"\0\3"), "one kernel"),
        (changed(HEADER + 4, b"\xff" * 8), "in the header"),
        (good()[:544] + bytes(4) + good()[548:], "CRC-32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_images_out_of_form(image, says):
    with pytest.raises(InputError, match=says):
        Eif.read(image)


def test_every_byte_counts():
    image = good(initrds=[b"ramdisk"], kernel=b"kernel")
    for place in range(len(image)):
        flipped = bytearray(image)
        flipped[place] ^= 1 + place % 255
        with pytest.raises(InputError):
            Eif.read(bytes(flipped))


@pytest.mark.fuzz
def test_fuzzed():
    check_fuzzed(measure_nitro, good(), refusal=InputError)
    check_fuzzed(lambda image: Eif.read(summed(image) if len(image) > HEADER else image), good(),
                 refusal=InputError)  # fmt: skip
