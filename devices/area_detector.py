"""Area detectors of HEDM stations, and the files that they write. PVs come from the settings."""

import time
from collections.abc import Mapping
from typing import Any, Literal

from ophyd import ADComponent, Component, DetectorBase, Device, Signal, SingleTrigger
from ophyd.areadetector import cam as cams
from ophyd.areadetector.filestore_mixins import (
    FileStoreHDF5IterativeWrite,
    FileStoreIterativeWrite,
    FileStorePluginBase,
)
from ophyd.areadetector.plugins import FileBase, HDF5Plugin_V34
from ophyd.device import Staged

from ..streaming.errors import SettingsError

GE_HEADER = 8192
"""Bytes before the first frame of a GE raw file."""

NEXUS_DATASET = "/entry/data/data"
"""Where areaDetector's HDF5 plugin puts frames if no layout file says otherwise."""

Writer = Literal["hdf5", "ge"]


class GeCam(cams.CamBase):
    """A General Electric angio panel. ophyd has no class for it: what all cameras have is what we need."""


class OryxCam(cams.CamBase):
    """A FLIR Oryx by its GenICam driver, whose further features differ from camera to camera."""


class VarexCam(cams.PerkinElmerDetectorCam):
    """A Varex panel: its driver is the one of Perkin Elmer."""


CAMS: dict[str, type[cams.CamBase]] = {
    "any": cams.CamBase,
    "dexela": cams.DexelaDetectorCam,
    "eiger": cams.EigerDetectorCam,
    "ge": GeCam,
    "oryx": OryxCam,
    "pilatus": cams.PilatusDetectorCam,
    "simulated": cams.SimDetectorCam,
    "varex": VarexCam,
}
"""Kinds of area detector, and the class of the camera of each. A pair of panels is two detectors."""


