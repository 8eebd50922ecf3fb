"""Checks of a finished image file: its form, and that no instruction in it reaches outside the enclave."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ..errors import BuildError, CheckError
from .runtime import run_tool

__all__ = ["FORBIDDEN_INSTRUCTIONS", "KERNEL_IMPORTS", "check_image", "check_instructions", "check_kernels"]

#: What only an operating system, a clock or a device answers, or what asks the processor about itself.
FORBIDDEN_INSTRUCTIONS = frozenset(
    """
    syscall sysenter sysexit sysexitq sysret sysretq int int1 int3 into icebp iret iretd iretq lcall
    ljmp cpuid rdtsc rdtscp rdpmc rdpid rdmsr wrmsr xgetbv xsetbv rdpkru wrpkru in insb insw insd insl
    ins out outsb outsw outsd outsl outs hlt cli sti clts invd wbinvd invlpg lgdt lidt lldt ltr lmsw
    sgdt sidt sldt str smsw swapgs rdfsbase rdgsbase wrfsbase wrgsbase vmcall vmmcall vmlaunch vmresume
    vmrun enclu encls enclv tdcall monitor mwait monitorx mwaitx umonitor umwait tpause xbegin xabort
    """.split()  # noqa: SIM905 (a table reads better)
)

#: What generated kernels may call (docs/abi.md).
KERNEL_IMPORTS = frozenset(
    """
    TVMFFIErrorSetRaisedFromCStrParts TVMFFIErrorSetRaisedFromCStr __TVMBackendParallelLaunch
    __TVMBackendAllocWorkspace __TVMBackendFreeWorkspace memcpy memset memmove
    """.split()  # noqa: SIM905 (a table reads better)
)

_IMAGE_BASE = 0x1000_0000
_IMAGE_END_LIMIT = 0x8000_0000
_PAGE_BYTES = 4096
_SEGMENTS = 20
_EXECUTE, _WRITE = 1, 2
_SECTION_EXECUTE = 4
_SECTIONS = re.compile(
    r"|\.text|\.rodata|\.relro|\.data|\.bss|\.stack\d\d?|\.shstrtab|\.myelin\.(plan|params|manifest)"
)


def check_image(path: str | Path) -> None:
    """Check an image's form (docs/abi.md, "Image file") and its instructions.

    Raises:
        CheckError: names what was found, where, and what was expected.
    """
    data = Path(path).read_bytes()
    try:
        _check_form(ELFFile(io.BytesIO(data)))
    except ELFError as error:
        raise CheckError(f"{path}: expected an image, got no readable ELF file: {error}") from None
    check_instructions(path)


def check_instructions(path: str | Path) -> int:
    """Disassemble every executable byte of an image; answers how many instructions there are.

    Uses capstone, or ``objdump`` where that is not installed.

    Raises:
        CheckError: a forbidden instruction, with its address, or bytes that are no instruction.
    """
    count = 0
    try:
        for address, mnemonic in _instructions(Path(path)):
            count += 1
            if not FORBIDDEN_INSTRUCTIONS.isdisjoint(mnemonic.split()):
                raise CheckError(
                    f"{path}: forbidden instruction `{mnemonic}` at {address:#x}; an image asks nothing "
                    "of the operating system, the clock or the processor's identity"
                )
    except ELFError as error:
        raise CheckError(f"{path}: expected an image, got no readable ELF file: {error}") from None
    if count == 0:
        raise CheckError(f"{path}: expected instructions, got none")
    return count


def check_kernels(kernels: bytes) -> None:
    """Check that an object of kernels needs nothing but what the runtime gives.

    Raises:
        BuildError: names the symbols that nothing in an image defines.
    """
    table = ELFFile(io.BytesIO(kernels)).get_section_by_name(".symtab")
    missing = {
        symbol.name
        for symbol in (table.iter_symbols() if table is not None else ())
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name
    }
    missing -= KERNEL_IMPORTS
    if missing:
        raise BuildError(
            f"the kernels call {', '.join(sorted(missing))}, which no image has; expected only "
            f"{', '.join(sorted(KERNEL_IMPORTS))}. An operator became a library call; write it without"
        )


def _require(holds: object, message: str) -> None:
    if not holds:
        raise CheckError(f"image: {message}")


def _check_form(elf: ELFFile) -> None:
    header = elf.header
    _require(
        (header["e_type"], header["e_machine"]) == ("ET_EXEC", "EM_X86_64"),
        f"expected a static x86-64 executable, got {header['e_type']} for {header['e_machine']}",
    )
    end, executable, count = _IMAGE_BASE, False, 0
    for segment in elf.iter_segments():
        kind, flags = segment["p_type"], segment["p_flags"]
        if kind == "PT_GNU_STACK":
            _require(not flags & _EXECUTE, "the stack is marked executable")
            continue
        _require(kind == "PT_LOAD", f"expected only PT_LOAD segments, got {kind}")
        start, size = segment["p_vaddr"], segment["p_memsz"]
        _require(start % _PAGE_BYTES == 0, f"segment at {start:#x} is not page-aligned")
        _require(
            start >= end, f"segment at {start:#x} overlaps the one before, or lies below {_IMAGE_BASE:#x}"
        )
        end = start + size
        _require(end <= _IMAGE_END_LIMIT, f"segment at {start:#x} ends at {end:#x}, above 2 GiB")
        _require(
            not (flags & _EXECUTE and flags & _WRITE), f"segment at {start:#x} is writable and executable"
        )
        executable = executable or (
            flags & _EXECUTE and start <= header["e_entry"] < start + segment["p_filesz"]
        )
        count += 1
    _require(executable, f"the entry {header['e_entry']:#x} is not in executable bytes of the file")
    _require(count == _SEGMENTS, f"expected {_SEGMENTS} loaded segments, got {count}")
    _check_sections(elf)
    _check_code(elf)


def _check_sections(elf: ELFFile) -> None:
    names = set()
    for section in elf.iter_sections():
        _require(_SECTIONS.fullmatch(section.name), f"unexpected section {section.name}")
        _require(
            section["sh_type"] in ("SHT_NULL", "SHT_PROGBITS", "SHT_NOBITS", "SHT_STRTAB"),
            f"section {section.name} has type {section['sh_type']}: symbols or relocations are left",
        )
        _require(section.name not in names, f"two sections are named {section.name}")
        names.add(section.name)
    for name in (".myelin.plan", ".myelin.params", ".myelin.manifest"):
        _require(name in names, f"section {name} is missing")


def _check_code(elf: ELFFile) -> None:
    """Check that only the section ``.text`` is executable: objdump goes by sections, a loader by segments."""
    text = elf.get_section_by_name(".text")
    _require(text is not None and text["sh_flags"] & _SECTION_EXECUTE, "expected code in the section .text")
    place = text["sh_type"], text["sh_addr"], text["sh_offset"], text["sh_size"]
    for segment in elf.iter_segments("PT_LOAD"):
        if segment["p_flags"] & _EXECUTE:
            loaded = "SHT_PROGBITS", segment["p_vaddr"], segment["p_offset"], segment["p_filesz"]
            _require(
                place == loaded and segment["p_memsz"] == segment["p_filesz"],
                f"executable bytes at {segment['p_vaddr']:#x} are not those of the section .text",
            )


def _instructions(path: Path) -> Iterator[tuple[int, str]]:
    try:
        import capstone
    except ImportError:
        yield from _by_objdump(path)
        return
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for segment in ELFFile(io.BytesIO(path.read_bytes())).iter_segments("PT_LOAD"):
        if not segment["p_flags"] & _EXECUTE:
            continue
        code, start = segment.data(), segment["p_vaddr"]
        covered = start
        for address, size, mnemonic, _ in disassembler.disasm_lite(code, start):
            covered = address + size
            yield address, mnemonic
        if covered != start + len(code):
            raise CheckError(f"{path}: the bytes at {covered:#x} are no instruction that capstone knows")


def _by_objdump(path: Path) -> Iterator[tuple[int, str]]:
    listing = run_tool(["objdump", "-d", "--no-show-raw-insn", path], "disassemble the image")
    for line in listing.splitlines():
        match = re.match(r"\s*([0-9a-f]+):\s+(\S.*)", line)
        if match is None:
            continue
        text = match[2].split("#")[0]
        if "(bad)" in text:
            raise CheckError(
                f"{path}: the bytes at {int(match[1], 16):#x} are no instruction that objdump knows"
            )
        # Prefixes such as `lock` and `rep` come before the mnemonic, operands after it.
        yield int(match[1], 16), " ".join(re.findall(r"(?:^|(?<=\s))[a-z][a-z0-9]*(?=\s|$)", text))
