"""Plots of the report: milliseconds a step by system, and what privacy costs.

Needs matplotlib, which only the peers' environment has.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from .cases import THREADS
from .results import Record, Run
from .workloads import WORKLOADS

MYELIN, PLAIN, PRIVATE = "#c2410c", "#9aa5b1", "#3b6ea5"
INK, GRID = "#1f2933", "#e4e7eb"
LABELS = {"pytorch": "PyTorch", "opacus": "Opacus", "fastdp": "FastDP", "jax": "JAX", "myelin": "Myelin"}
LABELS |= {"jax-privacy": "JAX-Privacy", "onnxruntime": "ONNX Runtime"}


def label(record: Record) -> str:
    return f"{LABELS[record['system']]} {record['mode'].replace('_', ' ')}"


def colour(record: Record) -> str:
    if record["system"] == "myelin":
        return MYELIN
    return PRIVATE if record["mode"].startswith("private") else PLAIN


def tidy(axes: Axes) -> None:
    """Nothing on the plot that carries no number."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, colors=INK, labelsize=8.5)
    axes.tick_params(axis="x", colors=INK, labelsize=8)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID, linewidth=0.8)


def time_bars(axes: Axes, records: list[Record], order: list[str], threads: int) -> None:
    """One horizontal bar for each system and mode, with the least and the most as a line."""
    named = {label(r): r for r in records if r["threads"] == threads}
    # A single outlier must not press every bar to the left: the line then ends at the edge.
    edge = 1.3 * max(r["median_ms"] for r in named.values())
    for place, name in enumerate(reversed(order)):
        record = named.get(name)
        if record is None:
            axes.text(edge * 0.01, place, "missing", va="center", fontsize=8, color=PLAIN)
            continue
        axes.barh(place, record["median_ms"], height=0.66, color=colour(record))
        axes.hlines(place, record["min_ms"], min(record["max_ms"], edge), color=INK, linewidth=1)
        text = (
            f" {record['median_ms']:,.3g}" if record["median_ms"] < 1000 else f" {record['median_ms']:,.0f}"
        )
        right = max(min(record["max_ms"], edge), record["median_ms"])
        axes.text(right, place, text, va="center", fontsize=8, color=INK)
    axes.set_xlim(0, edge * 1.12)
    axes.set_yticks(range(len(order)), list(reversed(order)))
    axes.set_title(f"{threads} thread{'s'[: threads - 1]}", fontsize=9.5, color=INK, loc="left")
    axes.set_xlabel("milliseconds (bar: median, line: least to most)", fontsize=8, color=INK)
    tidy(axes)


def draw_times(records: list[Record], title: str, path: Path, explain: bool) -> Path:
    """Both numbers of threads beside each other, in one order: the median at the fewest threads."""
    order = list(
        dict.fromkeys(label(r) for r in sorted(records, key=lambda r: (r["threads"], r["median_ms"])))
    )
    shown = sorted({r["threads"] for r in records})
    height = 1.35 + 0.27 * len(order)
    figure, grid = plt.subplots(1, len(shown), figsize=(9.6, height), sharey=True, squeeze=False)
    for axes, threads in zip(grid[0], shown, strict=True):
        time_bars(axes, records, order, threads)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    if explain:
        present = {colour(r) for r in records}
        names = {MYELIN: "Myelin", PRIVATE: "private, others", PLAIN: "without privacy, others"}
        patches = [Patch(color=shade, label=name) for shade, name in names.items() if shade in present]
        figure.legend(handles=patches, loc="upper right", ncols=3, frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def cost_of_privacy(run: Run, workload: str, threads: int) -> dict[str, float]:
    """Family of systems → its best private median over its own best plain median."""
    families = {
        "Myelin": (("myelin",), ("myelin",)),
        "Opacus ÷ PyTorch": (("opacus",), ("pytorch",)),
        "FastDP ÷ PyTorch": (("fastdp",), ("pytorch",)),
        "JAX-Privacy ÷ JAX": (("jax-privacy",), ("jax",)),
    }
    found = {}
    for name, (private, plain) in families.items():

        def least(systems: tuple[str, ...], prefix: str) -> float:
            return min(
                (
                    r["median_ms"]
                    for r in run.records
                    if r["workload"] == workload
                    and r["threads"] == threads
                    and r["system"] in systems
                    and r["mode"].startswith(prefix)
                    and r["mode"] != "private_enclave"
                ),
                default=0.0,
            )

        over, under = least(private, "private"), least(plain, "plain")
        if over and under:
            found[name] = over / under
    return found


def draw_costs(run: Run, path: Path) -> Path | None:
    """What privacy costs in each family of systems, workload by workload, at one thread."""
    costs = {name: cost for name in WORKLOADS if (cost := cost_of_privacy(run, name, THREADS[0]))}
    if not costs:
        return None
    names = list(dict.fromkeys(name for cost in costs.values() for name in cost))
    shades = {"Myelin": MYELIN, "Opacus ÷ PyTorch": PRIVATE, "FastDP ÷ PyTorch": "#7fa6cf"}
    shades["JAX-Privacy ÷ JAX"] = "#52606d"
    figure, axes = plt.subplots(figsize=(9.6, 3.6))
    width = 0.82 / len(names)
    for group, cost in enumerate(costs.values()):
        for index, name in enumerate(names):
            if name not in cost:
                continue
            place = group + (index - (len(names) - 1) / 2) * width
            axes.bar(place, cost[name] - 1, width * 0.92, bottom=1, color=shades[name])
            axes.text(place, cost[name] * 1.03, f"{cost[name]:.3g}", ha="center", fontsize=7.5, color=INK)
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_yscale("log")
    ticks = [1, 1.5, 2, 3, 5, 10, 20, 50]
    axes.set_yticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    every = [1.0, *(number for cost in costs.values() for number in cost.values())]
    axes.set_ylim(min(every) * 0.95, max(every) * 1.4)
    axes.set_xticks(range(len(costs)), list(costs))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_title(
        "What privacy costs: private step ÷ plain step of the same framework, best mode of each, 1 thread",
        fontsize=10, color=INK, loc="left", pad=24,
    )  # fmt: skip
    patches = [Patch(color=shades[name], label=name) for name in names]
    axes.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8.5
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def draw(run: Run, folder: Path) -> list[Path]:
    """Every plot that the results allow; what an earlier run drew is removed."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    plots = [plot for plot in [draw_costs(run, folder / "cost_of_privacy.png")] if plot]
    for name, workload in WORKLOADS.items():
        training = [r for r in run.records if r["workload"] == name and not r["mode"].startswith("inference")]
        if training:
            title = f"{name}: one step, batch {workload.batch:,}"
            plots.append(draw_times(training, title, folder / f"{name}.png", True))
    inference = [r for r in run.records if r["mode"].startswith("inference")]
    # One plot for each batch size: beside 64 records, one would not be seen.
    for name, mode in dict.fromkeys((r["workload"], r["mode"]) for r in inference):
        of_one = [r for r in inference if (r["workload"], r["mode"]) == (name, mode)]
        title = f"{name}: {mode.replace('_b', ', batch ')}"
        plots.append(draw_times(of_one, title, folder / f"{name}_{mode}.png", False))
    return plots
