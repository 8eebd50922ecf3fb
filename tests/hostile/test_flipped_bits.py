"""A bit flipped in anything that crosses a boundary: refused by name, nothing released, no more budget lost."""

from __future__ import annotations

import random
from typing import Any

import pytest
from world import Host, World

from myelin.certificate import open_model, verify
from myelin.errors import MyelinError, ProtocolError


def flip(value: Any, seed: int) -> Any:
    """One bit of a byte string, chosen by seed."""
    place = random.Random(seed).randrange(len(value) * 8)
    changed = bytearray(value)
    changed[place // 8] ^= 1 << (place % 8)
    return bytes(changed)


MESSAGES = {
    "contract to enclave": {"contract_malformed", "signature_invalid", "malformed_message", "unknown_field"},
    "signature 0 to enclave": {"signature_invalid"},
    "signature 2 to enclave": {"signature_invalid"},
    "nonce to enclave": {"evidence_refused"},
    "policy to enclave": {"evidence_refused"},
    "contract to broker": {"contract_malformed", "signature_invalid", "malformed_message", "unknown_field"},
    "evidence to broker": {"evidence_refused", "evidence_unreadable", "wrong_measurement"},
    "hpke key to broker": {"evidence_refused"},
    "signing key to broker": {"evidence_refused", "malformed_message"},
    "nonce to broker": {"evidence_refused", "nonce_unknown"},
    "grant to enclave": {"grant_unsealable"},
    "boot to broker": {"out_of_order"},
    "share to broker": {"signature_invalid"},
    "share signature to broker": {"signature_invalid", "malformed_message"},
    "receipt to enclave": {"receipt_invalid"},
    "header to enclave": {"data_header_invalid", "data_chunk_invalid", "malformed_message"},
    "chunk to enclave": {"data_chunk_invalid"},
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_refused(world: World, name: str, seed: int) -> None:
    seen = []

    def alter(what: str, value: Any) -> Any:
        if what == name and not seen:
            seen.append(what)
            return flip(value, seed)
        return value

    with Host(world, alter) as host, pytest.raises(ProtocolError) as refusal:
        host.run()
    assert seen, f"nothing called {name!r} crossed a boundary"
    assert refusal.value.name in MESSAGES[name], refusal.value
    assert max(world.debits()) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_in_a_frame_never_kills_the_enclave(world: World, seed: int) -> None:
    """Any bit of any raw message: an answer comes, and the run goes on or is refused by name."""
    with Host(world) as host:
        honest = host.enclave.call
        count = 0

        def call(message: bytes, timeout_s: float | None = None) -> bytes:
            nonlocal count
            count += 1
            answer = honest(flip(message, 1000 * seed + count), timeout_s)
            assert answer[:1] in (b"\x82", b"\x83", b"\x85", b"\x84", b"\x81")
            return honest(message, timeout_s)

        host.enclave.call = call  # type: ignore[method-assign]
        try:
            host.run()
        except MyelinError as error:
            assert isinstance(error, ProtocolError), error


@pytest.mark.parametrize("part", [0, 1])
def test_every_region_of_what_was_released_is_bound(world: World, part: int) -> None:
    with Host(world) as host:
        outputs = host.run()
    assert verify(outputs[0], contract=world.signed, allow_simulated=True).passed
    open_model(outputs[1], world.researcher)
    size = len(outputs[part])
    for position in range(0, size, max(1, size // 200)):
        changed = bytearray(outputs[part])
        changed[position] ^= 1
        with pytest.raises(MyelinError):
            if part == 0:
                verification = verify(bytes(changed), contract=world.signed, allow_simulated=True)
                assert not verification.passed
                raise ProtocolError.named("evidence_refused")
            open_model(bytes(changed), world.researcher)
