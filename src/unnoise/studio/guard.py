"""What every request must be before the page's server looks at it.

The server works with the rights of the user who started it, and any web page can send requests to
it. So it answers only to its own name (DNS rebinding) and its own origin, changes nothing on GET,
takes POST only as application/json (which a foreign page cannot send unasked) and, where it can be
reached from other machines, asks for a token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "unnoise_token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Guard:
    """The middleware. `hosts` are the values of Host that are ours."""

    app: ASGIApp
    hosts: Collection[str]
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refused(scope) or self._without_token(scope)
        await (answer or self.app)(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> Response | None:
        headers, method = Headers(scope=scope), scope["method"]
        host = headers.get("host", "").lower()
        if len(headers.getlist("host")) > 1 or not self._is_ours(host):
            expected = f"expected {min(self.hosts)}, as in the address that it printed"
            return _no(421, f"Host: got {host[:80]!r}, {expected}")
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}":
            return _no(403, "Origin: requests of other pages are refused")
        kinds = [headers.get(f"sec-fetch-{name}") for name in ("site", "mode", "dest")]
        link = (method, scope["path"], *kinds[1:]) == ("GET", "/", "navigate", "document")
        if kinds[0] not in (None, "none", "same-origin") and not link:
            return _no(403, "Sec-Fetch-Site: requests of other pages are refused")
        if method not in ("GET", "HEAD", "POST"):
            return _no(405, f"method: got {method[:20]}, expected GET or POST")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            return _no(415, f"Content-Type: got {kind[:80]!r}, expected application/json")
        return None

    def _is_ours(self, host: str) -> bool:
        """An address of digits is no name that somebody's DNS can point here."""
        if self.token is None or host in self.hosts:
            return host in self.hosts
        name, _, port = host.rpartition(":")
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return f"localhost:{port}" in self.hosts

    def _without_token(self, scope: Scope) -> Response | None:
        """A token in the address becomes a cookie, one for each port."""
        if self.token is None:
            return None
        request = Request(scope)
        given, name = request.query_params.get("token"), f"{COOKIE}_{request.url.port or 80}"
        if given is not None and scope["path"] == "/" and self._is_token(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(name, given, httponly=True, samesite="strict")
            return answer
        if self._is_token(request.cookies.get(name, "")):
            return None
        return _no(401, "token: expected the whole address that `unnoise studio` printed")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


def _no(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": error}, status)
