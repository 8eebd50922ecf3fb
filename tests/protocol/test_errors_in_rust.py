"""``enclave/wire/src/error.rs`` and ``docs/errors.toml`` are one list."""

import re
import sys

from enclave_process import ENCLAVE, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_numbers_names_and_meanings_are_the_same():
    documented = tomllib.loads((ROOT / "docs" / "errors.toml").read_text("utf-8"))["errors"]
    source = (ENCLAVE / "wire" / "src" / "error.rs").read_text("utf-8")
    found = re.findall(r'^ {4}(\w+) = (\d+), "(\w+)", "([^"]+)";$', source, re.MULTILINE)
    assert {
        name: {"number": int(number), "meaning": meaning} for _, number, name, meaning in found
    } == documented
    assert [number for _, number, _, _ in found] == sorted(number for _, number, _, _ in found)
    assert all(variant == "".join(p.capitalize() for p in name.split("_")) for variant, _, name, _ in found)
