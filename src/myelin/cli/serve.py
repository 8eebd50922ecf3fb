"""``myelin broker serve``: an owner's broker as a service, and ``myelin log serve``."""

from __future__ import annotations

import json
import logging
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from myelin.attest import AppraisalPolicy, Policy
from myelin.broker import (
    AnchorSettings,
    Face,
    Listen,
    Metrics,
    Rates,
    Service,
    TrusteeKeys,
    application,
    call_http,
    exchange_with,
    listen_on,
    serve_http,
)
from myelin.cli import trust
from myelin.cli.identity import load_identity, store_path, witness_path
from myelin.cli.progress import console
from myelin.contract import (
    Broker,
    Connect,
    PublicIdentity,
    SignedContract,
    Store,
    Surroundings,
    Transport,
    connect_to,
)
from myelin.errors import InputError, ProtocolError
from myelin.log import Journal, Log, LogClient
from myelin.log.log import VERBS

__all__ = ["serve_command", "serve_log_command"]

_Socket = Annotated[Path | None, typer.Option(help="listen on this Unix socket, for its owner alone")]
_Listen = Annotated[str | None, typer.Option("--listen", help="HOST:PORT; another machine's needs TLS")]
_Certificate = Annotated[Path | None, typer.Option(help="TLS certificate chain (PEM)")]
_TlsKey = Annotated[Path | None, typer.Option(help="TLS private key (PEM)")]


def _listen(socket: Path | None, address: str | None, certificate: Path | None, key: Path | None) -> Listen:
    pair = None
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise InputError(f"--listen: expected HOST:PORT, got {address!r}")
        pair = (host.strip("[]"), int(port))
    return listen_on(socket, pair, certificate, key)


_Owner = Annotated[Path, typer.Option(help="the owner's private key, NAME.key")]
_Store = Annotated[Path | None, typer.Option(help="the owner's store; default: beside the key")]
_Audit = Annotated[Path | None, typer.Option(help="the audit log; default: beside the key")]
_Contract = Annotated[
    Path | None, typer.Option(help="serve only this contract; default: any that this owner has signed")
]
_Policy = Annotated[str, typer.Option(help=trust.POLICY_HELP)]
_Reference = Annotated[list[Path] | None, typer.Option(help=trust.REFERENCE_HELP)]
_Endorsements = Annotated[
    list[Path] | None, typer.Option(help=f"{trust.ENDORSEMENTS_HELP}; read anew for each request")
]
_Tpm = Annotated[Path | None, typer.Option(help="anchor by this TPM: /dev/tpmrm0, or the socket of swtpm")]
_TpmIndex = Annotated[str, typer.Option(help="its NV index, of its own for each ledger")]
_Witness = Annotated[
    list[str] | None, typer.Option(help="OWNER=ADDRESS of another owner's broker, for contracts that ask")
]
_Log = Annotated[str | None, typer.Option(help="anchor by the log at this address")]
_LogKey = Annotated[Path | None, typer.Option(help="the log's public key, NAME.pub")]
_Ca = Annotated[
    Path | None, typer.Option(help="certificates (PEM) to trust for witnesses and log, not the system's")
]
_Trustee = Annotated[str | None, typer.Option(help="get data keys from the Trustee KBS at https://HOST:PORT")]
_TrusteeResources = Annotated[str, typer.Option(help="its REPOSITORY/TYPE")]
_TrusteeTee = Annotated[str, typer.Option(help="this machine's kind, in Trustee's words: snp, tdx, …")]
_TrusteeEvidence = Annotated[
    Path | None, typer.Option(help="program that gets report data in hex and prints evidence as JSON")
]
_DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="check every request, say what would be released, release nothing"),
]
_InsecureAcceptSimulatedEvidence = Annotated[
    bool,
    typer.Option(
        "--insecure-accept-simulated-evidence",
        help="a rehearsal: release keys to SIMULATED enclaves, which keep no secret",
    ),
]
_PassphraseFile = Annotated[Path | None, typer.Option(help="file with the passphrase of an encrypted key")]


