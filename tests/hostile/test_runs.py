"""Runs that end badly, run again, or run with other resources: budgets, resumption, exactness."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Any

import pytest

from myelin.certificate import open_model
from myelin.errors import HostError, MyelinError, ProtocolError
from myelin.host import survey_backends
from world import Host, World


def model(world: World, outputs: list[bytes]) -> bytes:
    return open_model(outputs[1], world.researcher)


def test_threads_change_nothing(world: World) -> None:
    """One thread, then two, with the same job key: the same model to the bit."""
    with Host(world, threads=1) as host:
        first = model(world, host.run())
    with Host(world, threads=2) as host:
        second = model(world, host.run("resume"))
    assert first == second
    assert world.debits() == [1, 1]


def test_backends_change_nothing(world: World) -> None:
    """A process, then a virtual machine of two processors, same job key: the same model to the bit."""
    for there in survey_backends():
        if there.name == "kvm" and not there.available:
            pytest.skip(str(there))
    with Host(world) as host:
        first = model(world, host.run())
    with Host(world, threads=2, backend="kvm") as host:
        assert host.enclave.report["backend"] == "kvm"
        assert host.enclave.report["measurement"] == world.measurement.hex()
        second = model(world, host.run("resume"))
    assert first == second
    assert world.debits() == [1, 1]


def test_killed_while_training_resumes_to_the_same_model(world: World) -> None:
    with Host(world) as host:
        host.bind()
        host.grants()
        host.deposits()
        host.data()
        host.session.train(3)
        os.kill(host.enclave.pid, signal.SIGKILL)
        with pytest.raises(HostError):
            for _ in range(1000):  # what was on its way may still be answered
                host.session.describe()
    models = []
    for _ in range(2):
        with Host(world) as host:
            models.append(model(world, host.run("resume")))
    assert models[0] == models[1]
    assert world.debits() == [1, 1]


def test_a_fresh_run_is_another_noise_and_another_debit(world: World) -> None:
    models = []
    for _ in range(2):
        with Host(world) as host:
            models.append(model(world, host.run()))
    assert models[0] != models[1]
    assert world.debits() == [2, 2]


def test_fresh_and_resumed_grants_do_not_mix(world: World) -> None:
    with Host(world) as host:
        host.run()
    with Host(world) as host:
        host.bind()
        host.grant(0, "resume")
        with pytest.raises(ProtocolError) as refusal:
            host.grant(1, "fresh")
    assert refusal.value.name == "grant_mixed"


def test_a_share_that_is_not_deposited_keeps_the_run_from_training(world: World) -> None:
    with Host(world) as host:
        host.bind()
        host.grants()
        deposits = host.session.shares().deposits
        assert len(deposits) == 2
        try:
            host.data()
        except ProtocolError as error:
            assert error.name == "out_of_order"
        with pytest.raises(ProtocolError) as refusal:
            host.session.train(1)
    assert refusal.value.name == "out_of_order"


def test_resume_without_a_run(world: World) -> None:
    with Host(world) as host, pytest.raises(ProtocolError) as refusal:
        host.bind()
        host.grant(0, "resume")
    assert refusal.value.name == "no_share"
    assert world.debits() == [0, 0]


def test_an_owner_cannot_buy_a_second_noise_with_a_wrong_share(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner's own broker lies: it gives out a share that is not the run's."""
    with Host(world) as host:
        host.run()
    liar = world.owners[1].broker
    honest = liar._last_share

    def another_share(contract: bytes) -> Any:
        share = honest(contract)
        return dataclasses.replace(share, share=bytes([share.share[0] ^ 1]) + share.share[1:])

    monkeypatch.setattr(liar, "_last_share", another_share)
    with Host(world) as host, pytest.raises(ProtocolError) as refusal:
        host.run("resume")
    assert refusal.value.name == "share_inconsistent"


def test_an_exhausted_ledger_releases_nothing(world: World) -> None:
    runs = 0
    with pytest.raises(ProtocolError) as refusal:
        while True:
            assert runs < 10
            with Host(world) as host:
                host.bind()
                host.grant(0)
            runs += 1
    assert refusal.value.name == "budget_exhausted"
    assert runs == 4
    assert world.debits() == [runs, 0]


def test_dead_stays_dead(world: World) -> None:
    """Data that is not the contract's ends the enclave: it answers `dead` from then on."""
    with Host(world) as host:
        host.bind()
        host.grants()
        host.deposits()
        header, chunks = host.pieces(0)
        host.session.data_begin(0, header)
        host.session.data_chunk(0, chunks[0])
        broken = bytes([chunks[1][0] ^ 1]) + chunks[1][1:]
        with pytest.raises(ProtocolError):
            host.session.data_chunk(1, broken)
        with pytest.raises(MyelinError):
            host.steps()
            host.outputs()
