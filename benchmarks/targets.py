"""The ratios that matter, each with its target: computed from results, never typed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .cases import THREADS
from .results import Run
from .workloads import INFERENCE, WORKLOADS

SIX = [name for name in WORKLOADS if name != "mlp_2048"]
LARGEST = ("transformer", "vgg9", "resnet20")
"""The three workloads with the longest steps."""

OVERHEAD = dict.fromkeys(SIX, 1.05) | {"mnist_cnn": 1.10, "mlp": 1.25, "mlp_2048": 1.05}


@dataclass(frozen=True)
class Row:
    """One target: what, of which workload, at most or at least how much, and what was measured by threads.

    ``measured`` has no entry where a number is missing.
    """

    what: str
    workload: str
    limit: float
    at_most: bool
    measured: dict[int, float]
    note: str = ""

    @property
    def target(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"

    def holds(self, threads: int) -> bool | None:
        """Whether the target is met at so many threads; None when it was not measured."""
        value = self.measured.get(threads)
        if value is None:
            return None
        return value <= self.limit if self.at_most else value >= self.limit

    @property
    def verdict(self) -> str:
        """``met``, ``not met`` or ``not measured``; met only when every measured number is, and all are."""
        verdicts = [self.holds(threads) for threads in self.expected]
        if False in verdicts:
            return "not met"
        return "not measured" if None in verdicts else "met"

    @property
    def expected(self) -> tuple[int, ...]:
        """At how many threads the row wants a number."""
        if self.what in ONLY_AT_ONE:
            return (1,)
        return (2,) if self.what in ONLY_AT_TWO else THREADS


SCALING = "2 threads: speed ÷ 1 thread"
BUILD, REBUILD = "build, seconds", "rebuild without change, seconds"
RATE = "rate of convolutions and products ÷ register-only FMA loop"
NOISE = "noise drawn, 10⁶ a second"
ONLY_AT_ONE = {RATE, NOISE}
ONLY_AT_TWO = {SCALING, BUILD, REBUILD}


def medians(
    run: Run, workload: str, threads: int, keep: Callable[[str, str], bool]
) -> list[tuple[float, str]]:
    """Medians of the cases that ``keep`` wants, the quickest first, each with system and mode."""
    return sorted(
        (record["median_ms"], f"{record['system']} {record['mode']}")
        for record in run.records
        if record["workload"] == workload
        and record["threads"] == threads
        and keep(record["system"], record["mode"])
    )


def is_pytorch_plain(system: str, mode: str) -> bool:
    return system == "pytorch" and mode.startswith("plain")


def is_other_private(system: str, mode: str) -> bool:
    return system != "myelin" and mode.startswith("private")


def value(run: Run, case: tuple[str, str, str], threads: int, name: str = "median_ms") -> float | None:
    record = run.find(*case, threads)
    return None if record is None else float(record[name])


def quotient(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None


def by_threads(compute: Callable[[int], float | None]) -> dict[int, float]:
    found = {threads: compute(threads) for threads in THREADS}
    return {threads: number for threads, number in found.items() if number is not None}


def ratio(run: Run, over: tuple[str, str, str], under: tuple[str, str, str], name: str) -> dict[int, float]:
    """One number of one case over the same of another, by threads."""
    return by_threads(lambda t: quotient(value(run, over, t, name), value(run, under, t, name)))


def best(run: Run, workload: str, threads: int, keep: Callable[[str, str], bool]) -> float | None:
    found = medians(run, workload, threads, keep)
    return found[0][0] if found else None


def note_best(run: Run, workload: str, keep: Callable[[str, str], bool]) -> str:
    """Who is the best at each number of threads."""
    found = [medians(run, workload, threads, keep) for threads in THREADS]
    return ", ".join(dict.fromkeys(who[0][1] for who in found if who))


def overhead_rows(run: Run) -> Iterable[Row]:
    for workload, limit in OVERHEAD.items():
        pair = (workload, "myelin", "private"), (workload, "myelin", "plain")
        yield Row("Myelin private ÷ Myelin plain", workload, limit, True, ratio(run, *pair, "median_ms"))


def pytorch_rows(run: Run) -> Iterable[Row]:
    for workload in SIX:
        enclave = (workload, "myelin", "private_enclave")

        def measured(
            threads: int, workload: str = workload, case: tuple[str, str, str] = enclave
        ) -> float | None:
            return quotient(value(run, case, threads), best(run, workload, threads, is_pytorch_plain))

        limit = 0.7 if workload == "mnist_cnn" else 1.0
        note = note_best(run, workload, is_pytorch_plain)
        yield Row(
            "Myelin private in the enclave ÷ best PyTorch plain",
            workload,
            limit,
            True,
            by_threads(measured),
            note,
        )


def others_rows(run: Run) -> Iterable[Row]:
    what = "best other private ÷ Myelin private"
    rows = []
    for workload in SIX:

        def measured(threads: int, workload: str = workload) -> float | None:
            other = best(run, workload, threads, is_other_private)
            return quotient(other, value(run, (workload, "myelin", "private"), threads))

        limit = 1.2 if workload == "mlp" else 1.7
        note = note_best(run, workload, is_other_private)
        rows.append(Row(what, workload, limit, False, by_threads(measured), note))
    yield from rows

    def second(threads: int) -> float | None:
        found = sorted((row.measured[threads] for row in rows if threads in row.measured), reverse=True)
        return found[1] if len(found) > 1 else None

    yield Row(f"{what}, the second largest", "two of the six", 2.5, False, by_threads(second))


def enclave_rows(run: Run) -> Iterable[Row]:
    for workload in WORKLOADS:
        pair = (workload, "myelin", "private_enclave"), (workload, "myelin", "private")
        yield Row("in the enclave ÷ outside", workload, 1.02, True, ratio(run, *pair, "median_ms"))


def rate_rows(run: Run) -> Iterable[Row]:
    """Of one thread: a lane's kernels run on one, and two threads are two lanes."""
    for workload in SIX:
        rate = run.fact(workload, "myelin", "private", 1, "product_gflops")
        share = quotient(rate, run.fma_gflops.get(workload, {}).get("1"))
        yield Row(RATE, workload, 0.85, False, {} if share is None else {1: share})


