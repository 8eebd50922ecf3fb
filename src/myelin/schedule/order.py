"""In which order a step's calls run: what reads a value comes soon after what makes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .flatten import FlatCall


def soon(calls: Sequence[FlatCall]) -> list[FlatCall]:
    """The calls, each as soon after the last of those that it reads from as its turn comes.

    A graph has the gradients of weights after all of the backward pass; here each comes when the gradient
    that it is made of is still in a cache, which then need not be kept for it. A call that reads nothing
    that is made here comes right before the first that reads from it. What is computed is the same.
    """
    maker = {value: number for number, call in enumerate(calls) for value in call.outputs}
    reads = [sorted({maker[v] for v in call.inputs if v in maker}) for call in calls]
    free = [not made for made in reads]
    left = [sum(not free[m] for m in made) for made in reads]
    readers: list[list[int]] = [[] for _ in calls]
    for number, made in enumerate(reads):
        for m in made:
            readers[m].append(number)
    ready = deque(n for n in range(len(calls)) if not free[n] and not left[n])
    order: list[int] = []
    done: set[int] = set()

    def run(number: int) -> None:
        order.append(number)
        done.add(number)

    while ready:
        number = ready.popleft()
        for m in reads[number]:
            if free[m] and m not in done:
                run(m)
        run(number)
        for reader in readers[number]:
            left[reader] -= 1
            if not left[reader]:
                ready.append(reader)
    order += [number for number in range(len(calls)) if number not in done]
    return [calls[number] for number in order]
