"""Whether the cost model chooses well: ``python -m benchmarks.strategies [WORKLOAD …]``.

Compiles each workload's private step as the compiler chooses, and again with every other strategy that a kind
of layer has (all layers of one shape at once), runs one microbatch on one thread (each kernel's least of many
runs, :mod:`benchmarks.product_rate`), and prints what the other choice costs an example: by the model, and
measured. Negative is a choice that would have been better.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TVM_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from myelin.graph import TrainingGraph, differentiate
from myelin.model import Job
from myelin.privacy import Choice, make_private
from myelin.privacy.private_graph import Chooser, cheapest
from myelin.privacy.strategy import Site, Strategy
from myelin.schedule import NativeProgram, schedule

from .myelin_build import TARGET, job_of
from .product_rate import fill, measure
from .workloads import WORKLOADS

Group = tuple[str, tuple[int, ...], int]
"""Layers that any choice suits alike: kind, shape, positions."""


def group_of(row: Choice) -> Group:
    """The group that a row of the compiler's table belongs to."""
    return row.kind, row.shape, row.positions


def taking(name: str, group: Group) -> Chooser:
    """Takes the strategy of that name at the layers of a group, and the cheapest at others."""

    def choose(site: Site, fitting: Sequence[Strategy]) -> Strategy:
        if (site.layer.kind, site.layer.shape, site.positions) != group:
            return cheapest(site, fitting)
        return next(strategy for strategy in fitting if strategy.name == name)

    return choose


def microseconds(
    job: Job, graph: TrainingGraph, choose: Chooser = cheapest
) -> tuple[float, tuple[Choice, ...]]:
    """What an example costs in all kernels of a step, and the compiler's table."""
    private = make_private(graph, job.plan, choose=choose)
    program = NativeProgram(schedule(private, TARGET))
    fill(program, job)
    return 1e6 * sum(measure(program)) / graph.microbatch, private.table


def compare(name: str, console: Console) -> None:
    """Print the table of one workload."""
    job = job_of(WORKLOADS[name], "private")
    graph = differentiate(job)
    chosen, choices = microseconds(job, graph)
    table = Table(
        "layers", "shape", "positions", "chosen", "instead", "model", "measured", "÷ step", title=f"{name}:"
        f" {chosen:.0f} µs an example, microbatch {graph.microbatch}, {TARGET}"
    )  # fmt: skip
    for group in dict.fromkeys(map(group_of, choices)):
        rows = [row for row in choices if group_of(row) == group]
        first = rows[0]
        for other in first.costs.keys() - {first.strategy}:
            modelled = sum(row.costs[other].seconds - row.costs[row.strategy].seconds for row in rows) * 1e6
            measured = microseconds(job, graph, taking(other, group))[0] - chosen
            kind, shape, positions = group
            table.add_row(
                f"{len(rows)} {kind}",
                "×".join(map(str, shape)),
                str(positions),
                first.strategy,
                other,
                f"{modelled:+.1f} µs",
                f"{measured:+.1f} µs",
                f"{100 * measured / chosen:+.1f} %",
            )
    console.print(table)


def main() -> None:
    """See the module."""
    console = Console(width=130)
    for name in sys.argv[1:] or [name for name in WORKLOADS if name != "mlp_2048"]:
        compare(name, console)


if __name__ == "__main__":
    main()
