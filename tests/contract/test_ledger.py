"""Debits in two phases, exact ρ, revocation, quotas, settlement; and stores of the first format."""

import sqlite3
from dataclasses import replace

import pytest

from myelin.contract import Budget, Identity, Ledger, Quota, Store, epsilon_of_zcdp, micro_zcdp
from myelin.errors import InputError, ProtocolError
from myelin.wire import digest, encode
from reference_enclave import BUDGET, EVENT, NOW_S, ReferenceEnclave, one_each


def researcher(agreement):
    return digest(agreement.researcher.public.signing_key)


def ask(agreement, signed=None):
    return agreement.owners[0].ask(ReferenceEnclave(signed or agreement.signed).request(agreement.owners[0]))


def refused(agreement, name, signed=None):
    with pytest.raises(ProtocolError) as caught:
        ask(agreement, signed)
    assert caught.value.name == name, caught.value
    return caught.value


@pytest.mark.parametrize(
    ("noise_e9", "steps", "rho_u"),
    [
        (10**9, 1, 500_000),  # 1/2
        (10**9, 10, 5_000_000),
        (3 * 10**9, 10, 555_556),  # 10/18, rounded up
        (2 * 10**9, 1, 125_000),  # exact: not rounded
        (10**18, 1, 1),  # never nothing
        (10**9, 0, 0),
    ],
)
def test_rho_is_exact_and_rounded_up(noise_e9, steps, rho_u):
    assert micro_zcdp(replace(EVENT, noise_multiplier_e9=noise_e9, steps=steps)) == rho_u


def test_rho_of_records_that_take_turns():
    turns = replace(EVENT, correlation=(10**9,), sampling_threshold=0, capacity=10, steps=9)
    assert micro_zcdp(turns) == 166_667  # three batches, so three turns each: 3/18
    assert micro_zcdp(replace(turns, steps=10)) == 222_223


@pytest.mark.parametrize("noise_e9", [0, 1])
def test_rho_without_noise(noise_e9):
    with pytest.raises(ProtocolError, match="budget_exhausted"):
        micro_zcdp(replace(EVENT, noise_multiplier_e9=noise_e9))


def test_rho_is_never_below_what_the_accountant_says():
    """The cross-check: ε by ρ, which leaves out sampling, bounds ε by the accountant that decides."""
    from myelin.privacy import epsilon

    for event in (EVENT, replace(EVENT, sampling_threshold=(1 << 64) - 1, capacity=30)):
        for delta in (1e-5, 1e-7):
            assert epsilon([event.to_map()], delta) <= epsilon_of_zcdp(micro_zcdp(event), delta) * 1.001


def test_debits_say_what_they_are_of(agreement):
    ask(agreement)
    owner = agreement.owners[0]
    (debit,) = Ledger(owner.store, one_each).debits()
    assert (debit.state, debit.dataset, debit.researcher) == ("released", owner.digest, researcher(agreement))
    ledger = Ledger(owner.store, one_each)
    assert ledger.zcdp_u() == ledger.zcdp_u(owner.digest) == debit.zcdp_u == 555_556
    assert ledger.zcdp_u(bytes(32)) == 0


def test_a_deposited_share_is_kept(agreement, enclave):
    owner = agreement.owners[0]
    owner.ask(enclave.request(owner))
    _, sealed, signature = enclave.shares()[0]
    owner.ask(enclave.deposit_request(sealed, signature))
    assert [d.state for d in Ledger(owner.store, one_each).debits()] == ["kept"]


@pytest.mark.parametrize("what", ["contract", "measurement", "researcher"])
def test_revocation(agreement, what):
    ask(agreement)
    named = {
        "contract": agreement.signed.digest,
        "measurement": agreement.contract.measurement,
        "researcher": researcher(agreement),
    }[what]
    ledger = Ledger(agreement.owners[0].store, one_each)
    ledger.revoke(what, bytes(32), "another one", at_s=NOW_S)
    ask(agreement)
    ledger.revoke(what, named, "patients objected", at_s=NOW_S)
    assert "patients objected" in refused(agreement, "revoked").detail
    agreement.owners[0].restart()
    refused(agreement, "revoked")
    assert agreement.owners[0].debits() == 2


