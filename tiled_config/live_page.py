"""The live view for a plain browser: the page ``/api/v1/hedm/live``, one file that asks this server and no other."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Response

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")

router = APIRouter()


def _policy(page: str) -> str:
    """Return what the browser lets the page do: its own script and style, and questions to where it came from."""
    allowed = {"default": "'none'", "connect": "'self'", "frame-ancestors": "'none'", "form-action": "'none'"}
    for kind, tag in (("script", "script"), ("style", "style")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        allowed[kind] = f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
    suffixed = {name if "-" in name else f"{name}-src": value for name, value in allowed.items()}
    return "; ".join(f"{name} {value}" for name, value in suffixed.items())


_HEADERS = {
    "Content-Security-Policy": _policy(PAGE),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@router.get("/hedm/live", include_in_schema=False)
async def live() -> Response:
    """Return the page. It holds no data: whoever opens it gives the key, with which it asks."""
    return Response(PAGE, media_type="text/html; charset=utf-8", headers=_HEADERS)
