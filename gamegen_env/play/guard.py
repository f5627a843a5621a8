"""Who may talk to the server, and how refusals are answered."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",  # the token is in the URL
    "X-Content-Type-Options": "nosniff",
}


def check_token(connection: HTTPConnection, token: str | None) -> None:
    """Raises: PermissionError if a token is needed and another one came."""
    got = connection.query_params.get("token", "")
    if token and not secrets.compare_digest(got.encode(), token.encode()):
        raise PermissionError("expected the token that the server printed in its URL")


def check_origin(connection: HTTPConnection) -> None:
    """Let pass what comes from our own page, and programs, which send no Origin.

    Raises: PermissionError if a browser's request comes from another page.
    """
    origin = connection.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != connection.headers.get("host"):
        raise PermissionError("expected a request from this server's page, got one from another")


async def refuse(request: Request, error: Exception) -> Response:
    """Answer an exception with its text and a fitting status."""
    status = {PermissionError: 403, LookupError: 404}.get(type(error), 400)
    return JSONResponse({"error": str(error)}, status)
