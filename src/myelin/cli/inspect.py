"""``myelin inspect``: what an image is, can do and cannot do, in words a data manager reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from myelin.cli.progress import console, emit_json, plain
from myelin.contract import DpEvent, default_accountant, read_image_facts
from myelin.image import check_image, read_manifest

__all__ = ["inspect_command"]

CAN = (
    "read the sealed datasets of a contract that every party has signed, and only with each owner's key",
    "train the model below on them, with the mechanism below",
    "give out, once, the model sealed to the contract's recipients, and a signed certificate",
)
CANNOT = (
    "open a file, a connection or another program's memory: no instruction of it asks an operating system",
    "read a clock, or learn what machine it is on",
    "start threads, or be steered by how many it is lent",
    "send a record, a gradient or a loss to the host: the one way out is the release above",
    "run another mechanism than the one below: it is measured, and the contract names it",
)
GATHER = {
    "oblivious": "memory accesses do not tell who was drawn",
    "by address": "who was drawn may be told by memory accesses, to a host that can watch them",
    "turns": "records take turns, and whose turn it is may be told by memory accesses",
}


def inspect_command(
    image: Annotated[Path, typer.Argument(help="an image file")],
    delta: Annotated[float, typer.Option(min=1e-15, max=0.5, help="δ at which ε is computed")] = 1e-5,
    json_output: Annotated[bool, typer.Option("--json", help="answer with one JSON object")] = False,
) -> None:
    """Check an image file and say what it is: what it can and cannot do, its privacy, what is inside.

    Example:

      myelin inspect hospitals.myelin
    """
    facts, manifest = read_image_facts(image), read_manifest(image)
    check_image(image)
    event = facts.event(int(manifest["dp"]["dataset_size"]))
    epsilon = default_accountant([event.to_map()], delta)
    if json_output:
        emit_json(
            {
                "image": str(image),
                "bytes": image.stat().st_size,
                "measurement": facts.measurement,
                "plan": facts.plan,
                "event": event.to_map(),
                "epsilon": epsilon,
                "delta": delta,
                "manifest": manifest,
            }
        )
        return
    privacy = f"ε = {epsilon:.4g} at δ = {delta:g}"
    _print(image, facts.measurement.hex(), plain(manifest), event, privacy)


def _print(image: Path, measurement: str, manifest: dict[str, Any], event: DpEvent, privacy: str) -> None:
    kind = (
        "SIMULATED: nothing keeps this machine's administrator out"
        if manifest["simulated"]
        else "no attester"
    )
    rows = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in (
        ("job", manifest["name"]),
        ("measurement", measurement),
        ("size", f"{image.stat().st_size:,} bytes; needs {_memory(manifest)} of memory"),
        ("processor", manifest["target"]),
        ("evidence", kind),
    ):
        rows.add_row(name, str(value))
    console.print(rows)
    _section("It can", CAN)
    _section("It cannot (checked just now, instruction by instruction)", CANNOT)
    model = manifest["model"]
    average = (
        f"released: {_named(model['average'])} of the weights"
        if model["average"]
        else "released: the weights"
    )
    size = f"{model['parameter_count']:,} parameters{_frozen(model)}"
    _section(
        "Model",
        [
            f"{size}, {_named(model['loss'])}, {_named(model['optimizer'])}",
            f"{average} after the last step",
        ],
    )
    for layer in manifest["layers"]:
        console.print(f"    {layer}", highlight=False, soft_wrap=True)
    gather = GATHER.get(str(manifest.get("gather")), "how a step reads its records is not said")
    about = [event.describe(), f"{privacy}, for each record, if it is run once", gather]
    _section("Privacy", about)
    _section("Data", _data(manifest["schema"]))
    graph, crates = manifest["graph"], manifest["tcb"]
    lines = sum(int(crate["lines"]) for crate in crates)
    unsafe = sum(int(crate["unsafe_count"]) for crate in crates)
    inside = [
        f"{len(graph['kernels'])} compiled kernels, called {graph['step_calls']} times a batch, "
        f"{manifest['memory']['lanes']} batches at once",
        f"{len(crates)} crates, {lines:,} lines of Rust, {unsafe:,} uses of unsafe:",
    ]
    _section("Inside", inside)
    console.print("    " + ", ".join(f"{crate['name']} {crate['version']}" for crate in crates))


def _section(title: str, lines: tuple[str, ...] | list[str]) -> None:
    console.print(f"\n[bold]{title}[/]")
    for line in lines:
        console.print(f"  · {line}")


def _memory(manifest: dict[str, Any]) -> str:
    total = sum(int(size) for name, size in manifest["memory"].items() if name.endswith("_bytes"))
    return f"{total / 2**20:,.0f} MiB"


def _frozen(model: dict[str, Any]) -> str:
    """How many numbers of the model are constants of the image."""
    count = sum(math.prod(entry["shape"]) for entry in model["frozen"])
    return f" and {count:,} constants" if count else ""


def _data(schema: dict[str, Any]) -> list[str]:
    columns = schema.get("columns")
    what = (
        f"{len(columns)} numbers a record, each within its public range"
        if columns
        else f"{' × '.join(map(str, schema['shape']))} values of {schema['lower']:g} to {schema['upper']:g}"
    )
    label = schema["label"]
    values = (
        ", ".join(label["classes"]) if "classes" in label else f"{label['lower']:g} to {label['upper']:g}"
    )
    return [what, f"label {label['column']!r}: {values}"]


def _named(value: Any) -> str:
    """A loss, optimizer, schedule or average as a job file may write it, defaults too."""
    if not isinstance(value, dict):
        return f"{value:g}" if isinstance(value, float) else str(value)
    fields = [f"{key}={_named(field)}" for key, field in value.items() if key != "name" and field is not None]
    return f"{value['name']}({', '.join(fields)})"
