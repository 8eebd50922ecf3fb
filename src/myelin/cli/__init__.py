"""The command line: one verb a file, thin over the Python API.

Exit codes: 0 done and, for checks, everything passed; 1 a check or the work failed; 2 wrong use or unreadable
input.
"""

from myelin.cli.app import main, run

__all__ = ["main", "run"]
