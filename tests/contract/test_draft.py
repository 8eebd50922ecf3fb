"""From contract.toml to bytes: what it says, what the files say, and what does not fit together."""

import struct

import cbor2
import pytest

from myelin.attest import Policy
from myelin.contract import Budget, DatasetHeader, Draft, draft_contract, read_image_facts
from myelin.errors import InputError
from myelin.wire import digest
from reference_enclave import EVENT, NOW_S, POLICY, schema

MECHANISM = {
    k: v
    for k, v in EVENT.to_map().items()
    if not isinstance(v, str) and k not in ("dataset_size", "parameters")
}
PLAN = {
    "version": 1,
    "tensors": [[0, 0, [10, 9]], [4096, 0, [10]]],
    "roles": {"parameters": [{"name": "w", "value": 0}, {"name": "b", "value": 1}]},
    "data": {"max_records": 40, "record_bytes": 16, "classes": 2},
    "dp": {**MECHANISM, "grid": 0.5},
}


def elf(plan=PLAN, manifest=None):
    """The smallest ELF64 file with the two sections that a contract needs."""
    manifest = {"schema_digest": schema().digest} if manifest is None else manifest
    names = b"\0.myelin.plan\0.myelin.manifest\0.shstrtab\0"
    bodies = [cbor2.dumps(plan), cbor2.dumps(manifest), names]
    content, headers = b"", bytes(64)
    for body, name in zip(bodies, (1, 14, 31), strict=True):
        headers += struct.pack(
            "<IIQQQQIIQQ", name, 3 if body is names else 1, 0, 0, 64 + len(content), len(body), 0, 0, 1, 0
        )
        content += body
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(content), 0, 64, 0, 0, 64, 4, 3)
    return head + content + headers


BASE = """
name = "two hospitals"
image = "run.image"
policy = "insecure-simulated"
expires = 2030-01-01T00:00:00Z
recipients = ["researcher", "north"]
release_records = true
[[parties]]
name = "north"
role = "owner"
public_key = "north.pub"
dataset = "north.sealed"
budget = { epsilon = 3.0, delta = 1e-5 }
[[parties]]
name = "south"
role = "owner"
public_key = "south.pub"
dataset = "south.sealed"
budget = { epsilon = 2, delta = 1e-6 }
[[parties]]
name = "researcher"
role = "researcher"
public_key = "researcher.pub"
"""


@pytest.fixture
def folder(tmp_path, agreement):
    for identity in agreement.parties:
        (tmp_path / f"{identity.name}.pub").write_text(identity.public.to_toml())
    (tmp_path / "run.image").write_bytes(elf())
    return tmp_path


def drafted(folder, text=BASE):
    (folder / "contract.toml").write_text(text)
    return draft_contract(Draft.load(folder / "contract.toml"), folder, now_s=NOW_S)


def test_everything_is_taken_from_the_files(folder, agreement):
    contract = drafted(folder).contract
    image = (folder / "run.image").read_bytes()
    assert (contract.measurement, contract.plan) == (digest(image), digest(cbor2.dumps(PLAN)))
    assert contract.event == EVENT
    assert contract.datasets == agreement.contract.datasets
    assert contract.parties == agreement.contract.parties
    assert contract.budgets == (Budget.of("3", "1e-5"), Budget.of("2", "1e-6"))
    assert (contract.recipients, contract.policy) == ((0, 2), POLICY.digest)
    assert (contract.release_records, contract.release_nonfinite) == (True, False)
    assert contract.expires_s == 1_893_456_000


def test_facts_given_instead_of_files(folder, agreement):
    image = folder / "run.image"
    facts = read_image_facts(image)
    whole = drafted(folder)
    event = "".join(f"{k} = {v!r}\n" for k, v in EVENT.to_map().items() if k != "dataset_size").replace(
        "'", '"'
    )
    given = f'measurement = "{facts.measurement.hex()}"\nplan = "{facts.plan.hex()}"\n'
    dataset = agreement.contract.datasets[0]
    inline = (
        f'dataset = {{ digest = "{dataset.digest.hex()}", '
        f'schema_digest = "{dataset.schema.hex()}", records = 10 }}'
    )
    text = BASE.replace('image = "run.image"\n', given).replace('dataset = "north.sealed"', inline)
    image.unlink()
    assert drafted(folder, text + f"[event]\n{event}").digest == whole.digest
    with pytest.raises(InputError, match="event: give image"):
        drafted(folder, text)
    with pytest.raises(InputError, match="measurement: give image"):
        drafted(folder, text.replace("measurement", "#") + f"[event]\n{event}")


