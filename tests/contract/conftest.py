"""Two owners and a researcher, once per test."""

import pytest

from reference_enclave import Agreement, ReferenceEnclave, make_agreement


@pytest.fixture
def agreement(tmp_path) -> Agreement:
    return make_agreement(tmp_path)


@pytest.fixture
def enclave(agreement) -> ReferenceEnclave:
    return ReferenceEnclave(agreement.signed)
