"""Older copies of a broker's files, really put back: each anchor, on its own, keeps them from being worth a
release."""

import pytest
from anchoring import AnchoredWorld, software_tpm

from myelin.broker import TpmAnchor, exchange_with
from myelin.broker.tpm_commands import nv_define_extend, nv_extend
from myelin.contract import Head, Identity, Ledger, Occasion, Quota
from myelin.errors import InputError, ProtocolError
from myelin.log import read_leaf
from reference_enclave import one_each


def refused(call, name):
    with pytest.raises(ProtocolError) as caught:
        call()
    assert caught.value.name == name, caught.value
    return caught.value


def test_releases_under_an_anchor(world):
    for count in (1, 2, 3):
        assert world.release(world.owner)["data_key"] == world.owner.data_key
        assert world.states(world.owner) == ["released"] * count
    world.stop(world.owner)
    world.start(world.owner)
    refused(lambda: world.release(world.owner), "budget_exhausted")


def test_an_older_copy_put_back_gives_no_second_release(world):
    owner = world.owner
    world.release(owner)
    world.copy(owner, "after one")
    for _ in range(2):
        world.release(owner)  # the budget is gone
    world.put_back(owner, "after one")
    assert world.states(owner) == ["released"]  # the file alone has forgotten two releases
    error = refused(lambda: world.release(owner), "ledger_rolled_back")
    assert "older copy" in error.detail
    assert world.states(owner) == ["released"]  # nor was anything debited by the attempt
    for _ in range(3):
        refused(lambda: world.release(owner), "ledger_rolled_back")


def test_a_copy_from_before_the_first_release(world):
    owner = world.owner
    world.copy(owner, "untouched")
    world.release(owner)
    world.put_back(owner, "untouched")
    refused(lambda: world.release(owner), "ledger_rolled_back")
    refused(lambda: world.release(owner, mode="resume"), "ledger_rolled_back")


def test_the_newest_copy_put_back_goes_on(world):
    owner = world.owner
    boot = world.boot()
    first = owner.ask(boot.request(owner))
    world.copy(owner, "newest")
    world.put_back(owner, "newest")
    assert owner.ask(boot.request(owner))["grant"] == first["grant"]
    world.release(owner)
    assert world.states(owner) == ["released", "released"]


def test_two_copies_of_the_same_length_are_not_the_same(world, monkeypatch):
    """A fork: a reservation is written, its anchoring does not come to pass, the files are put back, another
    boot is debited and anchored in its place; then the first branch is put back. As many debits, other
    ones."""
    owner = world.owner
    world.release(owner)
    world.copy(owner, "base")
    first = world.boot()

    class DownError(Exception):
        pass

    request = first.request(owner)
    advance = owner.broker._advance
    calls = []

    def fails_second(anchors, occasion):
        calls.append(1)
        if len(calls) == 2:
            raise DownError
        return advance(anchors, occasion)

    monkeypatch.setattr(owner.broker, "_advance", fails_second)
    with pytest.raises(DownError):
        owner.ask(request)
    assert world.states(owner) == ["released", "reserved"]
    world.copy(owner, "branch")
    world.put_back(owner, "base")
    world.release(owner)
    world.put_back(owner, "branch")
    assert world.states(owner) == ["released", "reserved"]
    refused(lambda: world.release(owner, first), "ledger_rolled_back")
    assert world.states(owner) == ["released", "reserved"]


def test_killed_between_reservation_and_anchor(world, monkeypatch):
    """The first phase is durable; the same boot is answered once the broker is back, for that debit."""
    owner, boot = world.owner, world.boot()

    class DownError(Exception):
        pass

    advance, calls = owner.broker._advance, []

    def fails_second(anchors, occasion):
        calls.append(1)
        if len(calls) == 2:
            raise DownError
        return advance(anchors, occasion)

    monkeypatch.setattr(owner.broker, "_advance", fails_second)
    with pytest.raises(DownError):
        owner.ask(boot.request(owner))
    world.stop(owner)
    world.start(owner)
    assert world.states(owner) == ["reserved"]
    assert world.release(owner, boot)["data_key"] == owner.data_key
    assert world.states(owner) == ["released"]


def test_an_anchor_that_is_not_given(world):
    owner = world.owner
    owner.restart(surroundings=world.around)
    error = refused(lambda: world.release(owner), "anchor_unavailable")
    assert world.kinds[0] in error.detail and "docs/broker.md" in error.detail
    assert world.states(owner) == []