def test_a_revoked_run_gives_neither_its_answer_again_nor_its_share(agreement, enclave):
    owner = agreement.owners[0]
    owner.ask(enclave.request(owner))
    _, sealed, signature = enclave.shares()[0]
    owner.ask(enclave.deposit_request(sealed, signature))
    Ledger(owner.store, one_each).revoke("run", enclave.boot, "grant withdrawn", at_s=NOW_S)
    with pytest.raises(ProtocolError, match="revoked"):
        owner.ask(enclave.request(owner))
    with pytest.raises(ProtocolError, match="revoked"):
        owner.ask(ReferenceEnclave(agreement.signed).request(owner, "resume"))
    ask(agreement)  # another run is another grant


def test_what_cannot_be_revoked(agreement):
    ledger = Ledger(agreement.owners[0].store, one_each)
    for what, named, reason in (
        ("owner", bytes(32), "x"), ("contract", bytes(31), "x"), ("contract", bytes(32), ""),
        ("contract", bytes(32), "a\nb"), ("contract", bytes(32), "x" * 600),
    ):  # fmt: skip
        with pytest.raises(InputError, match="revoke"):
            ledger.revoke(what, named, reason, at_s=NOW_S)


def test_quotas_of_researchers_and_datasets(agreement):
    owner = agreement.owners[0]
    ledger = Ledger(owner.store, one_each)
    ledger.set_quota(Quota("researcher", None, releases=0), at_s=NOW_S)
    assert "allows 0 releases" in refused(agreement, "quota_exhausted").detail
    ledger.set_quota(Quota("researcher", researcher(agreement), zcdp_u=1_111_112), at_s=NOW_S)
    ask(agreement)
    ask(agreement)  # twice 555,556: just within
    assert "allows ρ 1.11111" in refused(agreement, "quota_exhausted").detail
    ledger.set_quota(Quota("researcher", researcher(agreement), zcdp_u=10**9), at_s=NOW_S)
    ledger.set_quota(Quota("dataset", owner.digest, until_s=NOW_S), at_s=NOW_S)
    assert "ended at" in refused(agreement, "quota_exhausted").detail
    ledger.set_quota(Quota("dataset", owner.digest, until_s=NOW_S + 1), at_s=NOW_S)
    ask(agreement)
    assert owner.debits() == 3
    refused(agreement, "budget_exhausted")  # a quota never widens the budget


def test_quotas_out_of_form():
    for wrong in (("owner", None, 1), ("dataset", bytes(31), 1), ("dataset", None, None)):
        with pytest.raises(InputError, match="quota"):
            Quota(*wrong)


def test_a_reservation_that_dies_is_charged_and_never_refunded(agreement, monkeypatch):
    owner, boot = agreement.owners[0], ReferenceEnclave(agreement.signed)

    class PowerError(Exception):
        pass

    def dies(*given):
        raise PowerError

    monkeypatch.setattr(owner.broker, "_finish", dies)
    with pytest.raises(PowerError):
        owner.ask(boot.request(owner))
    owner.restart()
    owner.broker.settle()
    ledger = Ledger(owner.store, one_each)
    assert [d.state for d in ledger.debits()] == ["reserved"]
    owner.now_s += 3600  # the contract has expired
    owner.broker.settle()
    owner.broker.settle()
    assert [d.state for d in ledger.debits()] == ["charged"]
    assert len(owner.store.entries("settle")) == 1
    assert (ledger.spent(), ledger.zcdp_u()) == (1.0, 555_556)
    with pytest.raises(ProtocolError, match="contract_expired"):
        owner.ask(boot.request(owner))
    owner.now_s -= 3600  # a clock put back does not bring it to life
    with pytest.raises(ProtocolError, match="settled as charged"):
        owner.ask(boot.request(owner))
    assert ledger.answer(agreement.signed.digest, boot.boot) is None


FIRST_FORMAT = """
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), salt BLOB NOT NULL, entries INTEGER NOT NULL,
                   mac BLOB NOT NULL);
CREATE TABLE entry (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, secret BLOB,
                    chain BLOB NOT NULL);
"""


