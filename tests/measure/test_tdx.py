"""MRTD and RTMRs: what hardware signed and recorded, firmware as Debian installs it, and what is refused."""

import hashlib
import struct
from pathlib import Path

import pytest
from flips import check_fuzzed
from made import TDVF_SECTIONS, VARIABLES, ccel, firmware, kernel, pattern, variables

from myelin.errors import CheckError, InputError
from myelin.measure import (
    PageOrder,
    Tdvf,
    TdxBoot,
    authenticode,
    measure_tdx,
    patched_kernel,
    read_ccel,
    replayed,
)
from myelin.measure.ccel import extended
from myelin.measure.tdx import initrd_steps, kernel_steps, platform_steps

GIB = 1 << 30
INITRD, LINE = pattern(5000, b"initrd"), "console=ttyS0 quiet"
ACPI = (b"loader", b"rsdp", b"tables")
OVMF = Path("/usr/share/ovmf/OVMF.fd")
EMPTY_4M = "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
HAND_OFF_2G = (
    "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749"
)

QUOTED = {
    "rtmr0": (
        "f8438db36b96f85d8752ff7f24a89ec05c79ec9eda2ba732c897fb970ca429365b7471b1c054cb84f17b1c2b23ba6640"
    ),
    "rtmr1": (
        "2023546e7f3b9d1228e274f70c44d481162540f8452544520a796a52f06879709b81a824a26792a7822327504b0d2aee"
    ),
    "rtmr2": (
        "4c1b739ed451a637b0f82642e48a5ea83925d23633c72e7385c8e9aca4175e133ed1625b7d92eb39edf509c27ff392dc"
    ),
}
"""A quote that Intel's hardware signed: a guest of dstack 0.6.0 with 2 processors and 2 GiB, QEMU 8.2.2
(Dstack-TEE/dstack, verifier/fixtures/tdx-lite-getquote.json). The digests below are of the same file."""
QUOTED_ACPI = (
    "095d04cf26fe03aef6e3561fa24c1aa1cea93f4aeaf563b1f9f7616184c53454875925759434769cec2490acb563a337",
    "8d9a4d4777a1bc77ecd9d8d37a4628129a80052a510320159a20a923bd07a0e90d8d1f2e1ebf088992b25f0d0fa672ef",
    "3070721e169bc41884724cb0e6b3082e1baf249083d8b389181ba50b9afa951057876c380b8870e8c2facf2eff67a2b6",
)
QUOTED_KERNEL = (
    "ac7e632dcf5cd2a1fe5c1f41f4d9b8219570e64ed3c61038fdbf25404e6f542ffd57f276bc5076307efaf882e6d64177"
)
QUOTED_LINE = (
    "786280842b7364287a3a70d96f7e309252857beb45fb1f91314a2ea863db0adc04c8431ecbf29a966405604631a5aab8"
)
QUOTED_INITRD = (
    "4fe4f7710134a61d7def357add6ac50bdbfeee5032a4c100375e207216ffe42a3bd5822b24e679f91501fff795b81521"
)


def sha384(data):
    return hashlib.sha384(data).digest()


def test_events_in_their_order_are_what_hardware_signed():
    """From the digests of that guest's parts, and nothing else of its log: the constants and the order of all
    events are right, or the registers would not come out."""
    steps = [
        *platform_steps(
            *map(bytes.fromhex, (HAND_OFF_2G, EMPTY_4M)), [bytes.fromhex(d) for d in QUOTED_ACPI]
        ),
        *kernel_steps(bytes.fromhex(QUOTED_KERNEL)),
        *initrd_steps(bytes.fromhex(QUOTED_LINE), bytes.fromhex(QUOTED_INITRD)),
    ]
    got = {f"rtmr{rtmr}": extended(s.digest for s in steps if s.rtmr == rtmr).hex() for rtmr in range(3)}
    assert got == QUOTED


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (2 * GIB, HAND_OFF_2G),
        (8 * GIB, "2e070cda358b5aa00f27"),
    ],
)
def test_hand_off_blocks_that_hardware_measured(memory, expected):
    """OVMF's layout is the same in all of its versions with TDX. The first is of the quote above, the second
    of a log with 8 GiB (google/go-eventlog, testdata/eventlogs/ccel/CCEL_unpadded.data.bin)."""
    assert sha384(Tdvf.read(firmware()).hand_off_block(memory)).hex().startswith(expected)


