"""A whole run among parties who do not trust each other, from keys to a verified certificate.

The parties are processes with folders of their own; everything that one gives another lies in ``exchange/``,
where the untrusted host could change it, and in the brokers' sockets. Each does what a person would do with
the ``myelin`` command, and the commands are written to ``commands.txt``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from myelin.contract import DataSchema
from myelin.demo.datasets import Split
from myelin.demo.networks import accuracy
from myelin.demo.party import Party
from myelin.errors import CheckError, InputError
from myelin.host import best_target

__all__ = ["Scenario", "ScenarioResult", "run_scenario"]

SOCKET_WAIT_S = 20.0
Network = Callable[[Mapping[str, NDArray[np.float32]], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Scenario:
    """What differs between the demos.

    `write_data(path, split, rows)` writes one owner's file.
    """

    title: str
    name: str
    job: Path
    schema_file: Path
    schema: DataSchema
    owners: Sequence[str]
    split: Split
    data_suffix: str
    write_data: Callable[[Path, Split, NDArray[np.int64]], None]
    network: Network
    budget_epsilon: float
    budget_delta: float
    plain_epochs: int
    plain_learning_rate: float

    def as_seen(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Raw features as the model sees them, in float32 as the enclave computes it."""
        scale, offset = (np.asarray(v, np.float32) for v in (self.schema.scale, self.schema.offset))
        seen: NDArray[np.float32] = raw.astype(np.float32) * scale + offset
        return seen


@dataclass(frozen=True)
class ScenarioResult:
    """What ``--json`` prints; paths are absolute."""

    image: Path
    contract: Path
    certificate: Path
    sealed_model: Path
    model: Path
    measurement: str
    epsilon: float
    delta: float
    accuracy: float
    accuracy_non_private: float
    seconds: float
    simulated: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values, keyed as the documentation lists them."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}


def run_scenario(
    scenario: Scenario, workdir: Path, console: Console, threads: int | None = None
) -> ScenarioResult:
    """Run it under `workdir`, telling `console` each step as it happens."""
    with ExitStack() as stack:
        return _Run(scenario, workdir.resolve(), console, threads, stack).go()