def first_format(path, identity):
    """A store as the first format's program wrote it, from that format alone: a dataset and a release."""
    import hmac

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = bytes(range(32))
    mac_key = identity.derive("myelin/store/chain/v1", salt)
    cipher = AESGCM(identity.derive("myelin/store/secrets/v1", salt))
    owner = digest(identity.public.signing_key)
    release = {
        "contract": digest(b"c"), "name": "old", "measurement": digest(b"m"), "boot": digest(b"b"),
        "mode": "fresh", "at_s": NOW_S, "event": EVENT.to_map(), "answer": b"grant", "party": 0,
        "signing_key": identity.public.signing_key,
    }  # fmt: skip
    dataset = {"digest": digest(b"d"), "schema": digest(b"s"), "records": 10, "name": "x", "at_s": NOW_S}
    entries = [
        ("open", {"owner": owner, "epsilon_e6": 3_000_000, "delta_e15": 10**10, "at_s": NOW_S}, None),
        ("dataset", dataset, b"k" * 32),
        ("release", release, None),
    ]
    connection = sqlite3.connect(path)
    connection.executescript(FIRST_FORMAT)
    chain = b""
    for number, (kind, body, secret) in enumerate(entries):
        sealed = None
        if secret is not None:
            place = encode(["myelin/ledger-secret/v1", chain, number, kind])
            sealed = bytes(12) + cipher.encrypt(bytes(12), secret, place)
        raw = encode(body)
        said = encode(["myelin/ledger/v1", chain, number, kind, raw, sealed])
        chain = hmac.digest(mac_key, said, "sha256")
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", (number, kind, raw, sealed, chain))
    head = hmac.digest(mac_key, encode(["myelin/ledger-head/v1", len(entries), chain]), "sha256")
    connection.execute("INSERT INTO head VALUES (1, ?, ?, ?)", (salt, len(entries), head))
    connection.commit()
    connection.close()


def test_a_store_of_the_first_format_is_brought_up_without_loss(tmp_path):
    identity = Identity.generate("north")
    first_format(tmp_path / "s.store", identity)
    for count in (4, 4):  # the second time there is nothing to do
        with Store.open(tmp_path / "s.store", identity) as store:
            assert [e.kind for e in store.entries()] == ["open", "dataset", "release", "format"]
            assert len(store.entries()) == count
            ledger = Ledger(store, one_each)
            assert ledger.data_key(digest(b"d")) == b"k" * 32
            (debit,) = ledger.debits()
            assert (debit.name, debit.state, debit.zcdp_u) == ("old", "released", 555_556)
            assert ledger.answer(digest(b"c"), digest(b"b"), "fresh").grant == b"grant"
            assert (ledger.spent(), ledger.budget) == (1.0, Budget.of("3", "1e-5"))
    with sqlite3.connect(tmp_path / "s.store") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        with pytest.raises(sqlite3.OperationalError, match="no such table: entry"):
            connection.execute("SELECT * FROM entry")  # what the first format's program would do: refuse
    connection.close()


def test_a_damaged_store_of_the_first_format_is_refused(tmp_path):
    identity = Identity.generate("north")
    first_format(tmp_path / "s.store", identity)
    with sqlite3.connect(tmp_path / "s.store") as connection:
        connection.execute("DELETE FROM entry WHERE number = 2")
    connection.close()
    for _ in range(2):
        with pytest.raises(ProtocolError, match="ledger_damaged"):
            Store.open(tmp_path / "s.store", identity)


def test_a_store_of_a_later_format_is_left_alone(tmp_path):
    identity = Identity.generate("north")
    Store.create(tmp_path / "s.store", identity, BUDGET, at_s=NOW_S).close()
    with sqlite3.connect(tmp_path / "s.store") as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(InputError, match="a newer Myelin"):
        Store.open(tmp_path / "s.store", identity)


def test_a_backup_is_whole_while_the_store_is_in_use(tmp_path, agreement):
    ask(agreement)
    owner = agreement.owners[0]
    owner.store.backup(tmp_path / "copy")
    ask(agreement)
    with Store.open(tmp_path / "copy", owner.identity) as copy:
        assert len(Ledger(copy, one_each).debits()) == 1
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
