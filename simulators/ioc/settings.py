"""What a soft IOC simulates: the station whose PVs it serves, the sample and the detector behind them, and faults."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ...devices import StationSettings, load_station


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FaultSettings(_Settings):
    """Faults that are there from the start; each is a PV too, as `<prefix>fault:drop_frame`."""

    drop_frame: int = Field(default=-1, ge=-1, description="frame of a file, from 0, that its writer loses; -1 none")
    stuck: str = Field(default="", description="PV of the motor that no longer moves; empty: none")
    stale: str = Field(default="", description="PV whose value and time stamp stop; empty: none")
    file_late: float = Field(default=0.0, ge=0, description="how much later frames come to their file [s]")


class IocSettings(_Settings):
    """Everything the process of a soft IOC is started with."""

    station: StationSettings = Field(description="the station whose PVs are served")
    prefix: str = Field(default="SIM:", description="of the PVs that make faults")
    shape: tuple[int, int] = Field(default=(512, 512), description="rows and columns of every detector")
    n_grains: int = Field(default=20, ge=1, description="grains of the sample")
    seed: int = Field(default=0, ge=0, description="of grains and noise; detector i uses seed + i")
    frames_per_second: float = Field(default=30.0, gt=0, description="no detector takes more")
    velocity: float = Field(default=90.0, gt=0, description="of motors, in their unit per second")
    compress: bool = Field(default=True, description="whether frames are compressed (bitshuffle, LZ4)")
    reading_period: float = Field(default=0.5, gt=0, description="time between two readings of what does not move [s]")
    faults: FaultSettings = FaultSettings()


def simulated_station_settings(
    folder: str | Path, prefix: str = "SIM:", *, kind: str = "simulated", n_detectors: int = 1, writer: str = "hdf5"
) -> StationSettings:
    """Return the settings of a station that has everything a station can have, with PVs that begin with `prefix`.

    Parameters
    ----------
    folder
        Where its detectors write.
    prefix
        Of all its PVs.
    kind
        Of its detectors, as `devices.CAMS` names them.
    n_detectors
        How many it has: `ff1`, `ff2`, ...
    writer
        "hdf5" or "ge".
    """

    def detector(number: int) -> dict[str, Any]:
        return {
            "name": f"ff{number}",
            "kind": kind,
            "prefix": f"{prefix}ff{number}:",
            "cam_suffix": "cam1:",
            "file_suffix": "HDF1:" if writer == "hdf5" else "GE1:",
            "writer": writer,
            "write_path": str(Path(folder).absolute()),
            "dataset": "/exchange/data",
            "dataset_by_frame_type": writer == "hdf5",
            "step": {"cam.trigger_mode": "Internal"},
            "fly": {"cam.trigger_mode": "External"},
        }

    return load_station(
        {
            "rotation": {"name": "aero", "pv": f"{prefix}m1", "omega_sign": 1, "step_pv": f"{prefix}omega_step"},
            "translation": {"name": "detz", "distances": {"L1": f"{prefix}m2", "L2": f"{prefix}m3"}},
            "energy": {"name": "mono", "pv": f"{prefix}energy", "setpoint_pv": f"{prefix}energy_setpoint"},
            "sample": {
                "name": "sample",
                "lattice_pv": f"{prefix}lattice",
                "space_group_pv": f"{prefix}space_group",
            },
            "monitor": {"name": "monitor", "pv": f"{prefix}monitor", "units": "counts"},
            "ring_current": {"name": "ring", "pv": f"{prefix}ring_current", "units": "mA"},
            "shutter": {"name": "shutter", "pv": f"{prefix}shutter", "values": ("Open", "Close")},
            "motors": {"dty": f"{prefix}m4", "samY": f"{prefix}m5"},
            "fly_controller": {"name": "pso", "prefix": f"{prefix}PSOFly1:"},
            "detectors": [detector(number) for number in range(1, n_detectors + 1)],
        }
    )
