"""Contracts: one encoding, every rule of their form, and signatures by exactly the parties."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myelin.contract import (
    Budget,
    Contract,
    Identity,
    SignedContract,
    budget_figures,
    check_budgets,
)
from myelin.errors import CheckError, InputError, ProtocolError
from myelin.wire import decode, encode
from reference_enclave import BUDGET, EVENT, one_each


def test_round_trip(agreement, tmp_path):
    signed = agreement.signed
    assert Contract.from_bytes(signed.contract_bytes) == agreement.contract
    assert SignedContract.from_bytes(signed.to_bytes()) == signed
    signed.save(tmp_path / "c")
    assert SignedContract.load(tmp_path / "c") == signed
    assert signed.digest == agreement.contract.digest
    signed.verify()


def altered(agreement, change):
    fields = decode(agreement.signed.contract_bytes)
    change(fields)
    return encode(fields)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("version", lambda f: f.update(version=3)),
        ("names no anchors: draw it up", lambda f: f.update(version=1)),
        ("anchors", lambda f: f.update(anchors=["witnesses", "log"])),
        ("anchors", lambda f: f.update(anchors=["tpm", "tpm"])),
        ("anchors", lambda f: f.update(anchors=["other"])),
        ("name", lambda f: f.update(name="")),
        ("name", lambda f: f.update(name="x" * 129)),
        ("measurement", lambda f: f.update(measurement=bytes(31))),
        ("plan", lambda f: f.update(plan="text")),
        ("unknown_field", lambda f: f.update(extra=1)),
        ("the field 'policy'", lambda f: f.pop("policy")),
        ("parties: expected 2 to 32", lambda f: f.update(parties=f["parties"][:1])),
        ("at most 32 items", lambda f: f.update(parties=f["parties"] * 11)),
        ("distinct names", lambda f: f["parties"][1].update(name="north")),
        ("distinct keys", lambda f: f["parties"][1].update(signing_key=f["parties"][0]["signing_key"])),
        ("role", lambda f: f["parties"][1].update(role="broker")),
        ("exactly one researcher, got 2", lambda f: f["parties"][1].update(role="researcher")),
        ("exactly one researcher, got 0", lambda f: f["parties"][2].update(role="owner")),
        ("P-256 point", lambda f: f["parties"][0].update(signing_key=bytes(65))),
        ("X-Wing", lambda f: f["parties"][0].update(sealing_key=b"\xff" * 1216)),
        ("unknown_field", lambda f: f["parties"][0].update(email="x")),
        ("datasets: expected one per owner", lambda f: f.update(datasets=f["datasets"][:1])),
        ("datasets: expected one per owner", lambda f: f.update(datasets=f["datasets"][::-1])),
        ("datasets: expected one per owner", lambda f: f["datasets"][1].update(owner=2)),
        ("records: expected an integer from 1", lambda f: f["datasets"][0].update(records=0)),
        ("records", lambda f: f["datasets"][0].update(records=(1 << 31) + 1)),
        ("sum of records, 31", lambda f: f["datasets"][0].update(records=11)),
        ("sum of records, 30, got 31", lambda f: f["event"].update(dataset_size=31)),
        ("event, type", lambda f: f["event"].update(type="gaussian")),
        ("neighboring_relation", lambda f: f["event"].update(neighboring_relation="add-remove")),
        ("event, steps", lambda f: f["event"].update(steps=-1)),
        ("unknown_field", lambda f: f["event"].update(more=1)),
        ("budgets: expected one per owner", lambda f: f.update(budgets=f["budgets"][:1])),
        ("budgets: expected one per owner", lambda f: f["budgets"][0].update(owner=1)),
        ("delta_e15", lambda f: f["budgets"][0].update(delta_e15=10**15 + 1)),
        ("recipients", lambda f: f.update(recipients=[])),
        ("recipients", lambda f: f.update(recipients=[3])),
        ("recipients", lambda f: f.update(recipients=[2, 1])),
        ("recipients", lambda f: f.update(recipients=[2, 2])),
        ("release_records", lambda f: f.update(release_records=1)),
        ("expires_s", lambda f: f.update(expires_s=-5)),
    ],
)
def test_every_rule_of_the_form(agreement, message, change):
    with pytest.raises(ProtocolError, match=message) as caught:
        Contract.from_bytes(altered(agreement, change))
    assert caught.value.name in ("contract_malformed", "unknown_field")


def test_too_long():
    with pytest.raises(ProtocolError, match="oversized"):
        Contract.from_bytes(bytes((256 << 10) + 1))


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes(data):
    for read in (Contract.from_bytes, SignedContract.from_bytes):
        with pytest.raises(ProtocolError):
            read(data)


def test_signatures(agreement):
    unsigned = SignedContract.unsigned(agreement.contract)
    with pytest.raises(ProtocolError, match=r"signature_missing.*'north' \(party 0\) has not signed"):
        unsigned.verify()
    signed = unsigned
    for identity in agreement.parties:
        with pytest.raises(ProtocolError, match="signature_missing"):
            signed.verify()
        signed = signed.sign(identity)
    signed.verify()
    assert signed.sign(agreement.parties[0]) == signed
    with pytest.raises(ProtocolError, match="not_a_party"):
        signed.sign(Identity.generate("stranger"))


def test_signatures_that_are_refused(agreement):
    signed = agreement.signed
    first, second, third = signed.signatures
    other = agreement.changed(name="another").signatures
    for signatures in [
        (second, first, third),
        (first, first, third),
        (other[0], second, third),
        (b"", second, third),
    ]:
        wrong = SignedContract(signed.contract_bytes, signatures, signed.contract)
        with pytest.raises(ProtocolError, match="signature_invalid"):
            wrong.verify()
    for place in range(0, len(first), 5):
        flipped = bytearray(first)
        flipped[place] ^= 4
        with pytest.raises(ProtocolError, match="signature_invalid"):
            replace(signed, signatures=(bytes(flipped), second, third)).verify()


def test_files_that_are_no_contract(agreement, tmp_path):
    good = decode(agreement.signed.to_bytes())
    for bad in (
        ["other", *good[1:]],
        good[:2],
        [*good[:2], good[2][:2]],
        [*good[:2], [b"x" * 300, None, None]],
    ):
        (tmp_path / "c").write_bytes(encode(bad))
        with pytest.raises(InputError, match="expected a Myelin contract"):
            SignedContract.load(tmp_path / "c")


def test_budget_figures_of_every_owner(agreement):
    contract = replace(agreement.contract, budgets=(BUDGET, Budget.of("0.25", "1e-6")))
    figures = budget_figures(contract, one_each)
    assert [(f.owner, f.epsilon, f.budget, f.within) for f in figures] == [
        ("north", 1.0, 3.0, True),
        ("south", 1.0, 0.25, False),
    ]
    with pytest.raises(CheckError) as caught:
        check_budgets(contract, one_each)
    assert "north: ε 1 within the budget of ε 3 at δ 1e-05" in str(caught.value)
    assert "south: ε 1 EXCEEDS the budget of ε 0.25 at δ 1e-06" in str(caught.value)
    assert check_budgets(agreement.contract, one_each)


@pytest.mark.parametrize("answer", [float("nan"), -1.0])
def test_an_accountant_that_answers_nonsense_is_not_believed(agreement, answer):
    with pytest.raises(ProtocolError, match="budget_exhausted"):
        check_budgets(agreement.contract, lambda events, delta: answer)
    with pytest.raises(CheckError):
        check_budgets(agreement.contract, lambda events, delta: float("inf"))


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [("0", "1e-5"), ("-1", "1e-5"), ("nan", "1e-5"), ("inf", "1e-5"), ("x", "1e-5"), ("1", "0"), ("1", "1"),
     ("1", "1e-16"), ("1e30", "1e-5")],
)  # fmt: skip
def test_budgets_out_of_range(epsilon, delta):
    with pytest.raises(InputError, match=r"epsilon|delta"):
        Budget.of(epsilon, delta)


def test_budgets_round_down_and_compare_exactly():
    budget = Budget.of("2.9999999", 1e-5)
    assert (budget.epsilon_e6, budget.delta_e15) == (2_999_999, 10**10)
    assert budget.allows(2.999999)
    assert not budget.allows(2.9999991)
    assert not budget.allows(float("inf"))
    assert not budget.allows(float("nan"))


def test_event_describes_itself():
    assert EVENT.describe() == (
        "10 steps, each of 30 records drawn with probability 0.125, at most 16 used, clipped to 1, "
        "noise 3 × sensitivity 1"
    )