@pytest.mark.parametrize(("kind", "address"), [("witnesses", "south"), ("log", "log")])
def test_an_anchor_that_is_down_delays_and_costs_nothing(tmp_path, kind, address):
    world = AnchoredWorld(tmp_path, (kind,), None)
    boot = world.boot()
    world.network.down.add(address)
    refused(lambda: world.release(world.owner, boot), "anchor_unavailable")
    assert world.states(world.owner) == []
    world.network.down.clear()
    world.release(world.owner, boot)
    assert world.states(world.owner) == ["released"]


def test_a_tpm_that_is_down_or_another_one(tmp_path):
    with software_tpm(tmp_path / "tpm") as socket:
        world = AnchoredWorld(tmp_path, ("tpm",), socket)
        world.release(world.owner)
    refused(lambda: world.release(world.owner), "anchor_unavailable")
    with software_tpm(tmp_path / "tpm"):  # the same one, after a reboot
        world.release(world.owner)
    with software_tpm(tmp_path / "new") as other:
        world.tpm = other
        world.start(world.owner)
        error = refused(lambda: world.release(world.owner), "anchor_unavailable")
        assert "cleared, or is another one" in error.detail
    assert world.states(world.owner) == ["released"] * 2


def test_an_index_of_somebody_else(tmp_path, tpm):
    exchange = exchange_with(tpm)
    nv_define_extend(exchange, 0x01800042, b"not the owner's")
    nv_extend(exchange, 0x01800042, b"not the owner's", bytes(32))
    world = AnchoredWorld(tmp_path, ("tpm",), tpm)
    error = refused(lambda: world.release(world.owner), "anchor_unavailable")
    assert "this owner's key" in error.detail
    assert world.states(world.owner) == []


def test_the_tpm_follows_heads_in_order(tpm):
    anchor = TpmAnchor(exchange_with(tpm), 0x01800001, Identity.generate("north"))
    occasion = Occasion(bytes(32))
    heads = [Head(n + 1, bytes([n]) * 32) for n in range(4)]
    anchor.advance([], occasion)
    first = anchor.advance(heads[:1], occasion)
    assert anchor.advance(heads[:1], occasion) == first
    anchor.advance(heads, occasion)
    for wrong in (heads[:3], [], [heads[0], heads[2]], [*heads[:3], Head(4, bytes(32))]):
        refused(lambda wrong=wrong: anchor.advance(wrong, occasion), "ledger_rolled_back")
    with pytest.raises(InputError, match="TPM index"):
        TpmAnchor(exchange_with(tpm), 0x01000001, Identity.generate("north"))


@pytest.mark.parametrize(
    "response",
    [b"", b"\x80\x01", b"\x80\x02\0\0\0\x0e\0\0\0\0\0\0\0\xff", b"\x80\x02\0\0\0\x0a\0\0\0\0", bytes(5000)],
)
def test_a_tpm_that_answers_nonsense(response):
    anchor = TpmAnchor(lambda command: response, 0x01800001, Identity.generate("north"))
    with pytest.raises(ProtocolError, match="anchor_unavailable"):
        anchor.advance([Head(1, bytes(32))], Occasion(bytes(32)))


def test_all_three_at_once(tmp_path, tpm):
    world = AnchoredWorld(tmp_path, ("log", "witnesses"), tpm)
    world.kinds = ("log", "tpm", "witnesses")
    world.release(world.owner)
    proofs = world.owner.store.entries("commit")[0].body["proofs"]
    assert [name.split(":")[0] for name, _ in proofs] == ["log", "tpm", "witness"]
    assert all(proof for _, proof in proofs)


def test_a_quota_before_the_first_contract_waits_for_it(tmp_path):
    world = AnchoredWorld(tmp_path, ("log",), None)
    ledger = Ledger(world.owner.store, one_each)
    ledger.set_quota(Quota("researcher", None, releases=2), at_s=1)
    world.owner.broker.settle()
    world.owner.broker.settle()
    assert len(world.journal.leaves) == 0
    assert len(world.owner.store.entries("anchor")) == 1
    world.release(world.owner)
    world.owner.broker.settle()
    assert [read_leaf(leaf)["kind"] for leaf in world.journal.leaves] == ["contract", "head", "head"]


def test_what_was_revoked_is_anchored_too(tmp_path):
    """A revocation put away with an older copy is noticed as well, once the broker has looked after it."""
    world = AnchoredWorld(tmp_path, ("log",), None)
    owner = world.owner
    world.release(owner)
    world.copy(owner, "before")
    Ledger(owner.store, one_each).revoke("contract", world.signed.digest, "patients objected", at_s=1)
    owner.broker.settle()
    error = refused(lambda: world.release(owner), "revoked")
    assert "patients objected" in error.detail
    world.put_back(owner, "before")
    refused(lambda: world.release(owner), "ledger_rolled_back")
