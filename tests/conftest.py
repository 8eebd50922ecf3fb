"""Puts this folder on the import path, so that tests of several rooms share the files beside this one."""

from targets import TARGETS


def pytest_report_header() -> str | None:
    """Says which code is not run on this machine."""
    return None if "x86-64-v4" in TARGETS else "x86-64-v4: not run, this processor has no AVX-512"
