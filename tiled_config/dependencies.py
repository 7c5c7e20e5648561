"""What FastAPI works out of a dependency's signature, kept from one request to the next."""

from typing import Any

_known: dict[tuple[Any, ...], Any] = {}


def remember_dependencies() -> None:
    """Keep what FastAPI finds out of each dependency of each route, for all servers of this process.

    Tiled replaces one dependency (its settings) by FastAPI's `dependency_overrides`. As soon as there is one, FastAPI
    (0.165, `solve_dependencies`) reads the signatures of all dependencies anew with every request, and evaluates their
    annotations, which are text: half of the processor time of a request. What it finds depends on its arguments alone.
    """
    from fastapi.dependencies import utils

    work_out = utils.get_dependant
    if getattr(work_out, "__module__", "") == __name__:
        return

    def get_dependant(**said: Any) -> Any:
        # As `solve_dependencies` asks; what is made for a route itself is changed afterwards, and cannot be shared.
        if "own_oauth_scopes" in said or "parent_oauth_scopes" not in said:
            return work_out(**said)
        key = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in said.items())
        if key not in _known:
            _known[key] = work_out(**said)
        return _known[key]

    utils.get_dependant = get_dependant
