"""Counts for Prometheus: what happened and how often, and how full the ledger is. No names, digests or
keys."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

__all__ = ["Metrics"]

_EVENTS = ("reserved", "released", "refused", "kept", "charged", "acknowledged", "limited")


@final
@dataclass
class Metrics:
    """Counters and gauges; :meth:`text` is the exposition format, version 0.0.4. For several threads."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _gauges: dict[str, tuple[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, happened: str, facts: Mapping[str, object]) -> None:
        """Count what a broker tells; of a refusal the error's name, which is one of a fixed list."""
        detail = str(facts.get("name", "")) if happened == "refused" else ""
        with self._lock:
            self._counts[happened if happened in _EVENTS else "other", detail] += 1

    def set(self, name: str, meaning: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._gauges[name] = (meaning, value)

    def text(self) -> str:
        """The exposition."""
        lines = [
            "# HELP myelin_broker_events_total What the broker did or refused.",
            "# TYPE myelin_broker_events_total counter",
        ]
        with self._lock:
            for (happened, detail), count in sorted(self._counts.items()):
                reason = f',error="{detail}"' if detail else ""
                lines.append(f'myelin_broker_events_total{{event="{happened}"{reason}}} {count}')
            for name, (meaning, value) in sorted(self._gauges.items()):
                full = f"myelin_broker_{name}"
                lines += [f"# HELP {full} {meaning}", f"# TYPE {full} gauge", f"{full} {value:.10g}"]
        return "\n".join(lines) + "\n"
