"""Bugs in how the evidence of Nitro, TPMs, Azure and GPUs is read and judged."""

from __future__ import annotations

from bug import Bug

ATTEST = "src/myelin/attest/"

DEVICES = (
    Bug(
        "one zero register is not debugging",
        ATTEST + "nitro.py",
        "debug=any(not any(value)",
        "debug=all(not any(value)",
        ("tests/attest/test_nitro.py::test_debug_enclaves_are_refused",),
        "debug enclaves, whose registers are zeros, taken for production ones",
    ),
    Bug(
        "a document's chain at today's clock only",
        ATTEST + "nitro.py",
        "device_chain_check(document.certificates, roots, issued_s)",
        "device_chain_check(document.certificates, roots, now_s)",
        ("tests/attest/test_nitro.py::test_a_leaf_is_judged_at_the_time_of_its_document",),
        "leaves of three hours: verifiers that turn back their clock for everything",
    ),
    Bug(
        "one document in two encodings",
        ATTEST + "nitro.py",
        "    if payload not in (again, indefinite):",
        "    if False:",
        ("tests/attest/test_nitro.py::test_other_encodings_of_the_same",),
        "parsers that disagree about which of two equal keys counts",
    ),
    Bug(
        "a leaf that may issue",
        ATTEST + "chain.py",
        "signs and not issues",
        "signs",
        ("tests/attest/test_nitro.py::test_leaves_that_do_not_do",),
        "an authority's key that also answers for a device",
    ),
    Bug(
        "an unrestricted key vouches for a TPM",
        ATTEST + "tpm_structures.py",
        '        "restricted": (1 << 16, True),\n',
        "",
        ("tests/attest/test_tpm.py::test_a_key_that_may_sign_what_the_tpm_did_not_write",),
        "a quote that no TPM made, signed as ordinary data",
    ),
    Bug(
        "anything that the key signed is a quote",
        ATTEST + "tpm_structures.py",
        'octets.constant(_GENERATED, "magic")',
        'octets.take(4, "magic")',
        ("tests/attest/test_tpm.py::test_quotes_out_of_form",),
        "data from outside, signed by a TPM, taken for what it says of itself",
    ),
    Bug(
        "registers beside the quote",
        ATTEST + "tpm.py",
        "        register_check(read.quote, read.signature, dict(read.pcrs), anchor),\n",
        "",
        ("tests/attest/test_tpm.py::test_registers_that_are_not_the_quoted_ones",),
        "values that come with a quote and are not what it signed",
    ),
    Bug(
        "an event log of events that nobody extended",
        ATTEST + "tpm.py",
        "_FIRMWARE_REGISTERS | log.registers",
        "log.registers",
        ("tests/attest/test_tpm.py::test_logs_that_do_not_come_to_the_registers",),
        "a log from which the events of a register were left out",
    ),
    Bug(
        "a key beside the SNP report",
        ATTEST + "azure.py",
        "        _runtime_data_check(read.hcl, anchor),\n",
        "",
        ("tests/attest/test_azure.py::test_runtime_data_that_the_processor_did_not_sign",),
        "a quote by anybody's TPM, beside a good SNP report",
    ),
    Bug(
        "a report of the guest's own level",
        ATTEST + "azure.py",
        "[*verified.checks, level]",
        "[*verified.checks]",
        ("tests/attest/test_azure.py::test_guests_that_are_open",),
        "a guest that asks for a report itself, with runtime data of its own",
    ),
    Bug(
        "blocks of a GPU that nobody expected",
        ATTEST + "nvidia.py",
        "bool(agreeing) and not unknown)",
        "bool(agreeing))",
        ("tests/attest/test_nvidia.py::test_reference_values_cover_every_measured_block",),
        "firmware outside of the reference values, passed over",
    ),
    Bug(
        "firmware that the key was not certified for",
        ATTEST + "nvidia.py",
        "reported == certified)",
        "True)",
        ("tests/attest/test_nvidia.py::test_the_firmware_is_the_one_that_the_key_was_certified_for",),
        "a key of good firmware that vouches for other firmware",
    ),
)
