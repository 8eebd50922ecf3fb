"""Statements and acknowledgements between brokers, and owners whose brokers are down: delays, never less."""

import pytest
from anchoring import AnchoredWorld

from myelin.contract import Head, Identity, Statement, acknowledge, check_acknowledgement
from myelin.errors import ProtocolError
from myelin.wire import decode, encode
from reference_enclave import ReferenceEnclave


@pytest.fixture
def world(tmp_path):
    world = AnchoredWorld(tmp_path, ("witnesses",), None)
    yield world
    for owner in world.agreement.owners:
        world.stop(owner)


def stated(world, heads, owner=0, **changes):
    """A request to acknowledge, as the owner's broker would make it."""
    fields = {"ledger": bytes(32), "contract": world.signed.digest, "heads": heads, "nonce": bytes(32)}
    statement = Statement(**{**fields, **changes})
    signed = statement.sign(world.agreement.owners[owner].identity.signing)
    return {"verb": "acknowledge", "contract": world.signed.to_bytes(), "statement": signed}


def head(count, value=None):
    return Head(count, bytes([value or count]) * 32)


def refused(call, name):
    with pytest.raises(ProtocolError) as caught:
        call()
    assert caught.value.name == name, caught.value


def test_a_witness_keeps_the_last_head_and_only_what_follows_it(world):
    south = world.agreement.owners[1]
    south.ask(stated(world, (head(1),)))
    south.ask(stated(world, (head(1),)))
    south.ask(stated(world, (head(1), head(4))))
    world.stop(south)
    world.start(south)  # it is on its disk
    for wrong in ((head(1),), (head(5),), (head(4, 9),), (head(1), head(9)), ()):
        refused(lambda wrong=wrong: south.ask(stated(world, wrong)), "ledger_rolled_back")
    south.ask(stated(world, (head(4), head(5))))
    south.ask(stated(world, (head(1),), ledger=b"\1" * 32))  # another ledger
    assert len(south.store.entries("witness")) == 4


def test_statements_that_are_refused(world):
    south = world.agreement.owners[1]
    good = stated(world, (head(1),))
    refused(lambda: south.ask(stated(world, (head(1),), owner=1)), "signature_invalid")  # its own
    refused(lambda: south.ask(stated(world, (head(1),), contract=None)), "wrong_contract")
    refused(lambda: south.ask(stated(world, (head(2), head(1)))), "malformed_message")
    refused(lambda: south.ask({**good, "statement": b""}), "malformed_message")
    refused(lambda: south.ask({**good, "statement": bytes(1 << 19)}), "malformed_message")
    unsigned = world.agreement.sign(world.signed.contract, skip="north").to_bytes()
    refused(lambda: south.ask({**good, "contract": unsigned}), "signature_missing")
    stranger = world.agreement.changed(parties=world.signed.contract.parties[::1], name="other")
    refused(lambda: south.ask({**good, "contract": stranger.to_bytes()}), "wrong_contract")
    for place in range(0, len(good["statement"]), 7):
        flipped = bytearray(good["statement"])
        flipped[place] ^= 1
        with pytest.raises(ProtocolError):
            south.ask({**good, "statement": bytes(flipped)})
    assert south.store.entries("witness") == []


def test_acknowledgements_are_of_one_statement():
    owner, peer = Identity.generate("owner"), Identity.generate("peer")
    statement = Statement(bytes(32), None, (head(1),), bytes(32))
    signed = statement.sign(owner.signing)
    good = acknowledge(signed, statement, peer.signing)
    key = peer.public.signing_key
    check_acknowledgement(good, signed, bytes(32), key, "peer")
    other = Statement(bytes(32), None, (head(1),), b"\1" * 32).sign(owner.signing)
    for wrong in (
        (good, other, bytes(32), key),
        (good, signed, b"\1" * 32, key),
        (good, signed, bytes(32), owner.public.signing_key),
        (b"", signed, bytes(32), key),
    ):
        with pytest.raises(ProtocolError, match="anchor_unavailable"):
            check_acknowledgement(*wrong, "peer")


def test_a_peer_that_acknowledges_nothing(world):
    for answer in (
        {"ok": True},
        {"ok": True, "acknowledgement": b"x"},
        {"ok": False, "error": 803, "name": "ledger_damaged", "message": "x"},
    ):
        world.network.answers["south"] = lambda frame, answer=answer: encode(answer)
        refused(lambda: world.release(world.owner), "anchor_unavailable")
    assert world.states(world.owner) == []


def test_both_brokers_release_at_once(world):
    """Each waits for the other's acknowledgement while it releases: neither holds what the other needs."""
    import threading

    done = []

    def release(owner):
        for _ in range(3):
            world.release(owner)
        done.append(owner.identity.name)

    threads = [threading.Thread(target=release, args=(owner,)) for owner in world.agreement.owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == ["north", "south"]


def test_a_broker_that_is_down_delays_a_run_and_never_weakens_it(tmp_path):
    """n of n: without every owner's share no job key, fresh or resumed; with all back it is the same key."""
    world = AnchoredWorld(tmp_path, (), None)
    north, south = world.agreement.owners
    first = world.boot()
    deposits = {}
    for owner in (north, south):
        first.accept(owner.ask(first.request(owner)))
    for party, sealed, signature in first.shares():
        deposits[party] = first.deposit_request(sealed, signature)
    north.ask(deposits[0])  # south's broker goes down before its share is there
    world.stop(south)
    world.start(south)
    joining = world.boot()
    joining.accept(north.ask(joining.request(north, "resume")))
    refused(
        lambda: south.ask(joining.request(south, "resume")), "no_share"
    )  # and no fresh share in its place
    south.ask(deposits[1])  # the host still has it; the broker that was restarted takes it
    for worker in (joining, world.boot(), world.boot()):  # it resumes; others join: all get all shares
        worker.grants.clear()
        for owner in (north, south):
            worker.accept(owner.ask(worker.request(owner, "resume")))
        assert (worker.resume(), worker.run) == (first.job_key, first.run)
    assert world.states(north) == world.states(south) == ["kept"]  # one debit each, for all of them
    mixed = ReferenceEnclave(world.signed)
    mixed.accept(north.ask(mixed.request(north, "resume")))
    mixed.accept(south.ask(mixed.request(south)))
    assert {grant["mode"] for grant in mixed.grants.values()} == {"fresh", "resume"}  # refused: grant_mixed
    assert decode(encode(world.states(south))) == ["kept", "released"]
    for owner in (north, south):
        world.stop(owner)
