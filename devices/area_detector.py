"""An area detector that writes HDF5 while others read it (SWMR). PVs come from the settings."""

from typing import Any

from ophyd import ADComponent, DetectorBase, SingleTrigger
from ophyd.areadetector.cam import CamBase
from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite
from ophyd.areadetector.plugins import HDF5Plugin_V34


class SwmrHDF5Plugin(HDF5Plugin_V34, FileStoreHDF5IterativeWrite):
    """HDF5 file writer in SWMR mode that flushes every frame: one that is announced can be read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filestore_spec = "AD_HDF5_SWMR"
        # Both must be set before capture starts: areaDetector takes them when it opens the file.
        self.stage_sigs.update({"swmr_mode": "On", "num_frames_flush": 1})
        self.stage_sigs.move_to_end("capture")


def area_detector_class(cam_suffix: str, file_suffix: str) -> type[DetectorBase]:
    """Make the class of an area detector with a camera and an HDF5 writer: attributes `cam` and `hdf5`.

    A class a station, because ophyd takes the suffixes of a device's parts when the class is made.

    Parameters
    ----------
    cam_suffix, file_suffix
        What follows the detector's prefix, such as the camera's and the file plugin's PVs.

    Returns
    -------
    type
        Called with `(prefix, *, name, write_path, read_path=None, image_name=None)`. Its images are recorded under
        `<name>_image`, as Resource and Datum of spec AD_HDF5_SWMR.
    """

    class HedmAreaDetector(SingleTrigger, DetectorBase):
        """One frame a trigger, written to HDF5 in SWMR mode."""

        cam = ADComponent(CamBase, cam_suffix)
        hdf5 = ADComponent(SwmrHDF5Plugin, file_suffix, write_path_template="/")

        def __init__(
            self, prefix: str = "", *, name: str, write_path: str, read_path: str | None = None, **kwargs: Any
        ) -> None:
            super().__init__(prefix, name=name, **kwargs)
            self.hdf5.write_path_template = write_path
            self.hdf5.read_path_template = read_path
            self.stage_sigs.update({"cam.num_images": 1})

    return HedmAreaDetector