def test_policies(folder):
    production = drafted(folder, BASE.replace("insecure-simulated", "production")).contract.policy
    assert production == Policy.production().digest
    assert drafted(folder, BASE.replace("insecure-simulated", "ab" * 32)).contract.policy == b"\xab" * 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name = "two hospitals"', 'name = "two hospitals"\ncolour = "red"'), "colour: Extra inputs"),
        (('role = "owner"', 'role = "boss"'), "parties.0.role"),
        (("budget = { epsilon = 3.0, delta = 1e-5 }", ""), "'north' is an owner: give dataset and budget"),
        (('dataset = "north.sealed"', ""), "'north' is an owner: give dataset and budget"),
        (("budget = { epsilon = 3.0", "budget = { epsilon = 0"), "epsilon: expected a number"),
        (("delta = 1e-5", "delta = 2"), "delta: expected less than 1"),
        (("2030-01-01T00:00:00Z", "2030-01-01T00:00:00"), "time zone"),
        (("2030-01-01T00:00:00Z", "2020-01-01T00:00:00Z"), "in the future"),
        (('["researcher", "north"]', '["somebody"]'), "recipients: expected names of parties"),
        (('["researcher", "north"]', "[]"), "recipients"),
        (('policy = "insecure-simulated"', 'policy = "simulated"'), "policy"),
        (('name = "south"', 'name = "north"'), "distinct names"),
        (('public_key = "south.pub"', 'public_key = "north.pub"'), "distinct keys"),
        (('public_key = "south.pub"', 'public_key = "none.pub"'), "none.pub: cannot be read"),
        (('dataset = "south.sealed"', 'dataset = "run.image"'), "expected a sealed dataset"),
        (('image = "run.image"', 'image = "north.pub"'), "expected a Myelin image"),
        (
            ('image = "run.image"', f'image = "run.image"\nplan = "{"00" * 32}"'),
            "plan: contract.toml says 00",
        ),
        (('image = "run.image"', 'image = "run.image"\nplan = "00"'), "plan"),
        (("[[parties]]", "[[parties]"), "expected TOML"),
    ],
)
def test_what_does_not_fit(folder, change, message):
    with pytest.raises(InputError, match=message):
        drafted(folder, BASE.replace(*change, 1))


def test_images_and_datasets_that_do_not_fit(folder):
    (folder / "run.image").write_bytes(elf({**PLAN, "data": {"max_records": 29}}))
    with pytest.raises(InputError, match="at most 29 records for this image, got 30"):
        drafted(folder)
    (folder / "run.image").write_bytes(elf(manifest={"schema_digest": bytes(32)}))
    with pytest.raises(InputError, match=r"the image was built for 0000"):
        drafted(folder)
    (folder / "run.image").write_bytes(elf())
    header = DatasetHeader(bytes(32), 20, 16, bytes(32), bytes(32)).to_bytes()
    content = b"MYELDS01" + len(header).to_bytes(4, "little") + header + bytes(336)
    (folder / "south.sealed").write_bytes(content)
    with pytest.raises(InputError, match="'south' sealed with another schema than 'north'"):
        drafted(folder)
    (folder / "south.sealed").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"expected .* bytes for 20 records, got"):
        drafted(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        elf()[:100],
        elf([]),
        elf({**PLAN, "tensors": []}),
        elf({**PLAN, "tensors": [[0, 0, [-1]], [0, 0, [1]]]}),
        elf({**PLAN, "dp": {**MECHANISM, "steps": -1}}),
        elf({**PLAN, "dp": {**MECHANISM, "steps": 1.5}}),
        elf(manifest={}),
        elf(manifest={"schema_digest": bytes(31)}),
    ],
)
def test_files_that_are_no_image(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="expected a Myelin image"):
        read_image_facts(tmp_path / "x")
