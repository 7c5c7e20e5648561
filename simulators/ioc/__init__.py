"""A soft IOC: a simulated beamline as real EPICS PVs, which real ophyd devices connect to over Channel Access."""

from .process import RunningIoc, ca_environment, run_ioc
from .settings import FaultSettings, IocSettings, simulated_station_settings

__all__ = ["FaultSettings", "IocSettings", "RunningIoc", "ca_environment", "run_ioc", "simulated_station_settings"]