class _Run:
    """One run: the parties, where things lie, and the steps in order."""

    def __init__(
        self, scenario: Scenario, workdir: Path, console: Console, threads: int | None, stack: ExitStack
    ) -> None:
        self.scenario, self.workdir, self.console, self.threads = scenario, workdir, console, threads
        self.started = time.monotonic()
        self.exchange = workdir / "exchange"
        if self.exchange.exists():
            raise InputError(f"{workdir} holds an earlier run; give another --workdir, or remove it")
        self.exchange.mkdir(parents=True)
        self.log = stack.enter_context((workdir / "commands.txt").open("w"))
        names = [*scenario.owners, "researcher", "host"]
        self.parties = {name: stack.enter_context(Party(name, workdir / name)) for name in names}
        self.stack = stack

    def go(self) -> ScenarioResult:
        """Every step; the result of the last ones."""
        s, console = self.scenario, self.console
        console.rule(f"[bold]{s.title}[/]  ·  simulated enclave")
        console.print(f"everything is under {self.workdir}\n")
        baseline = self._start_baseline()
        image, measurement = self._keys_and_image()
        self._seal()
        contract = self._agree(image)
        self._start_brokers(contract)
        self._ledgers("before")
        certificate, sealed = self._train(contract, image)
        self._ledgers("after")
        verified = self._verify(certificate, contract)
        model = self._open(sealed, certificate)
        private = self._evaluate(model)
        plain = self._finish_baseline(baseline)
        result = ScenarioResult(
            image=image,
            contract=contract,
            certificate=certificate,
            sealed_model=sealed,
            model=model,
            measurement=measurement,
            epsilon=verified["epsilon"],
            delta=verified["delta"],
            accuracy=private,
            accuracy_non_private=plain,
            seconds=round(time.monotonic() - self.started, 2),
            simulated=verified["simulated"],
        )
        self._summary(result)
        return result

    def _say(self, step: str, text: str) -> None:
        self.console.print(
            f"[bold cyan]{step:>9}[/]  {text}  [dim]{time.monotonic() - self.started:5.1f} s[/]"
        )

    def _tell(self, name: str, *argv: object, show: bool = False) -> None:
        self.log.write(f"{name}$ myelin {' '.join(str(word) for word in argv)}\n")
        self.log.flush()
        self.parties[name].tell(*argv, show=show)

    def _do(self, name: str, *argv: object, show: bool = False) -> dict[str, Any]:
        self._tell(name, *argv, show=show)
        return self.parties[name].hear()

    def _keys_and_image(self) -> tuple[Path, str]:
        signers = [*self.scenario.owners, "researcher"]
        for name in signers:
            self._tell(name, "keygen", name)
        for name in signers:
            self.parties[name].hear()
            public = self.parties[name].folder / f"{name}.pub"
            (self.exchange / public.name).write_bytes(public.read_bytes())
        self._say("keys", f"{', '.join(signers)}: private keys stay in their folders")
        image = self.exchange / f"{self.scenario.name}.myelin"
        built = self._do(
            "researcher",
            "build",
            self.scenario.job,
            "-o",
            image,
            "--target",
            best_target(),
            "--json",
            show=True,
        )
        size = image.stat().st_size
        self._say("build", f"{image.name}, {size:,} bytes, measurement {built['measurement'][:16]}…")
        return image, str(built["measurement"])

    def _seal(self) -> None:
        s = self.scenario
        rows = np.array_split(np.arange(len(s.split.labels)), len(s.owners))
        for name, part in zip(s.owners, rows, strict=True):
            s.write_data(self.parties[name].folder / f"records{s.data_suffix}", s.split, part)
            sealed = self.exchange / f"{name}.sealed"
            words = ["seal", f"records{s.data_suffix}", "--schema", s.schema_file, "--owner", f"{name}.key"]
            budget = ["--epsilon", s.budget_epsilon, "--delta", s.budget_delta]
            self._tell(name, *words, *budget, "-o", sealed)
        for name, part in zip(s.owners, rows, strict=True):
            self.parties[name].hear()
            size = (self.exchange / f"{name}.sealed").stat().st_size
            self._say("seal", f"{name}: {len(part):,} records, {size:,} bytes that only its key opens")

    def _agree(self, image: Path) -> Path:
        s = self.scenario
        draft = self.exchange / "contract.toml"
        draft.write_text(_draft(s, image))
        contract = self.exchange / f"{s.name}.contract"
        self._do("researcher", "contract", "new", draft, "-o", contract)
        for name in [*s.owners, "researcher"]:
            self._do(name, "contract", "sign", contract, "--key", f"{name}.key")
        shown = self._do("host", "contract", "show", contract, "--json", show=True)
        self._say("contract", f"signed by all {len(shown['parties'])}, digest {shown['digest'][:16]}…")
        return contract

    def _start_brokers(self, contract: Path) -> None:
        sockets = []
        for name in self.scenario.owners:
            socket = self.exchange / f"{name}.sock"
            self.log.write(f"{name}$ myelin broker run --owner {name}.key --socket {socket} …\n")
            words = ["broker", "run", "--owner", f"{name}.key", "--contract", contract, "--socket", socket]
            self.parties[name].serve(*words, "--insecure-accept-simulated-evidence")
            sockets.append(socket)
        deadline = time.monotonic() + SOCKET_WAIT_S
        for socket in sockets:
            while not socket.exists():
                if time.monotonic() > deadline:
                    raise CheckError(f"broker did not open {socket} within {SOCKET_WAIT_S:.0f} s")
                time.sleep(0.02)

    def _ledgers(self, when: str) -> None:
        for name in self.scenario.owners:
            self._tell(name, "ledger", "show", "--owner", f"{name}.key", "--json")
        table = Table(title=f"budgets {when}", title_justify="left", box=None)
        for column in ("owner", "spent ε", "of ε", "at δ"):
            table.add_column(column, justify="left" if column == "owner" else "right")
        for name in self.scenario.owners:
            answer = self.parties[name].hear()
            table.add_row(name, *(f"{answer[key]:.6g}" for key in ("spent", "epsilon", "delta")))
        self.console.print(table)

    def _train(self, contract: Path, image: Path) -> tuple[Path, Path]:
        out = self.exchange / "released"
        words: list[object] = ["train", contract, "--image", image, "--out", out, "--json"]
        for name in self.scenario.owners:
            words += ["--broker", f"{name}={self.exchange / f'{name}.sock'}"]
            words += ["--data", f"{name}={self.exchange / f'{name}.sealed'}"]
        if self.threads:
            words += ["--threads", self.threads]
        answer = self._do("host", *words, show=True)
        self._say("train", f"{answer['steps']} steps; the host saw how many, and nothing else")
        return Path(answer["certificate"]), Path(answer["sealed_models"]["researcher"])

    def _verify(self, certificate: Path, contract: Path) -> dict[str, Any]:
        answer = self._do(
            "researcher",
            "verify",
            certificate,
            "--contract",
            contract,
            "--allow-simulated",
            "--json",
            show=True,
        )
        worst = max(answer["privacy"], key=lambda figure: figure["epsilon"])
        self._say("verify", f"every check passed; ε = {worst['epsilon']:.3f} at δ = {worst['delta']:g}")
        return {**worst, "simulated": answer["simulated"]}

    def _open(self, sealed: Path, certificate: Path) -> Path:
        model = self.parties["researcher"].folder / "model.safetensors"
        words = ["open", sealed, "--key", "researcher.key", "--certificate", certificate]
        self._do("researcher", *words, "--allow-simulated", "-o", model)
        self._say("open", f"{model.name}, {model.stat().st_size:,} bytes, for the researcher only")
        return model

    def _evaluate(self, model: Path) -> float:
        from safetensors.numpy import load_file

        s = self.scenario
        return accuracy(s.network(load_file(model), s.as_seen(s.split.test_features)), s.split.test_labels)

    def _start_baseline(self) -> tuple[subprocess.Popen[bytes], Path]:
        s, folder = self.scenario, self.workdir / "without-privacy"
        folder.mkdir(mode=0o700)
        data, out = folder / "data.npz", folder / "model.npz"
        np.savez(data, features=s.as_seen(s.split.features), labels=s.split.labels.astype(np.int32))
        words = [str(s.job), str(data), str(s.plain_epochs), str(s.plain_learning_rate), str(out)]
        command = [sys.executable, "-m", "myelin.demo.baseline", *words]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)  # noqa: S603
        self.stack.callback(process.kill)
        return process, out

    def _finish_baseline(self, baseline: tuple[subprocess.Popen[bytes], Path]) -> float:
        process, out = baseline
        _, error = process.communicate()
        if process.returncode != 0:
            raise CheckError(f"the non-private run failed:\n{error.decode()[-2000:]}")
        s = self.scenario
        with np.load(out, allow_pickle=False) as parameters:
            return accuracy(
                s.network(dict(parameters), s.as_seen(s.split.test_features)), s.split.test_labels
            )

    def _summary(self, result: ScenarioResult) -> None:
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column()
        table.add_column(overflow="fold")
        table.add_row(
            "test accuracy",
            f"[bold]{result.accuracy:.1%}[/]  (without privacy {result.accuracy_non_private:.1%})",
        )
        table.add_row("privacy", f"ε = {result.epsilon:.3f} at δ = {result.delta:g}, per record")
        for key in ("image", "contract", "certificate", "sealed_model", "model"):
            table.add_row(key.replace("_", " "), _shown(getattr(result, key)))
        table.add_row("time", f"{result.seconds:.1f} s")
        self.console.rule()
        self.console.print(table)
        self.console.print(
            "[yellow]simulated[/]: the enclave's evidence is real in form and proves nothing about hardware"
        )


def _shown(path: Path) -> str:
    """A path as short as it is clear: relative where it lies below the present folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)


def _draft(scenario: Scenario, image: Path) -> str:
    """``contract.toml`` as the researcher writes it; paths are relative to it."""
    lines = [
        f'name = "{scenario.title}"',
        f'image = "{image.name}"',
        'policy = "insecure-simulated"',
        f"expires = {datetime.now(timezone.utc) + timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}",
        'recipients = ["researcher"]',
        "release_records = true",
        "release_nonfinite = false",
    ]
    for name in scenario.owners:
        lines += [
            "",
            "[[parties]]",
            f'name = "{name}"',
            'role = "owner"',
            f'public_key = "{name}.pub"',
            f'dataset = "{name}.sealed"',
            f"budget = {{ epsilon = {scenario.budget_epsilon}, delta = {scenario.budget_delta} }}",
        ]
    lines += [
        "",
        "[[parties]]",
        'name = "researcher"',
        'role = "researcher"',
        'public_key = "researcher.pub"',
    ]
    return "\n".join(lines) + "\n"
