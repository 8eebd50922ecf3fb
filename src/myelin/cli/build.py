"""``myelin build`` and ``host``: make an image, and try it on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myelin.cli.progress import bar, console, emit_json, plain
from myelin.errors import InputError

__all__ = ["build_command", "host_command"]

_ATTESTERS = ("simulated", "platform")


def build_command(
    job: Annotated[Path, typer.Argument(help="a Python file that defines `job = myelin.model.Job(...)`")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the image to write")],
    target: Annotated[
        str,
        typer.Option(help="x86-64-v3 (AVX2, AES), x86-64-v3-vaes or x86-64-v4 (AVX-512, VAES)"),
    ] = "x86-64-v3",
    attester: Annotated[
        str,
        typer.Option(
            help="whose evidence: simulated, a rehearsal's, or platform, of the hardware that runs it"
        ),
    ] = "simulated",
    fresh: Annotated[bool, typer.Option("--fresh", help="build even if nothing has changed")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Compile a job to an enclave image. The same job and tools give the same bytes, in any folder.

    An image whose every input is the same as before comes from the user's cache folder. Without hardware that
    vouches for it, an image with `--attester platform` gets no key and releases nothing.

    Example:

      myelin build examples/01_hospitals/job.py -o hospitals.myelin
    """
    from myelin.image import build_job
    from myelin.image.cache import cache_folder

    if attester not in _ATTESTERS:
        raise InputError(f"--attester is {attester!r}; expected {' or '.join(_ATTESTERS)}")
    kept, simulated = None if fresh else cache_folder(), attester == "simulated"
    with bar("build") as report:
        built = build_job(job, out, target, simulated, progress=report, cache=kept)
    for row in built.layers:
        console.print(row, highlight=False, markup=False, soft_wrap=True)
    console.print(f"image        {built.path} ({built.path.stat().st_size:,} bytes)")
    console.print(f"measurement  {built.measurement.hex()}")
    if json_output:
        emit_json(
            {
                "image": str(built.path),
                "measurement": built.measurement,
                "plan": built.plan_digest,
                "target": target,
            }
        )


def host_command(
    image: Annotated[Path, typer.Argument(help="an image file, or a folder of `myelin image`")],
    threads: Annotated[int | None, typer.Option(min=1, max=16, help="threads lent to the enclave")] = None,
    backend: Annotated[
        str, typer.Option(help="what runs it: auto, or process, kvm, tdx, snp, sgx, nitro")
    ] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="answer with one JSON object")] = False,
) -> None:
    """Start an image on this machine, say how it is locked down and what it answers, and stop it.

    Unless said, what runs it is the first that this machine has of tdx, snp, sgx, nitro, kvm and process. A
    backend that is asked for and is not there says what is missing.

    Example:

      myelin host hospitals.myelin --backend kvm --threads 2
    """
    from myelin.host import Enclave, EnclaveSession, choose_backend, survey_backends

    choice = choose_backend(backend, image=image)
    if not json_output:
        for there in survey_backends():
            console.print(f"{'backend':<12} {plain(str(there))}", soft_wrap=True)
        console.print(f"{'chosen':<12} {choice.backend.name}: {plain(choice.reason)}", soft_wrap=True)
    with Enclave.start(image, threads=threads, backend=choice.backend.name) as enclave:
        description = EnclaveSession(enclave).describe()
        report = dict(enclave.report)
    report |= {"backend": choice.backend.name, "backend_reason": choice.reason}
    report |= {"plan": description.plan_digest.hex(), "state": description.state}
    if json_output:
        emit_json(report)
    else:
        for key, value in report.items():
            console.print(f"{key:<12} {plain(str(value))}")
