"""Executes a job file and takes its ``job``."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path

from myelin.errors import BuildError, InputError, MyelinError

from .job import Job

__all__ = ["load_job"]


def load_job(path: Path | str) -> Job:
    """Run the Python file at ``path`` and return the :class:`Job` that it binds to ``job``.

    The file runs with this process's rights: build only files that you trust, as with any program.
    Files beside it can be imported, and relative paths in it (``schema.toml``) are relative to its folder.

    Raises:
        InputError: no such file, it does not run (file and line are named), or it defines no ``job``.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such job file; expected a Python file that defines job = Job(...)")
    file = file.resolve()
    folder, old_folder, old_path = str(file.parent), os.getcwd(), list(sys.path)
    sys.path.insert(0, folder)
    os.chdir(folder)
    try:
        names = runpy.run_path(str(file), run_name="myelin_job")
    except SyntaxError as error:
        raise InputError(f"{error.filename or file}:{error.lineno}: not valid Python: {error.msg}") from error
    except MyelinError as error:
        if type(error) not in (BuildError, InputError):
            raise
        raise type(error)(f"{_place(file, error)}: {error}") from error
    except (Exception, SystemExit) as error:
        place = _place(file, error)
        raise InputError(f"{place}: the job file raised {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = old_path
        os.chdir(old_folder)
    job = names.get("job")
    if not isinstance(job, Job):
        got = "nothing of that name" if "job" not in names else f"{type(job).__name__}"
        raise InputError(f"{file}: expected job = myelin.model.Job(...), got {got}")
    return job


def _place(file: Path, error: BaseException) -> str:
    """``file:line`` of the innermost frame of the job file in ``error``'s traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f"{file}:{frames[-1].lineno}" if frames else str(file)
