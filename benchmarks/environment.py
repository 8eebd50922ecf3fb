"""Make the peers' environment: ``python benchmarks/environment.py``. Needs only Python and a C compiler.

Everything comes from one lock file with hashes. PyTorch's wheel is built for CUDA and links its libraries,
gigabytes that do nothing without a GPU. They are left out; in their place stand small libraries of the same
names, made here, whose every function answers "no device". PyTorch then finds no GPU, as it would with them.
What is measured, PyTorch's own code for processors, is untouched.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / ".venv"
LOCK = ROOT / "requirements" / "bench.txt"
STAMP = FOLDER / ".ready"

NO_DEVICE = 100
"""What CUDA's functions return where there is no GPU (``cudaErrorNoDevice``)."""

CUDA_LIBRARY = re.compile(r"lib(?:cu|nv|nccl)[^\]]*")
PREFIXES = {"nccl": "libnccl", "cusparseLt": "libcusparseLt", "cuFile": "libcufile"}
"""Libraries whose symbols carry no version, by how their functions are called."""


def readelf(option: str, path: Path) -> str:
    words = ["readelf", "--wide", option, str(path)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def needed(path: Path) -> set[str]:
    """Names of CUDA's libraries that a library wants loaded."""
    names = re.findall(r"\(NEEDED\)[^\[]*\[([^\]]+)\]", readelf("--dynamic", path))
    return {name for name in names if CUDA_LIBRARY.fullmatch(name)}


def version_owners(path: Path) -> dict[str, str]:
    """Symbol version → library that is to define it."""
    owners, library = {}, ""
    for line in readelf("--version-info", path).splitlines():
        if match := re.search(r"File: (\S+)", line):
            library = match[1]
        if (match := re.search(r"Name: (\S+)", line)) and library:
            owners[match[1]] = library
    return owners


def undefined(path: Path) -> list[tuple[str, str, str]]:
    """Name, version (or empty) and type of every symbol that a library wants from elsewhere."""
    found = []
    for line in readelf("--dyn-syms", path).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[6] == "UND":
            name, _, version = fields[7].partition("@")
            found.append((name, version.lstrip("@"), fields[3]))
    return found


def make_stand_in(path: Path, symbols: set[tuple[str, str, str]]) -> None:
    """A library of that name that defines the symbols under their versions."""
    code, versions = [], {}
    for name, version, kind in sorted(symbols):
        is_object = kind == "OBJECT"
        code.append(f"int {name}[64];" if is_object else f"int {name}(void) {{ return {NO_DEVICE}; }}")
        versions.setdefault(version, []).append(name)
    script = "".join(
        f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items() if version
    )
    source, map_file = path.with_suffix(".c"), path.with_suffix(".map")
    source.write_text("\n".join(code) + "\n")
    map_file.write_text(script)
    words = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}", str(source)]
    words += [f"-Wl,--version-script={map_file}"] if script else []
    subprocess.run([*words, "-o", str(path)], check=True)
    source.unlink()
    map_file.unlink()


def make_stand_ins(folder: Path) -> list[str]:
    """Stand-ins for all that the libraries in a folder want of CUDA and that is not there. Returns names."""
    present = sorted(folder.glob("*.so*"))
    names = set().union(*map(needed, present)) - {path.name for path in present}
    wanted: dict[str, set[tuple[str, str, str]]] = {name: set() for name in names}
    for path in present:
        owners = version_owners(path)
        for name, version, kind in undefined(path):
            prefix = next((p for p in PREFIXES if name.startswith(p)), None)
            owner = owners.get(version, "")
            if not version and prefix:
                owner = next((n for n in names if n.startswith(PREFIXES[prefix] + ".")), "")
            if owner in wanted:
                wanted[owner].add((name, version, kind))
    for name, symbols in wanted.items():
        make_stand_in(folder / name, symbols)
    return sorted(names)


def main() -> None:
    if sys.version_info < (3, 11):
        raise SystemExit("the peers need Python 3.11 or newer; set PYTHON=…")
    print("making the peers' environment (once, about a minute, 2.3 GB)", flush=True)
    venv.create(FOLDER, with_pip=True, clear=True)
    python = FOLDER / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The lock names every package, so nothing else is resolved: PyTorch's wishes for a GPU are left out.
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", LOCK], check=True)
    libraries = next(FOLDER.glob("lib/python3.*/site-packages/torch/lib"))
    print(f"stand-ins for {', '.join(make_stand_ins(libraries))}", flush=True)
    check = "import torch, opacus, jax, jax_privacy, onnxruntime; assert not torch.cuda.is_available()"
    subprocess.run([python, "-c", check], check=True, env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"})
    STAMP.touch()


if __name__ == "__main__":
    main()
