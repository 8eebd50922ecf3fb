"""What every kind's tests do to evidence: change it, one byte at a time, and see that nobody believes it."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from myelin.attest import AttestationResult
from myelin.errors import MyelinError, ProtocolError

MOST_SECONDS = 1.0
MOST_BYTES = 16 << 20


def believed(appraised: Callable[[bytes], AttestationResult], data: bytes) -> bool:
    """Whether evidence is trusted; evidence that cannot be read is not."""
    try:
        return appraised(data).trusted
    except ProtocolError as error:
        assert error.name == "evidence_unreadable", error
        return False


def check_every_flip(
    appraised: Callable[[bytes], AttestationResult], data: bytes, places: Iterable[int] | None = None
) -> int:
    """Changes every byte, one after the other, and wants each change refused; gives how many."""
    assert believed(appraised, data), "the evidence is refused as it stands, so flips would show nothing"
    count, accepted = 0, []
    for place in range(len(data)) if places is None else places:
        flipped = bytearray(data)
        flipped[place] ^= 1 + 37 * place % 255
        if believed(appraised, bytes(flipped)):
            accepted.append(place)
        count += 1
    assert not accepted, f"accepted with a changed byte at {accepted[:20]}"
    return count


def check_fuzzed(
    read: Callable[[bytes], object],
    good: bytes,
    examples: int = 150,
    *,
    refusal: type[MyelinError] = ProtocolError,
) -> None:
    """Arbitrary and mutated bytes are read or refused (``evidence_unreadable``), fast, in little memory.

    `make fuzz` gives the number of examples.
    """
    examples = int(os.environ.get("MYELIN_FUZZ_EXAMPLES") or examples)

    def bounded(data: bytes) -> None:
        started = time.process_time()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        try:
            read(data)
        except refusal as error:
            assert getattr(error, "name", "evidence_unreadable") == "evidence_unreadable", error
        _, peak = tracemalloc.get_traced_memory()
        assert time.process_time() - started < MOST_SECONDS
        assert peak - before < MOST_BYTES, f"{peak - before} bytes at the peak"

    mutation = st.tuples(
        st.integers(0, len(good) - 1), st.integers(0, 8), st.binary(max_size=8) | st.just(b"\xff" * 8)
    )

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.binary(max_size=512) | st.integers(0, len(good)).map(lambda n: good[:n]))
    def arbitrary(data: bytes) -> None:
        bounded(data)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(mutation, min_size=1, max_size=4))
    def mutated(changes: list[tuple[int, int, bytes]]) -> None:
        data = good
        for place, dropped, added in changes:
            data = data[:place] + added + data[place + dropped :]
        bounded(data)

    tracemalloc.start()
    try:
        arbitrary()
        mutated()
    finally:
        tracemalloc.stop()
