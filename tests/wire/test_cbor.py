"""The codec: what is decoded is exactly what would be encoded, and nothing a stranger sends breaks it."""

import struct

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from myelin.errors import ProtocolError
from myelin.wire import Shape, decode, encode

SCALARS = st.one_of(
    st.integers(-(2**64), 2**64 - 1), st.binary(max_size=40), st.text(max_size=20), st.booleans(), st.none()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_round_trip(value):
    assert decode(encode(value)) == value


@given(VALUES)
def test_encoding_is_that_of_the_library(value):
    assert cbor2.loads(encode(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_round_trip_shortest(value):
    decoded = decode(encode([value], floats=True), floats=True)[0]
    assert struct.pack(">d", decoded) == struct.pack(">d", value)


@settings(max_examples=500)
@given(st.binary(max_size=64))
@example(bytes.fromhex("9b7fffffffffffffff"))
@example(bytes.fromhex("5b7fffffffffffffff"))
@example(bytes.fromhex("bbffffffffffffffff"))
@example(b"\x81" * 64)
def test_any_bytes_decode_to_themselves_or_are_refused(data):
    for floats in (False, True):
        try:
            value = decode(data, floats=floats)
        except ProtocolError as error:
            assert error.name == "malformed_message"
        else:
            assert encode(value, floats=floats) == data


@settings(max_examples=300)
@given(VALUES, st.data())
def test_mutated_documents(value, data):
    raw = bytearray(encode(value))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(bytes(raw))
    except ProtocolError:
        return
    assert encode(decoded) == bytes(raw)


@pytest.mark.parametrize(
    ("hexadecimal", "reason"),
    [
        ("1801", "shortest"),
        ("190001", "shortest"),
        ("1a00000001", "shortest"),
        ("1b0000000000000001", "shortest"),
        ("5800", "shortest"),
        ("7801" + "61", "shortest"),
        ("9800", "shortest"),
        ("5f4101ff", "indefinite"),
        ("9f01ff", "indefinite"),
        ("bf6161" + "01ff", "indefinite"),
        ("a2616201" + "616101", "out of order"),
        ("a2616101" + "616102", "out of order or twice"),
        ("a2626161" + "01616201", "out of order"),
        ("c001", "tag"),
        ("c24101", "tag"),
        ("d9d9f700", "tag"),
        ("f93c00", "float"),
        ("fb3ff0000000000000", "float"),
        ("f7", "undefined"),
        ("f820", "reserved"),
        ("1c", "indefinite or reserved"),
        ("61ff", "UTF-8"),
        ("0000", "after its end"),
        ("", "0 left"),
        ("41", "0 left"),
        ("a1", "0 bytes"),
        ("82", "0 bytes"),
        ("a1f401", "neither text"),
        ("a1181801", "neither text"),
        ("a20001616101", "text and integer"),
        ("81" * 40 + "00", "deeper"),
    ],
)
def test_what_is_not_deterministic(hexadecimal, reason):
    with pytest.raises(ProtocolError, match=reason) as caught:
        decode(bytes.fromhex(hexadecimal))
    assert caught.value.name == "malformed_message"


@pytest.mark.parametrize(
    "hexadecimal", ["fb3ff0000000000000", "fa3f800000", "f97e00", "f97c00", "fb7ff8000000000001"]
)
def test_floats_not_shortest_or_not_finite(hexadecimal):
    with pytest.raises(ProtocolError, match="float"):
        decode(bytes.fromhex(hexadecimal), floats=True)


@pytest.mark.parametrize(
    "value", [1.0, {1, 2}, object(), 2**64, {1.5: 1}, {1: 1, "a": 1}, {24: 1}, float("nan")]
)
def test_what_cannot_be_encoded(value):
    with pytest.raises(TypeError):
        encode(value)
    with pytest.raises(TypeError):
        encode([float("inf")], floats=True)


def test_size_limit_comes_first():
    with pytest.raises(ProtocolError, match="oversized_message"):
        decode(bytes(11), most_bytes=10)
    with pytest.raises(ProtocolError, match="contract_malformed"):
        decode(b"\xff", refusal="contract_malformed")


def test_shape_names_the_field():
    shape = Shape("contract_malformed")
    cases = [
        (lambda: shape.map([], "x", ("a",)), "x: expected a map, got an array"),
        (lambda: shape.map({"a": 1, "b": 2}, "x", ("a",)), "unknown_field .*'b' not known"),
        (lambda: shape.map({}, "x", ("a",)), "x: expected the field 'a', got none"),
        (lambda: shape.array([1], "x", size=2), "x: expected 2 items, got 1"),
        (lambda: shape.array([1], "x", most=0), "x: expected at most 0 items, got 1"),
        (lambda: shape.bytes("a", "x"), "x: expected bytes, got text"),
        (lambda: shape.bytes(b"a", "x", size=2), "x: expected 2 bytes, got 1"),
        (lambda: shape.text("", "x"), "x: expected 1 to 128 bytes of text, got 0"),
        (lambda: shape.text("a\n", "x"), "control characters"),
        (lambda: shape.uint(True, "x"), "x: expected an unsigned integer, got a bool"),
        (lambda: shape.uint(-1, "x"), "x: expected an integer from 0"),
        (lambda: shape.uint(5, "x", most=4), "from 0 to 4, got 5"),
        (lambda: shape.boolean(1, "x"), "x: expected true or false, got an integer"),
        (lambda: shape.bytes(None, "x"), "x: expected bytes, got null"),
    ]
    for read, message in cases:
        with pytest.raises(ProtocolError, match=message):
            read()
