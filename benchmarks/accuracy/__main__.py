"""Train every task at every ε with every seed that is not in the results yet, then write the report.

``python -m benchmarks.accuracy [--tasks adult,mnist_tanh] [--seeds 1,2] [--report]``
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from typing import Any

from . import logistic, record, report
from .tasks import SEEDS, TASKS, Task, numbers_of
from .training import Outcome, PrivateRuns


def runs_of(name: str, task: Task, seeds: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """What is to be run of a task: every ε with the first seed, then with the next."""
    for seed in seeds:
        for epsilon in (*task.epsilons, None):
            yield {
                "task": name,
                "system": "myelin" if epsilon else "plain",
                "target_epsilon": epsilon,
                "seed": seed,
            }
            if epsilon and task.logistic_norm:
                yield {"task": name, "system": "diffprivlib", "target_epsilon": epsilon, "seed": seed}


class Runner:
    """The runs of one task; jobs are compiled when first needed, and kept."""

    def __init__(self, name: str, task: Task) -> None:
        self.name, self.task, self.data = name, task, task.data()
        model = task.model(self.data.features.shape[1])
        # A bound for the calibration: frozen parameters are counted, though they have no noise.
        self.parameters = sum(math.prod(map(int, p.shape)) for _, p in model.named_parameters())
        self.compiled: dict[float, PrivateRuns] = {}

    def private(self, epsilon: float) -> PrivateRuns:
        if epsilon not in self.compiled:
            known = [
                run["plan"]
                for run in record.load()
                if run["task"] == self.name and run["target_epsilon"] == epsilon and "plan" in run
            ]
            plan = self.task.calibrated(epsilon, len(self.data.labels), self.parameters, known)
            self.compiled[epsilon] = PrivateRuns(self.task.job(self.name, plan, self.data))
        return self.compiled[epsilon]

    def run(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """One run, with what describes it."""
        task, seed, target = self.task, wanted["seed"], wanted["target_epsilon"]
        facts: dict[str, Any] = {}
        if wanted["system"] == "diffprivlib":
            outcome = logistic.run(self.data, target, task.logistic_norm or 1.0, seed)
            facts["delta"] = 0.0
        elif wanted["system"] == "plain":
            runs, plain = self.private(task.epsilons[0]), task.plain
            outcome = runs.run_plain(self.data, seed, plain.epochs, plain.learning_rate, plain.batch)
            facts |= {"epochs": plain.epochs}
        else:
            runs = self.private(target)
            outcome = runs.run(self.data, seed)
            facts |= {"delta": task.delta, "parameters": runs.parameters, "plan": numbers_of(runs.plan)}
        return {**wanted, **_measured(outcome), **facts}


def _measured(outcome: Outcome) -> dict[str, Any]:
    measured = {"accuracy": round(outcome.accuracy, 6), "seconds": round(outcome.seconds, 1)}
    return measured | ({} if outcome.epsilon is None else {"epsilon": outcome.epsilon})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help="names, with commas between")
    parser.add_argument(
        "--seeds", default=",".join(map(str, SEEDS)), help="whole numbers, with commas between"
    )
    parser.add_argument("--report", action="store_true", help="only write the report of what was run")
    options = parser.parse_args()
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    names = [] if options.report else options.tasks.split(",")
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"no task {unknown[0]!r}; there are {', '.join(TASKS)}")
    for name in names:
        done = {record.key(run) for run in record.load()}
        wanted = [w for w in runs_of(name, TASKS[name], seeds) if record.key(w) not in done]
        if not wanted:
            continue
        runner = Runner(name, TASKS[name])
        for number, run in enumerate(wanted, 1):
            finished = runner.run(run)
            record.add(finished)
            shown = "without privacy" if run["target_epsilon"] is None else f"ε = {run['target_epsilon']}"
            print(
                f"{time.strftime('%H:%M:%S')} {name} {run['system']} {shown}, seed {run['seed']}: "
                f"{finished['accuracy']:.2%} in {finished['seconds']} s ({number} of {len(wanted)})",
                flush=True,
            )
    for path in report.write():
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
