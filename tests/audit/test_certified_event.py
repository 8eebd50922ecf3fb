"""One mechanism in four places: plan, image, contract and certificate; and one ε for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import pytest
from compiled import Compiled
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant

from myelin.certificate import CertificateBundle
from myelin.cli.app import run
from myelin.contract import open_dataset
from myelin.contract.ledger import Ledger
from myelin.image import read_plan
from myelin.privacy import epsilon, sensitivity_bound, to_dp_accounting
from myelin.privacy.noise import SIGMA_UNITS
from world import Host, World


@pytest.fixture(scope="module")
def certified(replayed: Compiled, settle: Callable[[Compiled], World]) -> tuple[World, CertificateBundle]:
    world = settle(replayed)
    with Host(world) as host:
        return world, CertificateBundle.from_bytes(host.run()[0])


def test_the_certificate_says_what_contract_and_plan_say(
    replayed: Compiled, certified: tuple[World, CertificateBundle]
) -> None:
    world, bundle = certified
    event = bundle.certificate.event
    plan = read_plan(replayed.image.path)["dp"]
    assert event == world.contract.event
    assert event.to_map() == replayed.image.manifest["event"]
    assert event.to_map() == replayed.plan.event(
        replayed.private.parameter_count, replayed.private.sensitivity_e9
    )
    shared = asdict(event).keys() & plan.keys()
    assert shared == {*asdict(event)} - {"dataset_size", "parameters"}
    assert all(plan[name] == getattr(event, name) for name in shared - {"clipping", "correlation", "augment"})
    assert plan["clipping"] == ["flat"] == list(event.clipping)
    assert plan["microbatch"] == replayed.plan.microbatch


def test_sizes_are_those_of_the_data_and_the_model(
    replayed: Compiled, certified: tuple[World, CertificateBundle]
) -> None:
    world, bundle = certified
    event = bundle.certificate.event
    sealed = [open_records(world, party) for party in range(len(world.owners))]
    assert event.dataset_size == sum(sealed)
    assert bundle.certificate.records == tuple(sealed)
    assert event.parameters == sum(value.size for value in replayed.private.parameter_values)


def open_records(world: World, party: int) -> int:
    """Records that are really in an owner's sealed file."""
    owner = world.owners[party]
    key = Ledger(owner.store, lambda events, delta: 0.0).data_key(owner.digest)
    size = sum(len(chunk) for chunk in open_dataset(owner.sealed, key))
    assert size % world.schema.record_bytes == 0
    return size // world.schema.record_bytes


def test_the_noise_on_the_grid_is_no_less_than_the_event_says(replayed: Compiled) -> None:
    """In exact arithmetic: grid × SIGMA_UNITS >= noise multiplier × sensitivity, and hardly more."""
    plan = read_plan(replayed.image.path)["dp"]
    claimed = Fraction(plan["noise_multiplier_e9"] * plan["sensitivity_e9"], 10**18)
    drawn = Fraction(plan["grid"]) * SIGMA_UNITS
    assert claimed <= drawn <= claimed * (1 + Fraction(1, 2**51))
    bound = sensitivity_bound(
        replayed.plan, replayed.private.parameter_count, plan["microbatch"], SIGMA_UNITS
    )
    assert plan["sensitivity_e9"] >= bound * 10**9


def test_every_epsilon_is_the_event_s(
    replayed: Compiled, certified: tuple[World, CertificateBundle], capsys: pytest.CaptureFixture[str]
) -> None:
    """`inspect`, the owners' ledgers and a recomputation from the certificate agree exactly."""
    world, bundle = certified
    event, delta = bundle.certificate.event.to_map(), 1e-5
    recomputed = epsilon(event, delta)
    capsys.readouterr()
    assert run(["inspect", str(replayed.image.path), "--delta", str(delta), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] == recomputed
    for owner in world.owners:
        ledger = Ledger(owner.store)
        assert [debit.event for debit in ledger.debits()] == [bundle.certificate.event]
        assert ledger.spent(delta) == recomputed
    # A stranger's accountant, on a finer grid and without the slack of noise and sampler, finds no more.
    stranger = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    ideal = stranger.compose(to_dp_accounting(event)).get_epsilon(delta)
    assert ideal <= recomputed <= 1.03 * ideal


def test_a_contract_says_what_epsilon_does_not_cover(
    replayed: Compiled,
    settle: Callable[[Compiled], World],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The count of non-finite contributions is exact: nobody signs for it without being told."""
    world = settle(replayed)
    for told in (True, False):
        signed = world.changed(release_nonfinite=told)
        path = tmp_path / f"{told}.contract"
        path.write_bytes(signed.to_bytes())
        capsys.readouterr()
        assert run(["contract", "show", str(path)]) == 0
        assert ("ε does not cover it" in " ".join("".join(capsys.readouterr()).split())) == told
    with Host(world) as host:
        bundle = CertificateBundle.from_bytes(host.run(signed=signed)[0])
    assert bundle.certificate.nonfinite is None
