"""Compare two wheels file by file, and both distributions with the files that git tracks.

Usage: check_distributions.py DIRECT_WHEEL WHEEL_FROM_SDIST SDIST
"""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path


def wheel_files(path: str) -> dict[str, bytes]:
    """Content of each file of a wheel by its name."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def tracked_files(*folders: str) -> set[str]:
    """Names of the files that git tracks below `folders`."""
    listing = subprocess.run(["git", "ls-files", "-z", "--", *folders], capture_output=True, text=True, check=True)
    return {name for name in listing.stdout.split("\0") if name}


def complaints(what: str, got: set[str], wanted: set[str]) -> list[str]:
    """One line for each name that only one of the two sets holds."""
    return [f"{what}: {name} is too much" for name in sorted(got - wanted)] + [
        f"{what}: {name} is missing" for name in sorted(wanted - got)
    ]


def main(direct: str, from_sdist: str, sdist: str) -> int:
    """Print what differs, and return the exit code."""
    targets = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    one, other = wheel_files(direct), wheel_files(from_sdist)
    found = complaints("wheel from the sdist", set(other), set(one))
    found += [f"wheels differ in {name}" for name in sorted(set(one) & set(other)) if one[name] != other[name]]

    packaged = {name for name in one if ".dist-info/" not in name}
    tracked = {f"hedmlive/{name}" for name in tracked_files(*targets["wheel"]["packages"])}
    found += complaints("wheel", packaged, tracked)

    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()}
    # The build adds its own metadata, and the ignore file that it obeyed.
    held -= {"PKG-INFO", ".gitignore"}
    found += complaints("sdist", held, tracked_files(*targets["sdist"]["only-include"]))

    print("\n".join(found) or f"{len(one)} files in each wheel, {len(held)} in the sdist: all as tracked")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