@pytest.mark.skipif(not OVMF.is_file(), reason=f"{OVMF} is not there; Debian's package ovmf has it")
def test_firmware_as_debian_installs_it():
    """The real file is read; its hand-off block is the recorded one; and MRTD depends on every page of it."""
    data = OVMF.read_bytes()
    tdvf = Tdvf.read(data)
    assert sha384(tdvf.hand_off_block(2 * GIB)).hex() == HAND_OFF_2G
    kinds = [section.kind for section in tdvf.sections]
    assert kinds == [0, 1, 3, 3, 2, 3]
    boot = tdvf.sections[0]
    changed = data[:-4096] + bytes([data[-4096] ^ 1]) + data[-4095:]
    assert Tdvf.read(changed).mrtd() != tdvf.mrtd()
    assert boot.address + boot.size == 1 << 32


@pytest.mark.skipif(
    not Path("/usr/share/OVMF/OVMF_VARS_4M.fd").is_file(), reason="Debian's package ovmf is not there"
)
def test_an_empty_volume_of_variables_is_the_recorded_one():
    assert sha384(Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes()).hex() == EMPTY_4M


def specified_mrtd(order):
    """MRTD written a second time, from the TDX module's specification."""
    data, log = firmware(), b""
    for offset, _, address, size, _, attributes in TDVF_SECTIONS:
        adds, extends = [], []
        for page in range(size // 4096):
            gpa = address + 4096 * page
            adds.append(b"MEM.PAGE.ADD".ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104))
            chunks = b""
            for chunk in range(16):
                at = offset + 4096 * page + 256 * chunk
                place = (gpa + 256 * chunk).to_bytes(8, "little")
                chunks += b"MR.EXTEND".ljust(16, b"\0") + place + bytes(104) + data[at : at + 256]
            extends.append(chunks if attributes & 1 else b"")
        pairs = zip(adds, extends, strict=True)
        log += b"".join(map(b"".join, pairs)) if order is PageOrder.PAGE else b"".join(adds + extends)
    return sha384(log)


@pytest.mark.parametrize("order", list(PageOrder))
def test_mrtd_is_as_specified(order):
    assert Tdvf.read(firmware()).mrtd(order) == specified_mrtd(order)


def boot(**changes):
    known = {
        "firmware": firmware(), "kernel": kernel(), "initrd": INITRD, "command_line": LINE,
        "memory_bytes": 2 * GIB, "acpi": ACPI,
    }  # fmt: skip
    return TdxBoot(**{**known, **changes})


def registers(log=None, **changes):
    return dict(measure_tdx(boot(**changes), log).registers)


@pytest.mark.parametrize(
    ("memory", "rtmr0"),
    [
        (GIB, "a730a8c2c82860b86982e7ad"),
        (2 * GIB, "cd53681e84900403cc804189"),
    ],
)  # fmt: skip
def test_registers_of_tdx_measure(memory, rtmr0):
    """What virtee's tdx-measure 0.1.0 gave for this very firmware, command line and initrd."""
    got = {name: value.hex() for name, value in registers(memory_bytes=memory).items()}
    assert got["mrtd"] == (
        "fc5d2b0eac29484c6f5a42c498a22e1305dea05ad02b54db8874a5ddc9af3147154d1629630a7c033a6ae779e5c02351"
    )
    assert got["rtmr0"].startswith(rtmr0)
    assert got["rtmr2"] == (
        "83f8cebe6667d971121fd841d3b14aec739ab102b12bfe6e15b5d1c2b5df7c50121e1f09dd908480cbe5f36f8cc2d4e6"
    )


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({"firmware": firmware(sev=None)}, {"mrtd"}),
        ({"firmware": firmware(volume=variables(b"\xff\xff" + b"x" * 8))}, {"rtmr0"}),
        ({"kernel": kernel() + b"\0" * 8}, {"rtmr1"}),
        ({"kernel": kernel(signed=2048)}, set()),
        ({"initrd": pattern(5000, b"other")}, {"rtmr2"}),
        ({"initrd": INITRD + bytes(9000)}, {"rtmr1", "rtmr2"}),
        ({"command_line": LINE + " "}, {"rtmr2"}),
        ({"memory_bytes": GIB}, {"rtmr0", "rtmr1"}),
        ({"memory_bytes": 4 * GIB}, {"rtmr0"}),
        ({"acpi": (b"loader", b"rsdp", b"others")}, {"rtmr0"}),
        ({"order": PageOrder.SECTION}, {"mrtd"}),
    ],
    ids=["firmware", "variables", "kernel", "signed", "initrd", "longer initrd", "line", "1 GiB", "4 GiB",
         "acpi", "order"],
)  # fmt: skip
def test_what_each_register_depends_on(change, differ):
    one, other = registers(), registers(**change)
    assert {name for name in one if one[name] != other[name]} == differ
    assert one["rtmr3"] == bytes(48)


