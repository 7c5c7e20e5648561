"""ImageD11: the objects of its peaks table (``sinograms/properties.py``), from lit pixels.

Usage: python imaged11_tracks.py PIXELS.npz [PIXELS.npz ...]

with the interpreter of an environment that has ImageD11. A file holds, of a scan of rows of frames, ``omega`` and
``dty`` (rows, frames) in degrees and in any unit, ``shape`` (rows and columns of a frame), and of each lit pixel, in
raster order frame by frame, ``scan`` and ``frame`` (where in those), ``row``, ``col`` and ``intensity``; and as
``labels`` the name of ImageD11's labelling, ``lmlabel`` or ``cplabel``. Printed is one line of JSON for each: of each
object, by its number, how many pixels and peaks it has and the sum of its intensity; or a string, the error that ended
it.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ImageD11.sinograms import dataset, properties  # pyright: ignore[reportMissingImports]

Array = Any


def objects(pixels: dict[str, Array], folder: Path) -> list[list[int]]:
    """Let ImageD11 label, link and merge: what its program ``properties`` does with a data set."""
    omega, dty = pixels["omega"], pixels["dty"]
    names = [f"{number}.1" for number in range(1, len(omega) + 1)]
    with h5py.File(folder / "sparse.h5", "w") as file:
        for number, name in enumerate(names):
            mine = pixels["scan"] == number
            scan = file.create_group(name)
            height, width = map(int, pixels["shape"])
            scan.attrs.update(itype="uint16", nframes=omega.shape[1], shape0=height, shape1=width)
            scan["nnz"] = np.bincount(pixels["frame"][mine], minlength=omega.shape[1]).astype(np.uint32)
            for key, dtype in (("row", np.uint16), ("col", np.uint16), ("intensity", np.float32)):
                scan[key] = pixels[key][mine].astype(dtype)
            scan["measurement/rot_center"], scan["measurement/dty"] = omega[number], dty[number]
    described = dataset.DataSet(analysispath=str(folder))
    described.scans, described.omega, described.dty, described.shape = names, omega, dty, omega.shape
    described.sparsefile, described.pksfile = str(folder / "sparse.h5"), str(folder / "peaks.h5")
    described.save(str(folder / "dataset.h5"))
    properties.main(str(folder / "dataset.h5"), options={"algorithm": str(pixels["labels"]), "nproc": 1})
    table = properties.pks_table.load(str(folder / "peaks.h5"))
    label, numbers = table.glabel, table.pk_props
    sums = [np.bincount(label, weights) for weights in (numbers[0], None, numbers[1])]
    return np.stack(sums, 1).astype(int).tolist()


def main() -> None:
    """Print the objects of each file."""
    # ImageD11 and its processes print what they do.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for path in sys.argv[1:]:
        with np.load(path) as file, tempfile.TemporaryDirectory() as folder:
            try:
                answer: Any = objects(dict(file), Path(folder))
            except Exception as error:
                answer = repr(error)
        answers.write(json.dumps(answer) + "\n")
    answers.close()


if __name__ == "__main__":
    main()
