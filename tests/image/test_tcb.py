"""Counting what an image trusts."""

from __future__ import annotations

import subprocess
import sys

from myelin.image.crates import count_rust, crates
from myelin.image.runtime import enclave_source
from myelin.image.tcb import budget_excess

SOURCE = """\
//! Doc
/* a block /* nested */ unsafe { } */
fn f() { unsafe { g() } } // unsafe {

unsafe impl Sync for T {}
#[cfg(test)]
fn only_for_tests() {}
#[cfg(test)]
mod tests {
    unsafe fn h() {}
}
"""


def test_counts_code_and_not_words_about_it() -> None:
    assert count_rust(SOURCE) == (5, 2)


def test_unsafe_code_of_our_own_is_in_one_crate() -> None:
    own = {crate.name: crate.unsafe_count for crate in crates(enclave_source()) if crate.own}
    assert own.pop("myelin-boundary") > 0
    assert set(own.values()) == {0}, own


def test_without_the_feature_the_simulated_attester_is_not_there() -> None:
    source = enclave_source()
    assert "myelin-simulated" in {crate.name for crate in crates(source)}
    assert "myelin-simulated" not in {crate.name for crate in crates(source, simulated=False)}


def test_excess_is_named() -> None:
    assert budget_excess({"crates": 5, "lines": 7}, {"crates": 5, "lines": 6}) == [
        "lines: 7 exceed the budget of 6"
    ]


def test_reading_images_needs_no_compiler() -> None:
    script = "import myelin.image, sys; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
