"""Accuracy on real data at a stated ε: ``python -m benchmarks.accuracy``, or ``make accuracy``."""
