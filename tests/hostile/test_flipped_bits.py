"""A bit flipped in anything that crosses a boundary: refused by name, nothing released, no budget lost."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from myelin.certificate import open_model, verify
from myelin.errors import MyelinError, ProtocolError
from world import Host, World


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
    "hpke key to broker": {"evidence_refused", "malformed_message"},
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


def accepted(world: World, bundle: bytes) -> bool:
    """Whether the certificate is verified, ε left aside: the accountant is not what is attacked."""
    result = verify(bundle, world.signed, allow_simulated=True, now_s=0, accountant=lambda events, delta: 0.1)
    return result.verified


def test_every_region_of_what_was_released_is_bound(world: World) -> None:
    with Host(world) as host:
        certificate, sealed = host.run()
    assert accepted(world, certificate)
    open_model(sealed, world.researcher)
    for position in range(0, len(certificate), 7):
        changed = bytearray(certificate)
        changed[position] ^= 1
        with contextlib.suppress(MyelinError):
            assert not accepted(world, bytes(changed)), f"byte {position} of the certificate is not bound"
    for position in range(0, len(sealed), 23):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(MyelinError):
            open_model(bytes(changed), world.researcher)
