"""The fly controller of a rotation: position-synchronised output (PSO), as APS stations have it. PVs from settings."""

from ophyd import Component, Device, EpicsSignal, EpicsSignalRO
from ophyd.status import StatusBase

from ..streaming.errors import SettingsError


class PsoFlyController(Device):
    """Fires a pulse to the detectors each time the rotation has turned by `delta` degrees.

    Frame i integrates from `start + i * step` to `start + (i + 1) * step`, where step is `delta` with the sign of
    `end - start`: the controller takes delta without a sign (so the 1-ID macros set it). Start, end and delta are
    configuration, so a descriptor carries them as `<name>_start`, `<name>_end` and `<name>_delta`: from these omega of
    every frame follows where no event holds it.

    Parameters
    ----------
    prefix
        Of the controller's PVs, as `...PSOFly1:`.
    name
        Name of the device.
    """

    start = Component(EpicsSignal, "startPos", kind="config", doc="where the first frame starts [degrees]")
    end = Component(EpicsSignal, "endPos", kind="config", doc="where the last frame ends [degrees]")
    delta = Component(EpicsSignal, "scanDelta", kind="config", doc="sweep of one frame, without sign [degrees]")
    slew_speed = Component(EpicsSignal, "slewSpeed", kind="config", doc="speed of the scan [degrees/s]")
    delta_time = Component(EpicsSignalRO, "deltaTime", kind="config", doc="time from pulse to pulse [s]")
    detector_setup_time = Component(EpicsSignal, "detSetupTime", kind="config", doc="from a pulse to exposure [s]")
    pulse_type = Component(EpicsSignal, "pulseType", string=True, kind="config")
    scan_control = Component(EpicsSignal, "scanControl", string=True, kind="config")
    # Busy records: a put completes when the motion has ended and the record is back to 0.
    taxi = Component(EpicsSignal, "taxi", put_complete=True, kind="omitted", doc="1: drive to the run-up")
    fly = Component(EpicsSignal, "fly", put_complete=True, kind="omitted", doc="1: scan and fire the pulses")

    def set_scan(self, start: float, end: float, n_frames: int, exposure: float) -> dict[EpicsSignal, float]:
        """Return what a scan of `n_frames` equal intervals is set up with: signal -> value, for `bps.mv`.

        Nothing is written here, so that a plan stays what writes: `yield from bps.mv(*chain(*values.items()))`.

        Parameters
        ----------
        start, end
            Where the first frame starts and the last one ends [degrees]; end before start turns the other way.
        n_frames
            Number of frames, and of pulses.
        exposure
            Time of one frame from pulse to pulse, readout included [s].

        Raises
        ------
        SettingsError
            The numbers make no scan.
        """
        if n_frames < 1 or exposure <= 0 or start == end:
            raise SettingsError(
                f"fly scan of {self.name!r} from {start} to {end} degrees, {n_frames} frames of {exposure} s: start and"
                " end that differ, at least 1 frame and more than 0 s are wanted"
            )
        delta = abs(end - start) / n_frames
        return {self.start: start, self.end: end, self.delta: delta, self.slew_speed: delta / exposure}

    def taxi_status(self, timeout: float | None = None) -> StatusBase:
        """Drive to where the run-up begins; done when it is there. `timeout` in seconds, None for none."""
        return self.taxi.set(1, timeout=timeout)

    def fly_status(self, timeout: float | None = None) -> StatusBase:
        """Scan and fire the pulses; done when the stage has come to rest. `timeout` in seconds, None for none."""
        return self.fly.set(1, timeout=timeout)
