"""The package's error table is docs/errors.toml, and errors keep what they say."""

import pickle
import sys
from pathlib import Path

import pytest

from myelin.errors import ERRORS, CheckError, InputError, ProtocolError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[1] / "docs"


def test_table_equals_the_document():
    listed = tomllib.loads((DOCS / "errors.toml").read_text("utf-8"))["errors"]
    assert {k: {"number": v.number, "meaning": v.meaning} for k, v in ERRORS.items()} == listed
    assert all(kind.name == name for name, kind in ERRORS.items())
    assert len({kind.number for kind in ERRORS.values()}) == len(ERRORS)


def test_protocol_error_by_name_and_number():
    error = ProtocolError.named("budget_exhausted", "epsilon 3.1 > 3")
    assert (error.number, error.name, str(error)) == (
        801,
        "budget_exhausted",
        "budget_exhausted (801): epsilon 3.1 > 3",
    )
    assert str(ProtocolError(901)) == "dead (901): the enclave has stopped itself"
    assert ProtocolError(7).name == "unlisted"
    assert isinstance(error, CheckError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.number, again.detail) == (801, "epsilon 3.1 > 3")


def test_unlisted_name_cannot_be_made():
    with pytest.raises(KeyError):
        ProtocolError.named("no_such_error")


def test_exit_codes():
    assert (InputError.exit_code, CheckError.exit_code) == (2, 1)