def noise_rows(run: Run) -> Iterable[Row]:
    """Of one core, in the workload that draws most for its arithmetic."""
    rate = run.fact("mlp", "myelin", "private", 1, "noise_mdraws")
    yield Row(NOISE, "mlp", 150, False, {} if rate is None else {1: rate})


def scaling_rows(run: Run) -> Iterable[Row]:
    for workload in LARGEST:
        case = (workload, "myelin", "private")
        speed = quotient(value(run, case, 1), value(run, case, 2))
        yield Row(SCALING, workload, 1.85, False, {} if speed is None else {2: speed})


def memory_rows(run: Run) -> Iterable[Row]:
    for workload in SIX:
        private, plain = (workload, "myelin", "private"), (workload, "myelin", "plain")
        yield Row(
            "peak memory, private ÷ plain", workload, 1.10, True, ratio(run, private, plain, "peak_rss_mb")
        )
    for workload in SIX:

        def measured(threads: int, workload: str = workload) -> float | None:
            of_opacus = [
                record["peak_rss_mb"]
                for record in run.records
                if (record["workload"], record["system"], record["threads"]) == (workload, "opacus", threads)
            ]
            own = value(run, (workload, "myelin", "private"), threads, "peak_rss_mb")
            return quotient(own, min(of_opacus, default=None))

        what = "peak memory, Myelin private ÷ Opacus (its smallest mode)"
        yield Row(what, workload, 0.25, True, by_threads(measured))


def build_rows(run: Run) -> Iterable[Row]:
    for what, name, limit in ((BUILD, "build_s", 60.0), (REBUILD, "rebuild_s", 3.0)):
        seconds = run.fact("resnet20", "myelin", "private", 2, name)
        yield Row(what, "resnet20", limit, True, {} if seconds is None else {2: seconds})


def inference_rows(run: Run) -> Iterable[Row]:
    for workload, batches in INFERENCE.items():
        for batch in batches:
            mode = f"inference_b{batch}"
            pair = (workload, "myelin", mode), (workload, "onnxruntime", mode)
            what = f"inference, batch {batch}, ÷ ONNX Runtime"
            yield Row(what, workload, 1.0, True, ratio(run, *pair, "median_ms"))


def rows(run: Run) -> list[Row]:
    """Every target, in the order of the report."""
    parts = (
        overhead_rows,
        pytorch_rows,
        others_rows,
        enclave_rows,
        rate_rows,
        noise_rows,
        scaling_rows,
        memory_rows,
        build_rows,
        inference_rows,
    )
    return [row for part in parts for row in part(run)]
