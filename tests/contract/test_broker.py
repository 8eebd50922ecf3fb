"""Key release: every refusal by its name, one debit a boot, and nothing released by a refusal."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from myelin.attest import Policy
from myelin.contract import RECEIPT_TYPE, Budget, Identity, Party, SignedContract
from myelin.contract.broker import Nonces
from myelin.errors import ERRORS, ProtocolError
from myelin.wire import decode, digest, encode, info, seal_to, verify1
from reference_enclave import BUDGET, NOW_S, POLICY, Agreement, ReferenceEnclave, make_agreement


def refused(owner, request, name, debits=0):
    """The request is refused by this name, and the ledger is as it was."""
    with pytest.raises(ProtocolError) as caught:
        owner.ask(request)
    assert caught.value.name == name, caught.value
    assert owner.debits() == debits
    return caught.value


def test_fresh_grant_holds_the_data_key(agreement, enclave):
    for party, owner in enumerate(agreement.owners):
        answer = owner.ask(enclave.request(owner))
        assert (answer["party"], answer["debited"], owner.debits()) == (party, True, 1)
        grant = enclave.accept(answer)
        assert grant == {
            "data_key": owner.data_key, "mode": "fresh", "run": None, "share": None, "check": None
        }  # fmt: skip


def test_same_boot_gets_the_same_answer_and_one_debit(agreement, enclave):
    owner = agreement.owners[0]
    first = owner.ask(enclave.request(owner))
    owner.restart()
    again = owner.ask(enclave.request(owner))
    assert again["grant"] == first["grant"]
    assert (first["debited"], again["debited"], owner.debits()) == (True, False, 1)


def test_another_boot_is_debited_again_until_the_ledger_is_exhausted(agreement):
    owner = agreement.owners[0]
    for _ in range(3):  # each costs ε = 1, the budget is 3
        owner.ask((boot := ReferenceEnclave(agreement.signed)).request(owner))
    error = refused(owner, ReferenceEnclave(agreement.signed).request(owner), "budget_exhausted", debits=3)
    assert "spent ε 3" in error.detail and "with this run ε 4" in error.detail
    owner.ask(boot.request(owner))  # the last boot may still have its answer again
    assert owner.debits() == 3


def test_contract_budget_bounds_all_runs_of_it(agreement):
    signed = agreement.changed(budgets=(Budget.of("1.5", "1e-5"), BUDGET))
    owner = agreement.owners[0]
    owner.ask(ReferenceEnclave(signed).request(owner))
    error = refused(owner, ReferenceEnclave(signed).request(owner), "budget_exhausted", debits=1)
    assert error.detail.startswith("contract: 1 runs before")
    owner.ask(ReferenceEnclave(agreement.signed).request(owner))  # another contract is another agreement


def test_real_accountant_refuses_by_the_figures(tmp_path):
    agreement = make_agreement(tmp_path, Budget.of("0.4", "1e-5"))
    owner = agreement.owners[0]
    from myelin.privacy import epsilon

    owner.restart(accountant=epsilon)
    cost = epsilon([agreement.contract.event.to_map()], 1e-5)
    assert cost > 0.4
    error = refused(owner, ReferenceEnclave(agreement.signed).request(owner), "budget_exhausted")
    assert f"{cost:.6g}" in error.detail


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("wrong_measurement", {"measurement": digest(b"other image")}),
        ("evidence_refused", {"report_data": bytes(64)}),
        ("evidence_unreadable", {"report_data": bytes(63)}),
        ("evidence_unreadable", {"extra": 1}),
        ("evidence_refused", {"key": Identity.generate("x").public.signing_key}),
    ],
)
def test_evidence_that_says_something_else(agreement, enclave, name, change):
    owner = agreement.owners[0]
    request = enclave.request(owner)
    challenge = owner.ask({"verb": "challenge"})
    from myelin.wire import report_data

    data = report_data(
        0, nonce=challenge["nonce"], hpke_key=enclave.hpke_key, signing_key=enclave.signing_key,
        measurement=enclave.measurement, contract=agreement.signed.digest, policy=POLICY.digest,
    )  # fmt: skip
    request |= {"nonce": challenge["nonce"], "evidence": enclave.evidence(data, **change)}
    refused(owner, request, name)


def test_another_image_is_refused(agreement):
    owner = agreement.owners[0]
    other = ReferenceEnclave(agreement.signed, measurement=digest(b"other image"))
    error = refused(owner, other.request(owner), "wrong_measurement")
    assert "measurement" in error.detail and "report data" in error.detail


def test_evidence_of_an_earlier_boot_or_nonce(agreement, enclave):
    owner = agreement.owners[0]
    old = enclave.request(owner)
    new = ReferenceEnclave(agreement.signed)
    request = new.request(owner)
    refused(owner, {**request, "evidence": old["evidence"]}, "evidence_refused")
    refused(owner, {**new.request(owner), "nonce": old["nonce"]}, "evidence_refused")
    owner.ask(old)
    refused(owner, old, "nonce_unknown", debits=1)


def test_nonces_live_ten_minutes_and_one_process(agreement, enclave):
    owner = agreement.owners[0]
    request = enclave.request(owner)
    owner.now_s += 601
    refused(owner, request, "nonce_unknown")
    owner.now_s -= 601
    request = enclave.request(owner)
    owner.restart()
    refused(owner, request, "nonce_unknown")
    request = enclave.request(owner)
    foreign = agreement.owners[1].ask({"verb": "challenge"})["nonce"]
    request |= {"nonce": foreign, "evidence": enclave.attest(foreign, POLICY.digest)}
    refused(owner, request, "nonce_unknown")


def test_open_nonces_are_bounded():
    nonces = Nonces()
    first = nonces.issue(0.0)
    for _ in range(4096):
        last = nonces.issue(0.0)
    with pytest.raises(ProtocolError, match="nonce_unknown"):
        nonces.use(first, 1.0)
    nonces.use(last, 1.0)


@pytest.mark.parametrize("skip", ["north", "south", "researcher"])
def test_one_signature_missing(agreement, skip):
    owner = agreement.owners[0]
    signed = agreement.sign(agreement.contract, skip=skip)
    error = refused(owner, ReferenceEnclave(signed).request(owner), "signature_missing")
    assert skip in error.detail


def test_signature_of_another_contract(agreement):
    owner = agreement.owners[0]
    other = agreement.changed(name="another")
    mixed = SignedContract(
        other.contract_bytes, (*other.signatures[:2], agreement.signed.signatures[2]), other.contract
    )
    refused(owner, ReferenceEnclave(mixed).request(owner), "signature_invalid")


def test_contract_terms_that_a_broker_refuses(agreement):
    owner = agreement.owners[0]
    datasets = agreement.contract.datasets
    swapped = (replace(datasets[0], digest=digest(b"x")), datasets[1])
    cases = [
        ("contract_expired", {"expires_s": NOW_S}),
        ("wrong_policy", {"policy": Policy.production().digest}),
        ("dataset_unknown", {"datasets": swapped}),
    ]
    for name, change in cases:
        refused(owner, ReferenceEnclave(agreement.changed(**change)).request(owner), name)


def test_contract_without_this_owner(agreement):
    stranger = Identity.generate("stranger")
    public = stranger.public
    parties = (
        Party("north", "owner", public.signing_key, public.sealing_key),
        *agreement.contract.parties[1:],
    )
    signed = SignedContract.unsigned(replace(agreement.contract, parties=parties))
    for identity in (stranger, agreement.owners[1].identity, agreement.researcher):
        signed = signed.sign(identity)
    refused(agreement.owners[0], ReferenceEnclave(signed).request(agreement.owners[0]), "not_a_party")
    # own signing key, another's sealing key
    own = agreement.owners[0].identity
    parties = (replace(parties[0], signing_key=own.public.signing_key), *parties[1:])
    signed = SignedContract.unsigned(replace(agreement.contract, parties=parties))
    refused(agreement.owners[0], ReferenceEnclave(signed).request(agreement.owners[0]), "signature_missing")


def test_researchers_key_is_no_owners(agreement, enclave):
    owner = agreement.owners[0]
    owner.identity = agreement.researcher
    owner.restart()
    refused(owner, enclave.request(owner), "not_a_party")


def test_broker_for_one_contract_only(agreement):
    owner = agreement.owners[0]
    owner.restart(contract=agreement.signed.digest)
    refused(owner, ReferenceEnclave(agreement.changed(name="another")).request(owner), "wrong_contract")
    owner.ask(ReferenceEnclave(agreement.signed).request(owner))


def test_production_policy_refuses_simulated_evidence(agreement):
    owner = agreement.owners[0]
    owner.restart(policy=Policy.production())
    signed = agreement.changed(policy=Policy.production().digest)
    error = refused(owner, ReferenceEnclave(signed).request(owner), "evidence_refused")
    assert "kind of evidence" in error.detail


def test_resume_gives_the_deposited_share_and_is_not_debited(agreement, enclave):
    for owner in agreement.owners:
        refused(owner, enclave.request(owner, "resume"), "no_share")
        enclave.accept(owner.ask(enclave.request(owner)))
    for party, sealed, signature in enclave.shares():
        owner = agreement.owners[party]
        receipt = owner.ask(enclave.deposit_request(sealed, signature))["receipt"]
        signed = verify1(receipt, RECEIPT_TYPE, owner.identity.public.signing_key)
        assert decode(signed) == [agreement.signed.digest, enclave.boot, party, digest(sealed)]
        owner.restart()
        assert owner.ask(enclave.deposit_request(sealed, signature))["receipt"] == receipt
    second = ReferenceEnclave(agreement.signed)
    for owner in agreement.owners:
        answer = owner.ask(second.request(owner, "resume"))
        assert (answer["debited"], owner.debits()) == (False, 1)
        assert second.accept(answer)["run"] == enclave.boot
        assert owner.ask(second.request(owner, "resume"))["grant"] == answer["grant"]
    assert second.resume() == enclave.job_key
    # a boot that was only resumed cannot put other shares in the place of the run's
    second.run = second.boot
    for party, sealed, signature in second.shares():
        owner = agreement.owners[party]
        refused(owner, second.deposit_request(sealed, signature), "out_of_order", debits=1)
    # the boot that was resumed asks for a new run: that is paid for
    assert agreement.owners[0].ask(second.request(agreement.owners[0], "fresh"))["debited"]


def test_deposits_that_are_refused(agreement, enclave):
    owner = agreement.owners[0]
    (party, sealed, signature), other = enclave.shares()
    refused(owner, enclave.deposit_request(sealed, signature), "out_of_order")
    owner.ask(enclave.request(owner))
    stranger = ReferenceEnclave(agreement.signed)
    stranger.run = enclave.boot
    cases = [
        ("signature_invalid", (sealed, stranger.sign_deposit(party, sealed))),
        ("signature_invalid", (sealed, enclave.sign_deposit(1, sealed))),
        ("signature_invalid", (sealed + b"x", signature)),
        ("deposit_unsealable", (other[1], enclave.sign_deposit(party, other[1]))),
        ("malformed_message", (sealed, signature[:-1])),
        ("malformed_message", (bytes(4096), signature)),
    ]
    for name, (content, sign) in cases:
        refused(owner, enclave.deposit_request(content, sign), name, debits=1)
    wrong_run = encode({"run": bytes(32), "share": bytes(32), "check": bytes(32)})
    context = info("myelin/share/v1", agreement.signed.digest, enclave.boot, party)
    inside = seal_to(owner.identity.public.sealing_key, wrong_run, context)
    request = enclave.deposit_request(inside, enclave.sign_deposit(party, inside))
    refused(owner, request, "deposit_unsealable", debits=1)
    owner.ask(enclave.deposit_request(sealed, signature))
    again = enclave.shares()[0]
    refused(owner, enclave.deposit_request(*again[1:]), "already_given", debits=1)
    request = enclave.deposit_request(sealed, signature) | {"contract": bytes(32)}
    refused(owner, request, "out_of_order", debits=1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("malformed_message", {"nonce": bytes(31)}),
        ("malformed_message", {"hpke_key": bytes(1215)}),
        ("malformed_message", {"hpke_key": b"\xff" * 1216}),
        ("malformed_message", {"signing_key": bytes(64)}),
        ("malformed_message", {"mode": "again"}),
        ("malformed_message", {"mode": 1}),
        ("malformed_message", {"contract": "text"}),
        ("malformed_message", {"contract": bytes(300 << 10)}),
        ("malformed_message", {"evidence": bytes(257 << 10)}),
        ("contract_malformed", {"contract": b"\x80"}),
        ("evidence_unreadable", {"evidence": b"\x80"}),
        ("unknown_field", {"extra": 1}),
        ("unknown_message", {"verb": "debit"}),
        ("unknown_message", {"verb": 1}),
    ],
)
def test_requests_out_of_form(agreement, enclave, name, change):
    refused(agreement.owners[0], {**enclave.request(agreement.owners[0]), **change}, name)


def test_frames_out_of_form(agreement):
    broker = agreement.owners[0].broker
    for frame, name in [
        (b"", "malformed_message"),
        (b"\xa0", "unknown_message"),
        (b"\x80", "malformed_message"),
        (b"\xff" * 10, "malformed_message"),
        (bytes((1 << 20) + 1), "oversized_message"),
        (encode({"verb": "challenge"}) + b"\0", "malformed_message"),
        (encode({"verb": "release"}), "malformed_message"),
    ]:
        answer = decode(broker.answer(frame))
        assert (answer["ok"], answer["name"]) == (False, name)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=80)
    | st.dictionaries(
        st.sampled_from(["verb", "contract", "evidence", "nonce", "mode", "boot", "sealed", "signature"]),
        st.sampled_from(["challenge", "release", "deposit", "fresh"])
        | st.binary(max_size=40)
        | st.integers(0, 9),
        max_size=6,
    ).map(encode)
)
def test_any_frame_is_answered(agreement, frame):
    """Whatever comes, an answer of the protocol's form goes out, and nothing is debited."""
    answer = decode(agreement.owners[0].broker.answer(frame))
    assert not answer["ok"] or set(answer) == {"ok", "nonce", "policy"}
    assert answer["ok"] or answer["error"] in {kind.number for kind in ERRORS.values()}


def test_every_byte_of_a_release_matters(agreement: Agreement, enclave):
    """Flip one bit at a time, all over a request: refused, no debit."""
    owner = agreement.owners[0]
    request = enclave.request(owner)
    for key in ("contract", "evidence", "hpke_key", "signing_key", "nonce"):
        step = max(1, len(request[key]) // 25)
        for place in range(0, len(request[key]), step):
            flipped = bytearray(request[key])
            flipped[place] ^= 1 << (place % 8)
            with pytest.raises(ProtocolError):
                owner.ask({**request, key: bytes(flipped)})
    assert owner.debits() == 0


def test_logs_hold_no_secret(agreement, enclave, caplog):
    caplog.set_level("DEBUG")
    owner = agreement.owners[0]
    owner.ask(enclave.request(owner))
    _, sealed, signature = enclave.shares()[0]
    owner.ask(enclave.deposit_request(sealed, signature))
    refused(owner, {"verb": "x"}, "unknown_message", debits=1)
    assert "released" in caplog.text and "refused" in caplog.text
    share = owner.broker._ledger.shares(agreement.signed.digest)[0]
    for secret in (owner.data_key, share.share, share.check):
        assert secret.hex() not in caplog.text + repr(share) + repr(owner.identity)
