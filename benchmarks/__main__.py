"""``python -m benchmarks``: measure, and write results and report. ``make bench`` calls it."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from .harness import QUICK, THOROUGH, measure
from .results import load, merge, save
from .workloads import WORKLOADS

HERE = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--workloads", default="", help=f"comma-separated, default all: {','.join(WORKLOADS)}"
    )
    parser.add_argument("--report", action="store_true", help="only write the report anew")
    parser.add_argument("--folder", type=Path, default=HERE, help="where results and report go")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    console = Console()
    names = [name for name in options.workloads.split(",") if name] or list(WORKLOADS)
    if unknown := set(names) - set(WORKLOADS):
        raise SystemExit(f"no workload {sorted(unknown)}; there are {', '.join(WORKLOADS)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    effort = QUICK if options.workloads else THOROUGH
    for name in [] if options.report else names:
        # Saved after each: what is finished stays when a run is interrupted.
        run = merge(load(options.folder), measure(name, effort, console))
        save(run, options.folder, list(WORKLOADS))
    from .plots import draw
    from .report import write

    run = load(options.folder)
    write(run, options.folder, draw(run, options.folder / "plots"))
    console.print(f"{options.folder / 'RESULTS.md'} is written")


if __name__ == "__main__":
    main()
