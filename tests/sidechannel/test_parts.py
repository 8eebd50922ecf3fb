"""Parts of the enclave that touch secrets: no branch and no address depends on one, and a leak is seen."""

from __future__ import annotations

import pytest
from memcheck import needs_valgrind, units, watch

PARTS = (
    "sampler",
    "gather",
    "noise",
    "banded",
    "turns",
    "dropout",
    "random",
    "keys",
    "dataset",
    "hpke",
    "signer",
)
LEAKS = {
    "leak-branch": "Conditional jump",
    "leak-index": "Use of uninitialised value of size 8",
    "leak-exit": "Conditional jump",
}

pytestmark = needs_valgrind


def test_no_branch_or_address_depends_on_a_secret() -> None:
    watched = watch(units(), *PARTS)
    assert watched.output.split() == list(PARTS)
    assert not watched.reports, "\n\n".join(watched.reports)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_seen(leak: str) -> None:
    reports = watch(units(), leak).reports
    assert any(report.startswith(LEAKS[leak]) for report in reports), reports
