"""The targets whose code this machine's processor can run: tests that run kernels take them from here."""

from myelin.host import best_target

TARGETS = ["x86-64-v3", "x86-64-v4"] if best_target() == "x86-64-v4" else ["x86-64-v3"]
"""Both where there is AVX-512."""

WIDEST = TARGETS[-1]
