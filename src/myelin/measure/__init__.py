"""What a verifier should expect: the registers of a build, computed from its files without any hardware.

:func:`measure_tdx`, :func:`measure_snp`, :func:`measure_sgx` and :func:`measure_nitro` give the
registers, :func:`reference_toml` the reference value that ``myelin attest`` reads. :func:`build_eif` writes
the image of a Nitro enclave. Files are somebody else's: every one is read with bounds, and refused by the
name of the field that is wrong.
"""

from myelin.measure.ccel import MOST_CCEL_BYTES, CcelEvent, read_ccel, replayed
from myelin.measure.eif import MOST_EIF_BYTES, Eif, build_eif, eif_registers
from myelin.measure.firmware import MOST_FIRMWARE_BYTES
from myelin.measure.kernel import MOST_KERNEL_BYTES, authenticode, patched_kernel
from myelin.measure.measured import Measured, Part, reference_toml
from myelin.measure.nitro import measure_nitro, measure_nitro_parts
from myelin.measure.sgx import measure_sgx
from myelin.measure.snp import (
    GUEST_FEATURES,
    BootHashes,
    SnpFirmware,
    SnpPages,
    SnpSection,
    launch_digest,
    measure_snp,
)
from myelin.measure.tdvf import PageOrder, Tdvf, TdvfSection
from myelin.measure.tdx import TdxBoot, measure_tdx
from myelin.measure.vmsa import CPU_TYPES, Vmm, cpu_signature, cpu_type_signature

__all__ = [
    "CPU_TYPES",
    "GUEST_FEATURES",
    "MOST_CCEL_BYTES",
    "MOST_EIF_BYTES",
    "MOST_FIRMWARE_BYTES",
    "MOST_KERNEL_BYTES",
    "BootHashes",
    "CcelEvent",
    "Eif",
    "Measured",
    "PageOrder",
    "Part",
    "SnpFirmware",
    "SnpPages",
    "SnpSection",
    "Tdvf",
    "TdvfSection",
    "TdxBoot",
    "Vmm",
    "authenticode",
    "build_eif",
    "cpu_signature",
    "cpu_type_signature",
    "eif_registers",
    "launch_digest",
    "measure_nitro",
    "measure_nitro_parts",
    "measure_sgx",
    "measure_snp",
    "measure_tdx",
    "patched_kernel",
    "read_ccel",
    "reference_toml",
    "replayed",
]
