"""Reading bytes by layout: every read is inside, every refusal names its field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myelin.attest.octets import Octets
from myelin.errors import ProtocolError


def test_reads_in_order():
    octets = Octets(b"\1\2\3\4\0\2xyAB", "structure", "big")
    assert (octets.uint(2, "a"), octets.uint(2, "b")) == (0x0102, 0x0304)
    assert octets.sized(2, "c", most=2) == b"xy"
    octets.constant(b"AB", "d")
    octets.end()
    assert Octets(b"\1\2", "structure", "little").uint(2, "a") == 0x0201


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda o: o.take(4, "f"), "structure, f (byte 0): expected 4 bytes, got 3 before the end"),
        (lambda o: o.uint(4, "f"), "expected 4 bytes"),
        (lambda o: o.uint(1, "f", least=2), "expected at least 2, got 1"),
        (lambda o: o.uint(1, "f", most=0), "expected 0 to 0, got 1"),
        (lambda o: o.sized(1, "f", most=0), "f, length"),
        (lambda o: o.sized(1, "f", most=9) and o.sized(1, "g", most=99), "g (byte 3)"),
        (lambda o: o.constant(b"\2", "f"), "expected 02, got 01"),
        (lambda o: o.end(), "after its end (byte 0): expected nothing, got 3 bytes"),
    ],
)
def test_refusals(read, says):
    with pytest.raises(ProtocolError, match="evidence_unreadable") as refused:
        read(Octets(b"\1\2\3", "structure", "big"))
    assert says in str(refused.value)


@given(st.binary(max_size=64), st.lists(st.integers(0, 80), max_size=8))
def test_never_more_than_there_is(data, sizes):
    octets, got = Octets(data, "structure", "big"), b""
    for size in sizes:
        if size <= octets.left:
            got += octets.take(size, "f")
        else:
            with pytest.raises(ProtocolError):
                octets.take(size, "f")
    assert data.startswith(got)
    assert octets.at == len(got)
