"""``benchmarks/accuracy.md`` and the plots, of what is in the results and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from . import record
from .tasks import SEEDS, TASKS, Task

FOLDER = record.RESULTS.parent
SYSTEMS = {"myelin": "Myelin", "diffprivlib": "diffprivlib, logistic regression", "plain": "without privacy"}

HEAD = """# Accuracy on real data

Test accuracy of models that are trained by Myelin's private step: the image's kernels, its sampler and its
noise, bit for bit, and its accountant, outside of an enclave. `make accuracy` makes this page anew, and goes
on where it was interrupted; [accuracy.json](accuracy.json) has every run.

Medians of {seeds} seeds, or of as many as were run (the column says how many), with the least and the most.
Every seed has its own initial values, sample and noise; data, and their split into training and test
examples, are the same for all. `requirements/accuracy.txt` pins the packages that carry them.

ε is what the accountant answers for the mechanism that ran, at the δ of the line; neighbouring data sets have
one record replaced by one that adds nothing. Hyperparameters were chosen by hand; what choosing them may tell
is not in ε, nor is it in the published figures. *Without privacy* is the same network by SGD with momentum
0.9 on shuffled batches. `benchmarks/accuracy/tasks.py` has all numbers.
"""


def groups(runs: list[dict[str, Any]], name: str) -> Iterator[tuple[str, float | None, list[dict[str, Any]]]]:
    """System, target ε (None without privacy), and the runs of all seeds."""
    found: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for run in runs:
        if run["task"] == name:
            found.setdefault((run["system"], run["target_epsilon"]), []).append(run)
    order = list(SYSTEMS)
    for (system, target), group in sorted(
        found.items(), key=lambda item: (order.index(item[0][0]), item[0][1] or 0)
    ):
        yield system, target, group


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def table(runs: list[dict[str, Any]], name: str, task: Task) -> list[str]:
    """One line for each system and ε."""
    lines = [
        "| system | ε | δ | noise multiplier | steps | accuracy, % | from, to | seeds | CPU s a run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for system, _, group in groups(runs, name):
        first, scores = group[0], [run["accuracy"] for run in group]
        delta, plan = first.get("delta"), first.get("plan")
        cells = [
            SYSTEMS[system],
            f"{first['epsilon']:.3f}" if "epsilon" in first else "–",
            "–" if delta is None else f"{delta:g}",
            f"{plan['noise_multiplier']:.3f}" if plan else "–",
            f"{plan['steps']:,}" if plan else "–",
            f"**{percent(median(scores))}**",
            f"{percent(min(scores))}, {percent(max(scores))}",
            str(len(group)),
            f"{median(run['seconds'] for run in group):,.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for epsilon, accuracy, whose in task.anchors:
        lines.append(
            f"| {whose}, published | {epsilon:g} | 1e-05 | – | – | {percent(accuracy)} | – | – | – |"
        )
    return lines


def write() -> list[Path]:
    """Write page and plots; their paths. Plots need matplotlib, which ``make accuracy`` installs."""
    runs = record.load()
    lines, written = [HEAD.format(seeds=len(SEEDS))], []
    for name, task in TASKS.items():
        here = list(groups(runs, name))
        if not here:
            lines.append(f"## {task.title}\n\nNot run.\n")
            continue
        short = [len(group) for _, _, group in here if len(group) < len(SEEDS)]
        missing = [e for e in task.epsilons if not any(s == "myelin" and t == e for s, t, _ in here)]
        lines += [f"## {task.title}\n", *table(runs, name, task), ""]
        if short:
            lines.append(f"Fewer than {len(SEEDS)} seeds in {len(short)} of the lines: see the column.\n")
        if missing:
            lines.append(f"Not run: ε = {', '.join(f'{e:g}' for e in missing)}.\n")
        if plot := draw(name, task, here):
            lines.append(f"![Accuracy against ε]({plot.relative_to(FOLDER).as_posix()})\n")
            written.append(plot)
    page = FOLDER / "accuracy.md"
    page.write_text("\n".join(lines).rstrip() + "\n")
    return [page, *written]


def draw(name: str, task: Task, here: list[tuple[str, float | None, list[dict[str, Any]]]]) -> Path | None:
    """Median accuracy against ε, from the least to the most; published figures as crosses."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"myelin": "#c2410c", "diffprivlib": "#3b6ea5", "plain": "#52606d"}
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for system, label in SYSTEMS.items():
        points = [(t, [r["accuracy"] * 100 for r in g]) for s, t, g in here if s == system]
        if system == "plain" and points:
            level = median(points[0][1])
            axes.axhline(level, color=colours[system], linewidth=1, linestyle="--", label=label)
        elif points:
            x = [float(target or 0) for target, _ in points]
            middle = [median(scores) for _, scores in points]
            spread = [
                [m - min(s) for m, (_, s) in zip(middle, points, strict=True)],
                [max(s) - m for m, (_, s) in zip(middle, points, strict=True)],
            ]
            axes.errorbar(x, middle, spread, marker="o", capsize=3, color=colours[system], label=label)
    for whose in dict.fromkeys(whose for _, _, whose in task.anchors):
        crosses = [(e, a * 100) for e, a, name_ in task.anchors if name_ == whose]
        axes.plot(*zip(*crosses, strict=True), "x", label=f"{whose}, published")
    axes.set_xscale("log", base=2)
    ticks = sorted({*task.epsilons})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("ε")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(task.title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e7eb")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    folder = FOLDER / "plots" / "accuracy"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path