def serve_command(
    owner: _Owner,
    socket: _Socket = None,
    listen: _Listen = None,
    tls_certificate: _Certificate = None,
    tls_key: _TlsKey = None,
    store: _Store = None,
    audit: _Audit = None,
    contract: _Contract = None,
    policy: _Policy = "production",
    reference: _Reference = None,
    endorsements: _Endorsements = None,
    tpm: _Tpm = None,
    tpm_index: _TpmIndex = "0x01800100",
    witness: _Witness = None,
    log: _Log = None,
    log_key: _LogKey = None,
    ca: _Ca = None,
    trustee: _Trustee = None,
    trustee_resources: _TrusteeResources = "myelin/data-key",
    trustee_tee: _TrusteeTee = "snp",
    trustee_evidence: _TrusteeEvidence = None,
    dry_run: _DryRun = False,
    insecure_accept_simulated_evidence: _InsecureAcceptSimulatedEvidence = False,
    passphrase_file: _PassphraseFile = None,
) -> None:
    """Run an owner's key broker as a service, until SIGTERM. The operator's page is docs/broker.md.

    Example:

      myelin broker serve --owner north.key --listen 0.0.0.0:8443 \\
        --tls-certificate north.crt --tls-key north.tls --tpm /dev/tpmrm0
    """
    appraisal = _policy(policy, insecure_accept_simulated_evidence)
    trust.endorsements(endorsements)  # what is missing is told now
    identity = load_identity(owner, passphrase_file)
    signed = SignedContract.load(contract) if contract is not None else None
    around = Surroundings()

    def connect(address: str) -> Transport:
        return connect_to(address, ca=ca)

    client = _log_client(log, log_key, owner.with_suffix(".log-seen"), connect, around)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    where, seen = store_path(owner, store), witness_path(owner)
    with Store.open(where, identity, witness=seen, surroundings=around) as opened:
        service = Service(
            identity,
            opened,
            appraisal,
            anchors=AnchorSettings(
                exchange_with(tpm) if tpm else None, _index(tpm_index), client, _addresses(witness or [])
            ),
            connect=connect,
            audit=audit or owner.with_suffix(".audit.jsonl"),
            surroundings=around,
            contract=signed.digest if signed else None,
            known=trust.references(reference),
            endorsements=lambda: trust.endorsements(endorsements),
            rehearse=dry_run,
            data_keys=_trustee(trustee, trustee_resources, trustee_tee, trustee_evidence, ca),
        )
        _print_outlook(service.broker, signed, dry_run)
        bound = _listen(socket, listen, tls_certificate, tls_key)
        console.print(
            f"{identity.name}: broker at {socket or listen}, policy {appraisal.name}", soft_wrap=True
        )
        _run(service, bound)
    console.print(f"{identity.name}: broker stopped")


def _run(service: Service, bound: Listen) -> None:
    service.start()
    try:
        serve_http(service.application(), bound)
    finally:
        service.stop()


def _policy(name: str, insecure: bool) -> AppraisalPolicy:
    if not insecure:
        return trust.policy(name)
    console.print("[bold yellow]INSECURE[/] simulated enclaves get this owner's key; use it with test data")
    return Policy.insecure_accepting_simulated_evidence()


def _log_client(
    log: str | None, key: Path | None, seen: Path, connect: Connect, around: Surroundings
) -> LogClient | None:
    if log is None or key is None:
        if (log is None) != (key is None):
            raise InputError("--log, --log-key: give both or none")
        return None
    return LogClient(log, PublicIdentity.load(key).signing_key, connect, around, seen)


def _trustee(
    address: str | None, resources: str, tee: str, program: Path | None, ca: Path | None
) -> TrusteeKeys | None:
    if address is None:
        return None
    if program is None:
        raise InputError("--trustee: give --trustee-evidence too, which makes this machine's evidence")

    def attest(report_data: bytes) -> dict[str, Any]:
        words = [str(program), report_data.hex()]
        try:
            done = subprocess.run(words, capture_output=True, timeout=60, check=True)  # noqa: S603
            evidence = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ProtocolError.named(
                "key_unavailable", f"{program}: gave no evidence ({error.__class__.__name__})"
            ) from None
        if not isinstance(evidence, dict):
            raise ProtocolError.named("key_unavailable", f"{program}: expected a JSON object")
        return evidence

    return TrusteeKeys(call_http(address, ca=str(ca) if ca else None), attest, tee, resources)


def _print_outlook(broker: Broker, signed: SignedContract | None, dry_run: bool) -> None:
    if not dry_run:
        return
    console.print("[bold yellow]DRY RUN[/] every request is checked, and nothing is released")
    for name, problem in broker.outlook(signed) if signed is not None else ():
        verdict = f"[bold red]NO[/] {name}: {escape(problem)}" if problem else f"[green]yes[/] {name}"
        console.print(verdict, soft_wrap=True)


def _index(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise InputError(f"--tpm-index: expected a number such as 0x01800100, got {text!r}") from None


def _addresses(values: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, separator, address = value.partition("=")
        if not separator or not name or not address or name in found:
            raise InputError(f"--witness: expected OWNER=ADDRESS, each owner once, got {value!r}")
        found[name] = address
    return found


def serve_log_command(
    key: Annotated[Path, typer.Option(help="the log's private key, NAME.key; NAME is its origin")],
    store: Annotated[Path, typer.Option(help="the log's file; made if it is not there")],
    socket: _Socket = None,
    listen: _Listen = None,
    tls_certificate: _Certificate = None,
    tls_key: _TlsKey = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
) -> None:
    """Run a public log of contracts, ledgers' heads and releases, until SIGTERM.

    Example:

      myelin log serve --key log.key --store public.log --listen 127.0.0.1:8480
    """
    identity, around = load_identity(key, passphrase_file), Surroundings()
    with closing(Journal.open(store, surroundings=around)) as journal:
        served = Log(identity, journal, surroundings=around)
        face = Face(served.answer, VERBS, Rates(around.timer, burst=100, per_s=20), Metrics())
        bound = _listen(socket, listen, tls_certificate, tls_key)
        console.print(
            f"{identity.name}: log at {socket or listen}, {len(journal.leaves)} leaves", soft_wrap=True
        )
        serve_http(application(face), bound)
    console.print(f"{identity.name}: log stopped")
