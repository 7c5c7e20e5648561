"""The process of a soft IOC: `python -m hedmlive.simulators.ioc SETTINGS.json`; prints one line when it answers."""

import os
import sys
from pathlib import Path

from .process import READY
from .server import serve_ioc
from .settings import IocSettings


def main() -> None:
    """Serve what the file says, at the port of EPICS_CA_SERVER_PORT."""
    settings = IocSettings.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))

    def ready() -> None:
        sys.stdout.write(f"{READY}\n")
        sys.stdout.flush()

    serve_ioc(settings, port=int(os.environ["EPICS_CA_SERVER_PORT"]), ready=ready)
    # Every file is closed. To take the interpreter apart would take seconds on a busy machine.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