class SwmrHDF5Plugin(HDF5Plugin_V34, FileStoreHDF5IterativeWrite):
    """HDF5 file writer in SWMR mode that flushes every frame: one that is announced can be read.

    `dataset` is where the frames lie in its files. With `dataset_by_frame_type` it is instead what the camera's
    FrameType reads when the file opens, as in layouts that sort frames into `/exchange/data`, `/exchange/dark`, ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filestore_spec = "AD_HDF5_SWMR"
        self.dataset = NEXUS_DATASET
        self.dataset_by_frame_type = False
        # Blocking, so that a frame is in the file before the camera says that it is done. All must be set before
        # capture starts: areaDetector takes them when it opens the file.
        self.stage_sigs.update({"swmr_mode": "On", "num_frames_flush": 1, "blocking_callbacks": "Yes"})
        self.stage_sigs.move_to_end("capture")

    def frames_dataset(self) -> str:
        """Return where the frames of the file that is open, or opens next, lie in it.

        Raises
        ------
        SettingsError
            FrameType is to say it and names no dataset.
        """
        if not self.dataset_by_frame_type:
            return self.dataset
        camera: Any = self.parent.cam
        kind = str(camera.frame_type.get(as_string=True))
        if not kind.startswith("/"):
            raise SettingsError(
                f"detector {self.parent.name!r}: FrameType reads {kind!r}; with dataset_by_frame_type a dataset as"
                " '/exchange/data' is wanted: load the records of the layout, or name the dataset in the settings"
            )
        return kind

    def _generate_resource(self, resource_kwargs: Mapping[str, Any]) -> None:
        dataset = self.frames_dataset()
        # Readers of the spec know the usual place, and not all of them the word.
        place = {} if dataset == NEXUS_DATASET else {"dataset": dataset}
        super()._generate_resource({**resource_kwargs, **place})


class GeFileWriter(FileBase, FileStorePluginBase, FileStoreIterativeWrite):
    """Writer of GE raw files: a header of 8192 bytes, then frames of uint16, one after the other.

    Announced by Resource of spec `AD_GE`, whose arguments name header, type and shape of a frame.
    """

    # ophyd's detectors ask every plugin whether it is enabled; a driver that writes always is.
    enable = Component(Signal, value=1, kind="omitted")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filestore_spec = "AD_GE"
        # Names of files change from one to the next, and Resource says them.
        self.configuration_attrs = ["file_write_mode"]
        # A plugin's: a driver has none.
        self.stage_sigs.pop("array_counter", None)
        self.stage_sigs.update({"file_template": "%s%s_%6.6d.ge", "file_write_mode": "Stream", "capture": 1})

    def stage(self) -> Any:
        """Open a file and announce it."""
        staged = super().stage()
        size = self.parent.cam.array_size.get()
        shape = [int(size.array_size_y), int(size.array_size_x)]
        frames = {"frame_per_point": int(self.parent.cam.num_images.get()), "shape": shape, "dtype": "<u2"}
        self._generate_resource({**frames, "header_bytes": GE_HEADER})
        return staged


class HedmAreaDetector(SingleTrigger, DetectorBase):
    """An area detector with a camera `cam` and a file writer `hdf5`: one frame a trigger, or many on pulses.

    Made by `area_detector_class`. Its images are recorded under `<name>_image`.
    """

    lazy_wait_for_connection = False

    cam: Any
    hdf5: Any

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        write_path: str,
        read_path: str | None = None,
        step_signals: Mapping[str, Any] | None = None,
        fly_signals: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        # What reads as an image is the file's reference to it, and ophyd reads no part of a detector unasked.
        self.read_attrs = ["hdf5"]
        self.hdf5.read_attrs = []
        self.hdf5.write_path_template = write_path
        self.hdf5.read_path_template = read_path
        self._of_mode = {"step": dict(step_signals or {}), "fly": dict(fly_signals or {})}
        self.mode = ""
        self.use_step()

    def stage(self) -> list[object]:
        """Set it up and open a file."""
        if self._staged == Staged.partially:  # a plan failed while the IOC was away, and could not unstage it
            super().unstage()
        return super().stage() or [self]  # ophyd's triggers forget to say what they staged

    def unstage(self) -> list[object]:
        """Close the file and put back what staging has changed."""
        return super().unstage() or [self]

    def trigger(self) -> Any:
        """Take one frame.

        Raises
        ------
        SettingsError
            The detector is not staged.
        """
        if self._staged != Staged.yes:
            raise SettingsError(f"detector {self.name!r} was triggered unstaged: stage it first")
        # ophyd's own returns what its callback has replaced by None where the frame was faster than the call.
        self._status = status = self._status_type(self)
        self.generate_datum(self._image_name, time.time(), {})
        self._acquisition_signal.put(1, wait=False)
        return status

    def use_step(self) -> None:
        """From the next staging on, take one frame a trigger, with the settings' `step` signals."""
        self._use("step", 1)

    def use_fly(self, n_frames: int) -> None:
        """From the next staging on, take `n_frames` on pulses from outside, with the settings' `fly` signals.

        `cam.acquire` then arms it once; it falls back to 0 when the last frame is taken.
        """
        if n_frames < 1:
            raise SettingsError(f"detector {self.name!r}: a fly scan of {n_frames} frames; at least 1 is wanted")
        self._use("fly", n_frames)

    @property
    def file_path(self) -> str:
        """The file that is open, as this computer sees it; empty before the first."""
        return str(self.hdf5._fn or "")  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] # ophyd offers no other

    def _use(self, mode: Literal["step", "fly"], n_frames: int) -> None:
        for signal in self._of_mode.get(self.mode, {}):
            self.stage_sigs.pop(signal, None)
        self.mode = mode
        self.stage_sigs.update({**self._of_mode[mode], "cam.num_images": n_frames})


def area_detector_class(
    cam_suffix: str, file_suffix: str, *, kind: str = "any", writer: Writer = "hdf5"
) -> type[HedmAreaDetector]:
    """Make the class of an area detector with a camera and a file writer: attributes `cam` and `hdf5`.

    A class a station, because ophyd takes the suffixes of a device's parts when the class is made.

    Parameters
    ----------
    cam_suffix, file_suffix
        What follows the detector's prefix, such as the camera's and the file plugin's PVs.
    kind
        Kind of the camera, one of `CAMS`.
    writer
        What writes the files: the HDF5 plugin in SWMR mode, or a driver that writes GE raw files.

    Returns
    -------
    type
        Called with `(prefix, *, name, write_path, read_path=None, image_name=None)`. Its images are recorded under
        `<name>_image`, as Resource and Datum of spec AD_HDF5_SWMR or AD_GE.

    Raises
    ------
    SettingsError
        The kind is unknown.
    """
    if kind not in CAMS:
        raise SettingsError(f"detector kind {kind!r} is unknown: use one of {', '.join(sorted(CAMS))}")
    file_class: type[Device] = SwmrHDF5Plugin if writer == "hdf5" else GeFileWriter

    def patient(cls: type[Device]) -> type[Device]:
        # ophyd touches some signals when it makes the device, and would give up on them after a second.
        return type(cls.__name__, (cls,), {"lazy_wait_for_connection": False})

    parts = {
        "cam": ADComponent(patient(CAMS[kind]), cam_suffix),
        "hdf5": ADComponent(patient(file_class), file_suffix, write_path_template="/"),
    }
    return type("HedmAreaDetector", (HedmAreaDetector,), parts)
