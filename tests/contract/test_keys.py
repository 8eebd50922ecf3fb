"""Key files: private ones stay private and whole; damaged ones are refused without showing anything."""

import os
import re

import pytest

from myelin.contract import Identity, PublicIdentity
from myelin.errors import InputError


@pytest.fixture
def identity():
    return Identity.generate("north")


def test_files_hold_the_keys(tmp_path, identity):
    private, public = identity.save(tmp_path)
    assert (private.name, public.name) == ("north.key", "north.pub")
    assert private.stat().st_mode & 0o777 == 0o600
    assert Identity.load(private).public == PublicIdentity.load(public) == identity.public
    assert Identity.load(private).derive("a", b"s") == identity.derive("a", b"s")
    assert identity.derive("a", b"s") != identity.derive("b", b"s") != identity.derive("b", b"t")
    assert sorted(os.listdir(tmp_path)) == ["north.key", "north.pub"]


@pytest.mark.parametrize("existing", ["north.key", "north.pub"])
def test_never_overwritten(tmp_path, identity, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(InputError, match="never overwritten"):
        identity.save(tmp_path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["precious"]


def test_passphrase(tmp_path, identity):
    private, _ = identity.save(tmp_path, passphrase="correct horse")
    assert Identity.is_encrypted(private)
    assert Identity.load(private, passphrase="correct horse").public == identity.public
    with pytest.raises(InputError, match="wrong passphrase"):
        Identity.load(private, passphrase="correct hors")
    with pytest.raises(InputError, match="a passphrase is needed"):
        Identity.load(private)


def test_others_may_not_read_it(tmp_path, identity):
    private, _ = identity.save(tmp_path)
    private.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        Identity.load(private)


@pytest.mark.parametrize("encrypted", [None, "pass"])
def test_damaged_files_show_nothing(tmp_path, identity, encrypted):
    private, _ = identity.save(tmp_path, passphrase=encrypted)
    text = private.read_text()
    secret = re.search('secret = "(.*)"', text)[1]
    for altered in (
        text.replace(secret, secret[:-4]),
        text.replace(secret, "?" + secret[1:]),
        text.replace(secret, ""),
        text.replace('"\n', "\n"),
        text.replace("version = 1", "version = 2"),
        text + "extra = 1\n",
        "",
        "\xff",
    ):
        private.write_text(altered, "latin-1")
        with pytest.raises(InputError) as caught:
            Identity.load(private, passphrase=encrypted)
        assert secret[5:25] not in str(caught.value)
    if encrypted:
        private.write_text(text.replace(secret, ("B" if secret[0] == "A" else "A") + secret[1:]))
        with pytest.raises(InputError, match="wrong passphrase, or the file was altered"):
            Identity.load(private, passphrase=encrypted)


def test_public_files_that_are_refused(tmp_path, identity):
    _, public = identity.save(tmp_path)
    text = public.read_text()
    signing = re.search('signing_key = "(.*)"', text)[1]
    for altered in (
        text.replace(signing, "BA" + "A" * (len(signing) - 4) + "A="),
        text.replace(signing[:8], ""),
    ):
        public.write_text(altered)
        with pytest.raises(InputError):
            PublicIdentity.load(public)
    with pytest.raises(InputError, match="cannot be read"):
        PublicIdentity.load(tmp_path / "none.pub")


@pytest.mark.parametrize("name", ["", "a\n", "x" * 129])
def test_names(name):
    with pytest.raises(InputError, match="printable"):
        Identity.generate(name)


def test_names_that_are_no_files(tmp_path):
    with pytest.raises(InputError, match="name of a file"):
        Identity.generate("../up").save(tmp_path)


def test_nothing_secret_in_its_text(identity):
    assert repr(identity) == str(identity) == "Identity(name='north')"
    assert len(identity.public.fingerprint) == 32
