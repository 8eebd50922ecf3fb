"""From an image to the files that a virtual machine with measured boot starts from: kernel, initrd, command
line, and a manifest of all that is in them.

:func:`make_boot_files` makes them, the same to the bit from any folder; :func:`read_boot_files` reads a
folder of them and checks every digest. Making needs cargo; reading needs nothing.
"""

from myelin.boot.files import BootFiles, BootKind, make_boot_files, read_boot_files
from myelin.boot.kernel import Kernel, read_kernel
from myelin.boot.registers import kernel_register

__all__ = [
    "BootFiles",
    "BootKind",
    "Kernel",
    "kernel_register",
    "make_boot_files",
    "read_boot_files",
    "read_kernel",
]
