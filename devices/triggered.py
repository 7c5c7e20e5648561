"""Area detectors whose frames a fly controller's pulses trigger."""

from typing import Any

from ..streaming.errors import SettingsError
from .frames import PluginFrames, Writer


class TriggeredDetector(PluginFrames):
    """An area detector whose frames the pulses trigger, and whose HDF5 plugin writes them.

    Parameters
    ----------
    device
        The device, as `area_detector_class` makes it.

    Raises
    ------
    SettingsError
        It writes something else than HDF5.
    """

    def __init__(self, device: Any) -> None:
        if not hasattr(device.hdf5, "frames_dataset"):
            raise SettingsError(
                f"detector {device.name!r} cannot fly: wanted a writer of HDF5, which tells its dataset and how many "
                "frames it has captured; scan in steps, or watch the folder of its files"
            )
        super().__init__(device.hdf5, name=device.name)
        self.device = device
        self.n_frames = 0
        "Frames to be armed for."

    def stage(self) -> list[object]:
        """Open a file and wait for the pulses."""
        self.device.use_fly(self.n_frames)
        self.begin()
        staged: Any = self.device.stage()
        self.dataset = self.device.hdf5.frames_dataset()
        # Not `set`, which would look for the 1 in a thread of its own, long after it has fallen back.
        self.device.cam.acquire.put(1)
        return list(staged)

    def unstage(self) -> list[object]:
        """Close the file, and go back to single frames."""
        try:
            unstaged: Any = self.device.unstage()
        finally:
            self.device.use_step()
        return list(unstaged)

    def disarm(self) -> None:
        """Wait for no more pulses; what has been read out is still written."""
        self.device.cam.acquire.put(0)

    def read_configuration(self) -> dict[str, Any]:
        """Read the detector's configuration."""
        return self.device.read_configuration()

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the detector's configuration."""
        return self.device.describe_configuration()

    def _now(self) -> tuple[str, int]:
        return str(self.device.file_path), int(self.device.hdf5.num_captured.get())


def writer_of(detector: Any) -> Writer:
    """Return what tells of a detector's frames: itself if it can, or else what follows its file plugin.

    Raises
    ------
    SettingsError
        There is neither.
    """
    if hasattr(detector, "get_index") and hasattr(detector, "collect_asset_docs"):
        return detector
    if hasattr(detector, "use_fly"):
        return TriggeredDetector(detector)
    raise SettingsError(
        f"detector {getattr(detector, 'name', detector)!r} cannot fly: wanted one that writes stream assets, or an "
        "area detector of the station's settings"
    )
