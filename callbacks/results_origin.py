"""Where a result comes from: the run, the reduction of it, and the frames."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..streaming import ArchiveError, SettingsError
from .raw_reader import RawArchiveReader
from .reduced_reader import ReducedArchiveReader

KINDS = ("raw", "reduced", "results")
"""Ends of the names of a run's archives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The way back from a result."""

    path: Path
    "The results archive."
    run_uid: str
    "uid of the run."
    raw: str = ""
    "Name of the raw archive beside it; empty if there is none."
    frames: tuple[str, ...] = ()
    "Datasets of the frames in the raw archive."
    reduced: str = ""
    "Name of the reduced archive; empty if it was not made from one."
    reduction: int = -1
    "Number of the reduction; -1 if it was made from none, or that is not known."
    reduction_uid: str = ""
    "Its uid."
    reduction_digest: str = ""
    "Its digest."
    detector: str = ""
    "The detector that was reduced."

    def attributes(self) -> dict[str, Any]:
        """Return it as the attributes of a result."""
        return {
            "raw_run_uid": self.run_uid,
            "raw_archive": self.raw,
            "frames": json.dumps(self.frames),
            "reduced_archive": self.reduced,
            "reduction": self.reduction,
            "reduction_uid": self.reduction_uid,
            "reduction_digest": self.reduction_digest,
            "detector": self.detector,
        }


def origin_of(archive: Path, reduction: int | None = None) -> Origin:
    """Return where a result comes from that was made from an archive.

    Parameters
    ----------
    archive
        A raw, reduced or results archive of the run.
    reduction
        Number of the reduction; needed where the reduced archive holds several.

    Raises
    ------
    SettingsError
        The name is none of an archive, or the reduction is not named.
    ArchiveError
        It cannot be read, or there is no such reduction.
    """
    kind = next((kind for kind in KINDS if archive.name.endswith(f"_{kind}.h5")), None)
    if kind is None:
        raise SettingsError(f"{archive}: wanted an archive of a run: *_reduced.h5, *_raw.h5 or *_results.h5")
    stem = archive.name.removesuffix(f"_{kind}.h5")
    paths = {each: archive.with_name(f"{stem}_{each}.h5") for each in KINDS}
    if not archive.exists():
        raise ArchiveError(f"{archive}: no such file; wanted an archive of a run")
    if kind == "reduced" or reduction is not None:
        return _of_reduction(paths, reduction)
    if kind == "raw":
        with RawArchiveReader(archive) as raw:
            names = [detector.name for detector in raw.settings().detectors]
            return Origin(path=paths["results"], run_uid=raw.run_uid, raw=archive.name, frames=_frames(names))
    from .results_archive import ResultsArchiveReader

    with ResultsArchiveReader(archive) as results:
        return Origin(path=archive, run_uid=results.run_uid, **_raw_beside(paths["raw"], results.run_uid))


def _of_reduction(paths: dict[str, Path], reduction: int | None) -> Origin:
    path = paths["reduced"]
    with ReducedArchiveReader(path) as reader:
        if reduction is None and len(reader.attempts) != 1:
            raise SettingsError(f"{path}: holds reductions {list(reader.attempts)}; say which, with --reduction")
        number = reader.attempts[0] if reduction is None else reduction
        said = reader.attributes(number)
        if not said.get("digest"):
            raise ArchiveError(f"{path}: reduction {number} is not finished, so that a result cannot be traced to it")
        return Origin(
            path=paths["results"],
            run_uid=reader.run_uid,
            reduced=path.name,
            reduction=number,
            reduction_uid=str(said["reduction_uid"]),
            reduction_digest=str(said["digest"]),
            detector=str(said["detector"]),
            **_raw_beside(paths["raw"], reader.run_uid, str(said["detector"])),
        )


def _raw_beside(path: Path, run_uid: str, *detectors: str) -> dict[str, Any]:
    """Return what is known of the raw archive, if it lies beside and is the run's."""
    try:
        with RawArchiveReader(path) as raw:
            if raw.run_uid != run_uid:
                return {}
            names = detectors or tuple(detector.name for detector in raw.settings().detectors)
    except (ArchiveError, SettingsError):
        return {}
    return {"raw": path.name, "frames": _frames(names)}


def _frames(detectors: Any) -> tuple[str, ...]:
    return tuple(f"/entry/instrument/{name}/data" for name in detectors)
