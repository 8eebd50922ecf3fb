"""Opening the model: the recipient gets exactly the certified bytes, everybody else nothing."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load

from myelin.certificate import CertificateBundle, SealedModel, open_model
from myelin.contract import Identity
from myelin.errors import CheckError, InputError, ProtocolError
from myelin.wire import decode, encode
from reference_enclave import ReferenceEnclave, make_agreement, safetensors

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
MODEL = safetensors(WEIGHT)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    agreement = make_agreement(tmp_path_factory.mktemp("agreement"))
    enclave = ReferenceEnclave(agreement.signed)
    bundle, (sealed,) = enclave.finish(MODEL)
    return agreement, sealed, CertificateBundle.from_bytes(bundle).certificate


def test_the_recipient_opens_it(world):
    agreement, sealed, certificate = world
    plain = open_model(sealed, agreement.researcher, contract=agreement.signed, certificate=certificate)
    assert plain == MODEL == open_model(sealed, agreement.researcher)
    assert (load(plain)["weight"] == WEIGHT).all()


def test_nobody_else_does(world):
    agreement, sealed, _ = world
    with pytest.raises(CheckError, match="only the key of recipient 2"):
        open_model(sealed, agreement.owners[0].identity)
    with pytest.raises(CheckError, match="sealed to 'researcher', this is the key of 'north'"):
        open_model(sealed, agreement.owners[0].identity, contract=agreement.signed)
    with pytest.raises(ProtocolError, match="not_a_party"):
        open_model(sealed, Identity.generate("x"), contract=agreement.signed)


@pytest.mark.parametrize("field", [1, 2, 3, 4])
def test_altered_places_and_content(world, field):
    agreement, sealed, certificate = world
    array = decode(sealed, most_bytes=1 << 20)
    array[field] = 1 if field == 3 else bytes([array[field][0] ^ 1]) + array[field][1:]
    for options in ({}, {"contract": agreement.signed}, {"certificate": certificate}):
        with pytest.raises(CheckError):
            open_model(encode(array), agreement.researcher, **options)


def test_another_model_of_the_same_run_is_not_the_certified_one(world):
    agreement, _, certificate = world
    enclave = ReferenceEnclave(agreement.signed)
    enclave.run = certificate.run
    _, (other,) = enclave.finish(safetensors(WEIGHT + 1))
    assert open_model(other, agreement.researcher) != MODEL
    with pytest.raises(CheckError, match="expected the file that the certificate names"):
        open_model(other, agreement.researcher, certificate=certificate)


def test_what_comes_out_must_be_what_was_certified(world):
    agreement, sealed, certificate = world
    other = replace(certificate, model=bytes(32))
    with pytest.raises(CheckError, match="model: expected the one in the certificate"):
        open_model(sealed, agreement.researcher, certificate=other)


def test_another_contract(world):
    agreement, sealed, _ = world
    with pytest.raises(CheckError, match="expected of contract"):
        open_model(sealed, agreement.researcher, contract=agreement.changed(name="another"))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", encode(["myelin-sealed-model"]), encode(["x", bytes(32), bytes(32), 0, b""])]
)
def test_files_that_are_no_sealed_model(world, data):
    with pytest.raises(InputError):
        open_model(data, world[0].researcher)
    with pytest.raises(ProtocolError):
        SealedModel.from_bytes(data)


def header(text, size=0):
    return struct.pack("<Q", len(text)) + text.encode() + bytes(size)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        bytes(8),
        struct.pack("<Q", 1 << 60) + b"{}",
        header("[]"),
        header("{"),
        header('{"w": {"data_offsets": [0, 8]}}', 4),
        header('{"w": {"data_offsets": [0, 4]}}', 8),
        header('{"w": {"data_offsets": [4, 8]}}', 8),
        header('{"w": {"data_offsets": [0, 8]}, "v": {"data_offsets": [4, 8]}}', 8),
        header('{"w": 1}', 8),
        header('{"w": {"data_offsets": ["a", "b"]}}', 8),
    ],
)
def test_what_is_no_safetensors_file_is_not_written(world, plain):
    agreement = world[0]
    _, (sealed,) = ReferenceEnclave(agreement.signed).finish(plain)
    with pytest.raises(CheckError, match="expected a safetensors file"):
        open_model(sealed, agreement.researcher)
