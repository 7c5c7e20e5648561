"""Compiled functions, whose cache on disk knows all that they were made of."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function when it is first called, and keep the outcome on disk: ``njit`` that lets other threads run.

    Numba takes what it kept as long as the function's own file is the same. But what the function calls, from other
    files, is compiled into it; and an installer that replaces these files leaves numba's beside them. So the name under
    which it is kept holds a digest of all files with compiled functions, beside this one and beside the function's own.
    """

    def compile_later(function: _Function) -> _Function:
        folders = {Path(__file__).parent, Path(function.__code__.co_filename).parent}
        function.__qualname__ += "_" + "_".join(sorted(map(_digest, folders)))
        njit: Any = numba.njit
        return njit(nogil=True, cache=True, **options)(function)

    return compile_later


@lru_cache(maxsize=8)
def _digest(folder: Path) -> str:
    """Return a digest of the files of a folder that have, or name, compiled functions."""
    told = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        text = path.read_bytes()
        if any(each in text for each in (b"compiled(", b"kernel(", b"intrinsic")):
            told.update(text)
    return told.hexdigest()[:8]
