"""Serve as a settings file says, until SIGINT or SIGTERM: ``python -m hedmlive.tiled_config FILE.yml``."""

import sys

from ..streaming import HedmLiveError
from .server import serve


def main(arguments: list[str]) -> int:
    """Serve as the one file named says, and write the server's URI as one line when it answers.

    Returns
    -------
    int
        0 served and stopped, 1 could not serve, 2 wrong usage.
    """
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m hedmlive.tiled_config FILE.yml\n")
        return 2
    try:
        serve(arguments[0], ready=_announce)
    except HedmLiveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _announce(uri: str, _key: str) -> None:
    # The key stays out of a log file that others may read; it is in the key file.
    sys.stdout.write(f"{uri}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