def recorded(*, line=True, first=False, extra=()):
    """A log of that boot as firmware of another version might write it: the kernel as it is, more events."""
    text = f"initrd=initrd {LINE}\0" if first else f"{LINE} initrd=initrd\0"
    tdvf = Tdvf.read(firmware())
    return [
        (0, sha384(tdvf.hand_off_block(2 * GIB))), (0, sha384(tdvf.variables)), *extra,
        (1, authenticode(kernel())), *([(2, sha384(text.encode("utf-16-le")))] if line else []),
        (2, sha384(INITRD)),
    ]  # fmt: skip


@pytest.mark.parametrize("first", [False, True])
def test_a_log_is_replayed_and_compared(first):
    unknown = (0, sha384(b"something of a newer firmware"))
    log = read_ccel(ccel(recorded(first=first, extra=[unknown])))
    measured = measure_tdx(boot(acpi=None), log)
    values = dict(measured.registers)
    assert [values[f"rtmr{rtmr}"] for rtmr in range(4)] == list(replayed(log))
    assert values["mrtd"] == Tdvf.read(firmware()).mrtd()
    assert [part.digest for part in measured.assumed] == [unknown[1]]
    assert measured.assumed[0].what == "event 0xd 'an event'"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"kernel": kernel(sections=2)}, "kernel"), ({"initrd": b"other"}, "initrd"),
        ({"command_line": "init=/bin/sh"}, "command line"), ({"memory_bytes": GIB}, "hand-off block"),
        ({"firmware": firmware(volume=variables(b"\xaa\x55"))}, "volume of UEFI variables"),
        ({"acpi": ACPI}, "ACPI loader, ACPI rsdp, ACPI tables"),
    ],
    ids=str,
)  # fmt: skip
def test_a_file_that_is_not_in_the_log(change, names):
    with pytest.raises(CheckError, match=names):
        measure_tdx(boot(**{"acpi": None, **change}), read_ccel(ccel(recorded())))


def test_a_patched_kernel_is_found_in_a_log():
    handed = authenticode(patched_kernel(kernel(), len(INITRD), 2 * GIB))
    events = [event for event in recorded() if event[0] != 1] + [(1, handed)]
    assert not measure_tdx(boot(acpi=None), read_ccel(ccel(events))).assumed


@pytest.mark.parametrize("name", ["kernel", "initrd", "command_line", "memory_bytes", "acpi"])
def test_without_a_log_nothing_may_be_unknown(name):
    with pytest.raises(InputError, match=r"without an event log, expected also: .*RTMR"):
        registers(**{name: None})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"firmware": firmware(tdvf=None)}, "TDX metadata"), ({"firmware": bytes(4096)}, "table of GUIDs"),
        ({"firmware": firmware(volume=variables(b"\xaa\x55"))}, "secure boot"),
        ({"firmware": firmware(volume=bytes(VARIABLES))}, "secure boot"),
        ({"firmware": firmware(tdvf=TDVF_SECTIONS[:4])}, "hand-off block"),
        ({"firmware": firmware(tdvf=[TDVF_SECTIONS[4], *TDVF_SECTIONS[2:]])}, "hand-off block"),
        ({"firmware": firmware(tdvf=[(0, 4096, 4096, 8192, 0, 1), *TDVF_SECTIONS[1:]])}, "as many bytes"),
        ({"firmware": firmware(tdvf=[(0, 0, 0x809000, 0x1000, 3, 0), TDVF_SECTIONS[4]])}, "overlap"),
        ({"firmware": firmware(tdvf=[(0, 0, 0x1000, 0x1000, 4, 2), TDVF_SECTIONS[4]])}, "type of a section"),
        ({"firmware": firmware(tdvf=[(0, 0, 0x1000, 0x1000, 3, 2), TDVF_SECTIONS[4]])}, "attributes"),
        ({"firmware": firmware(tdvf=[(0, 1, 0x1000, 0x1000, 3, 0), TDVF_SECTIONS[4]])}, "no bytes"),
        ({"firmware": firmware(tdvf=[(0, 0, 0x1001, 0x1000, 3, 0), TDVF_SECTIONS[4]])}, "whole pages"),
        ({"firmware": firmware(tdvf=[(0, 0, 0, 32 << 20, 3, 0), TDVF_SECTIONS[4]])}, "whole pages"),
        ({"memory_bytes": 8 << 20}, "memory of the VM"), ({"memory_bytes": 2 * GIB + 1}, "whole pages"),
        ({"command_line": ""}, "command line"), ({"command_line": "vga=791"}, "vga="),
        ({"command_line": "a\0b"}, "ASCII"), ({"initrd": b""}, "initrd"),
        ({"kernel": kernel(protocol=0x203)}, "boot protocol"), ({"kernel": b"MZ" + bytes(100)}, "kernel"),
        ({"kernel": bytes(0x2000)}, "signature"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refusals(change, says):
    with pytest.raises(InputError, match=says):
        registers(**change)


def test_authenticode():
    """What LIEF 1.0.0 computes for the same file; certificates, their entry and the checksum do not count."""
    assert authenticode(kernel()).hex() == (
        "53756b311ff38dbb66bb18dbb9ccc1668c695118686fdbd1f798171f173f9bdc0f618ae7c4c736ffe772fa51bf6d1a6e"
    )
    assert authenticode(kernel(signed=2048)) == authenticode(kernel())
    other = bytearray(kernel())
    other[0x58 + 64] ^= 1
    assert authenticode(bytes(other)) == authenticode(kernel())
    for place in (0x10, 0x58 + 60 - 4, 0x1800, 0x3FFF):
        other = bytearray(kernel())
        other[place] ^= 1
        assert authenticode(bytes(other)) != authenticode(kernel()), place


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0x3C, 1 << 31, "place of the PE header"), (0x40, 0, "signature 'PE'"),
        (0x46, 97, "number of sections"),
        (0x58, 0x10B, "PE32"), (0x58 + 60, 1 << 20, "size of the headers"), (0x58 + 108, 17, "directories"),
        (0xF8 + 20, 1 << 30, "a section"), (0xF8 + 16, 1 << 30, "a section"),
        (0x58 + 112 + 36, 1 << 30, "at most"),
    ],
)  # fmt: skip
def test_programs_out_of_form(at, value, says):
    image = bytearray(kernel())
    struct.pack_into("<I" if value > 0xFFFF else "<H", image, at, value)
    with pytest.raises(InputError, match=says):
        authenticode(bytes(image))


