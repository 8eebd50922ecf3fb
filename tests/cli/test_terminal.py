"""What strangers wrote, on people's screens: shown as it stands, never as markup or control sequences."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table

from myelin.cli import app, contract, inspect, train
from myelin.cli.progress import console, plain
from myelin.contract import SignedContract
from myelin.errors import HostError
from myelin.train import TrainEvent, TrainResult
from reference_enclave import make_agreement

FAKE = r"[bold green]VERIFIED[/] \[red]every check passed"
CONTROL = "\x1b[2J\x1b]0;title\x07\x9b1m"


def test_control_characters_never_reach_the_terminal():
    table = Table(CONTROL)
    table.add_row(CONTROL)
    with console.capture() as capture:
        console.print(CONTROL, markup=False)
        console.print(table)
    assert not {"\x1b", "\x07", "\x9b"} & set(capture.get())
    assert "�[2J" in capture.get()


def test_plain_text_keeps_its_brackets_and_stays_on_its_line():
    with console.capture() as capture:
        console.print(plain({"a": [FAKE, "one\ntwo"], "n": 3})["a"][0], plain("one\ntwo"), soft_wrap=True)
    assert capture.get() == f"{FAKE} one�two\n"


@pytest.mark.parametrize("text", [FAKE, "[/]", "a\\", CONTROL])
def test_an_error_that_quotes_a_stranger(text, monkeypatch):
    def fail(**_: object) -> None:
        raise HostError(text)

    monkeypatch.setattr(app, "app", fail)
    with console.capture() as capture:
        assert app.run([]) == 1
    shown = capture.get().replace("\n", " ")
    assert shown.startswith("error: ")
    assert "\x1b" not in shown
    assert text is CONTROL or text in shown


def test_a_partys_name_is_shown_as_it_stands(tmp_path, monkeypatch):
    agreement = make_agreement(tmp_path)
    parties = (replace(agreement.contract.parties[0], name=FAKE), *agreement.contract.parties[1:])
    signed = SignedContract.unsigned(replace(agreement.contract, parties=parties))
    signed.save(tmp_path / "c.contract")
    monkeypatch.setattr(contract, "default_accountant", lambda events, delta: 1.0)
    monkeypatch.setattr(console, "width", 300)
    with console.capture() as capture:
        contract.show_command(tmp_path / "c.contract")
    assert FAKE in capture.get()

    def run(job: object, watch: object) -> TrainResult:
        watch(TrainEvent("grant", FAKE, 1, 3))
        return TrainResult(Path("c"), {FAKE: Path("m")}, bytes(32), 1, 1.0, {})

    monkeypatch.setattr(train, "train", run)
    with console.capture() as capture:
        train.train_command(tmp_path / "c.contract", Path("i"), [], [], tmp_path)
    assert f"grant  {FAKE} (1/3)" in capture.get()
    assert f"(for {FAKE})" in capture.get()


def test_an_images_own_words_are_no_markup(monkeypatch):
    shown = []
    manifest = {"name": FAKE, "dp": {"dataset_size": 1}}
    monkeypatch.setattr(inspect, "read_manifest", lambda _: manifest)
    monkeypatch.setattr(inspect, "check_image", lambda _: None)
    monkeypatch.setattr(inspect, "default_accountant", lambda *_: 1.0)
    monkeypatch.setattr(inspect, "_print", lambda _, measurement, words, *rest: shown.append(words))
    monkeypatch.setattr(inspect, "read_image_facts", lambda _: _Facts())
    inspect.inspect_command(Path("image"))
    assert shown[0]["name"] == plain(FAKE) != FAKE


class _Facts:
    measurement = b"m"

    def event(self, _: int) -> "_Facts":
        return self

    def to_map(self) -> dict[str, object]:
        return {}
