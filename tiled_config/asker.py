"""Who asks one of our endpoints, and what of the tree may be seen or changed: Tiled's own rules decide."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Request
from tiled.server.authentication import (
    get_current_access_tags,
    get_current_principal,
    get_current_scopes,
    get_session_state,
)
from tiled.server.dependencies import get_entry, get_root_tree
from tiled.structures.core import StructureFamily


class Asker:
    """Who asks; one for a request, as FastAPI makes it."""

    def __init__(
        self,
        request: Request,
        principal: Annotated[Any, Depends(get_current_principal)],
        root_tree: Annotated[Any, Depends(get_root_tree)],
        session_state: Annotated[Any, Depends(get_session_state)],
        access_tags: Annotated[Any, Depends(get_current_access_tags)],
        scopes: Annotated[Any, Depends(get_current_scopes)],
    ) -> None:
        self._request = request
        self._who = (principal, access_tags, scopes)
        self._session_state = session_state
        self._policy = getattr(request.app.state, "access_policy", None)
        self.root = root_tree
        "The root of the tree."

    @property
    def owns_all(self) -> bool:
        """Whether there is no access policy: whoever has the key may do everywhere what it is for."""
        return self._policy is None

    async def entry(self, path: str, scopes: Sequence[str], family: StructureFamily) -> Any:
        """Return a node of this kind, found step by step; 404 or 403 if it is not there for whoever asks."""
        state = self._session_state, self._request.state.metrics
        return await get_entry(path, scopes, *self._who, self.root, *state, {family}, self._policy)

    async def may(self, scope: str, node: Any) -> bool:
        """Tell whether whoever asks has a scope for a node."""
        return self._policy is None or scope in await self._policy.allowed_scopes(node, *self._who)
