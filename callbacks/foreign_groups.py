"""Which files of a folder are a scan: by the patterns of the settings, those of several detectors together."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from ..streaming import SettingsError
from .foreign_files import first_of, firsts_of, is_known
from .settings import Settings

_STAR = re.compile(r"\*\*/|\*|\?")


def detectors_of(path: Path, settings: Settings) -> dict[str, Path]:
    """Return the data key of each detector's images and its file, for a scan of which one file is known.

    Raises
    ------
    SettingsError
        No pattern says whose file it is, or which are those of the other detectors.
    """
    keys = {detector.name: detector.image for detector in settings.detectors}
    patterns = _patterns(settings)
    if not patterns:
        return {settings.detectors[0].image: path}
    for base in path.absolute().parents:
        name = path.absolute().relative_to(base).as_posix()
        for pattern in patterns.values():
            texts = _texts(pattern, name)
            if texts is not None:
                found = {keys[each]: base / _filled(other, texts) for each, other in patterns.items()}
                return {key: first_of(file) for key, file in found.items()}
    if len(keys) == 1:
        return {settings.detectors[0].image: path}
    raise SettingsError(f"watch: no pattern of {patterns} matches {path.name}; wanted one to know its detector")


def scans_in(folder: Path, settings: Settings) -> list[dict[str, Path]]:
    """Return the files of each scan in a folder, by the data key of the images; in the order of their names."""
    keys = {detector.name: detector.image for detector in settings.detectors}
    patterns = _patterns(settings)
    if not patterns:
        found = [path for path in folder.iterdir() if path.is_file() and is_known(path)]
        return [{settings.detectors[0].image: path} for path in sorted(firsts_of(_kept(found, folder, settings)))]
    scans: dict[tuple[str, ...], dict[str, Path]] = {}
    for detector, pattern in patterns.items():
        matching = [path for path in folder.glob(pattern) if path.is_file()]
        for path in firsts_of(_kept(matching, folder, settings)):
            texts = _texts(pattern, path.relative_to(folder).as_posix())
            if texts is not None:
                scans.setdefault(tuple(texts), {})[keys[detector]] = path
    # Of a detector whose file is not there yet it is known how that will be called.
    return [
        {key: scans[texts].get(key, folder / _filled(patterns[name], texts)) for name, key in keys.items()}
        for texts in sorted(scans)
    ]


def _patterns(settings: Settings) -> Mapping[str, str]:
    """Return detector to pattern.

    Raises
    ------
    SettingsError
        They are not those of the detectors.
    """
    names, patterns = {detector.name for detector in settings.detectors}, settings.watch.patterns
    if not set(patterns) <= names:
        raise SettingsError(f"watch: patterns are of {sorted(patterns)}; the detectors are {sorted(names)}")
    if len(names) > 1 and set(patterns) != names:
        raise SettingsError(f"watch: patterns are of {sorted(patterns)}; wanted one for each of {sorted(names)}")
    return patterns


def _kept(paths: Iterable[Path], folder: Path, settings: Settings) -> list[Path]:
    def skipped(path: Path) -> bool:
        names = (path.name, path.relative_to(folder).as_posix())
        return path.name.startswith(".") or any(fnmatchcase(n, p) for n in names for p in settings.watch.skip)

    return [path for path in paths if not skipped(path)]


def _texts(pattern: str, name: str) -> tuple[str, ...] | None:
    """Return what stands in the place of the stars; None if the name does not match."""
    expression, end = "", 0
    for star in _STAR.finditer(pattern):
        some = {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "([^/])"}[star[0]]
        expression += re.escape(pattern[end : star.start()]) + some
        end = star.end()
    match = re.fullmatch(expression + re.escape(pattern[end:]), name)
    return None if match is None else match.groups()


def _filled(pattern: str, texts: Iterable[str]) -> str:
    remaining = iter(texts)
    return _STAR.sub(lambda star: next(remaining), pattern)