def test_the_kernel_s_header_is_as_qemu_leaves_it():
    """By the rules of QEMU's ``x86_load_linux``: loader, heap, command line, the initrd below its limit."""
    handed = patched_kernel(kernel(), 5000, 2 * GIB)
    assert handed[0x210:0x212] == b"\xb0\x81"
    assert struct.unpack_from("<II", handed, 0x218) == ((2 * GIB - 0x28001 - 5000) & ~4095, 5000)
    assert struct.unpack_from("<H", handed, 0x224) == (0xFE00,)
    assert struct.unpack_from("<I", handed, 0x228) == (0x20000,)
    changed = {place for place, (a, b) in enumerate(zip(kernel(), handed, strict=True)) if a != b}
    assert changed <= {0x210, 0x211, *range(0x218, 0x220), *range(0x224, 0x226), *range(0x228, 0x22C)}


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (b"", "header"), (ccel([])[:40], "header"), (ccel([(0, bytes(48))], padding=0)[:-1], "data"),
        (ccel([(-1, bytes(48))]), "RTMR0 to RTMR3"), (ccel([(4, bytes(48))]), "RTMR0 to RTMR3"),
        (ccel([]) + b"\0", "event"), (ccel([(0, bytes(48))]) + b"\xff\xff\0", "event"),
        (ccel([], padding=(1 << 20)), "at most"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_logs_out_of_form(log, says):
    with pytest.raises(InputError, match=says):
        read_ccel(log)


@pytest.mark.parametrize("padding", [0, 1, 3, 4, 4096, 256 << 10])
def test_padding_says_nothing(padding):
    events = [(0, sha384(b"a")), (3, sha384(b"b"))]
    log = read_ccel(ccel(events, padding=padding, data=b"ends in \xff\xff\xff\xff"))
    assert [(event.rtmr, event.digest) for event in log] == events
    assert replayed(log)[3] == sha384(bytes(48) + sha384(b"b"))


@pytest.mark.fuzz
def test_fuzzed():
    tail, rest = firmware()[-0x2000:], firmware()[:-0x2000]
    check_fuzzed(Tdvf.read, firmware(), refusal=InputError, examples=50)
    check_fuzzed(lambda end: Tdvf.read(rest + end.ljust(0x2000, b"\0")[:0x2000]).mrtd(), tail,
                 refusal=InputError, examples=30)  # fmt: skip
    check_fuzzed(read_ccel, ccel(recorded()), refusal=InputError)
    check_fuzzed(authenticode, kernel(), refusal=InputError)
    check_fuzzed(lambda data: patched_kernel(data, 5000, 2 * GIB), kernel(), refusal=InputError)
