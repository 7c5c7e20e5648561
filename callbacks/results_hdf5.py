"""Results of other programs in HDF5: grains of ImageD11, maps of HEXOMAP."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import SettingsError
from .hdf5 import dataset, subgroup
from .results_layout import NewResult
from .results_readers import hexomap_result, imaged11_result


def read_hdf5(path: Path) -> NewResult:
    """Read grains of ImageD11, or a map of HEXOMAP.

    Raises
    ------
    SettingsError
        It is neither, or not whole.
    """
    try:
        with h5py.File(path, "r") as file:
            if "slices" in file:
                return _map(path, subgroup(file, "slices"))
            if "grains" in file:
                return _grains(path, subgroup(file, "grains"))
    except SettingsError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise SettingsError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    raise SettingsError(f"{path}: neither `grains` of ImageD11 nor `slices` of HEXOMAP are in it")


def _grains(path: Path, group: h5py.Group) -> NewResult:
    found: list[dict[str, Any]] = []
    for name in sorted((name for name in group if name.isdigit()), key=int):
        here = subgroup(group, name)
        grain: dict[str, Any] = {"ubi": np.asarray(dataset(here, "ubi")[()], np.float64)}
        if grain["ubi"].shape != (3, 3) or not np.linalg.det(grain["ubi"]) > 0:
            raise SettingsError(f"{path}: {here.name}/ubi is no cell; wanted (3, 3), determinant above 0")
        if "translation" in here:
            grain["translation"] = np.asarray(dataset(here, "translation")[()], np.float64).reshape(3)
        grain |= {each: int(dataset(here, each)[()]) for each in ("npks", "nuniq") if each in here}
        found.append(grain)
    if not found:
        raise SettingsError(f"{path}: {group.name} holds no grain; wanted groups 0, 1, ... with ubi")
    return imaged11_result(path, found)


def _map(path: Path, group: h5py.Group) -> NewResult:
    layers = sorted((name for name in group if name[:1] == "z" and name[1:].isdigit()), key=lambda name: int(name[1:]))
    if len(layers) != 1:
        # How far they lie apart is not in the file.
        raise SettingsError(f"{path}: {group.name} holds layers {layers}; wanted one, for their heights are not said")
    layer = subgroup(group, layers[0])
    x, y, share, phase = (np.asarray(dataset(layer, name)[()]) for name in ("x", "y", "Confidence", "phase"))
    angles = np.asarray(dataset(layer, "EulerAngles")[()], np.float64)
    if angles.shape != (*x.shape, 3) or not x.shape == y.shape == share.shape == phase.shape:
        raise SettingsError(f"{path}: {layer.name}: x has shape {x.shape}, EulerAngles {angles.shape}; wanted (..., 3)")
    position = np.stack([x.ravel(), y.ravel(), np.full(x.size, np.nan)], axis=1).astype(np.float64)
    return hexomap_result(path, position, angles.reshape(-1, 3), share.ravel(), phase.ravel(), None)
