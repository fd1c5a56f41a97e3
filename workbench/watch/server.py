"""The page's server: this machine only, a token in the address, no other site's scripts, one thing to change.

A page of another site that a browser shows can send requests to 127.0.0.1. So every request needs the token, the
``Host`` must be this machine's (else a name that is made to point here would do: DNS rebinding), nothing is allowed to
other origins, and what stops a run takes a header that no form can send.
"""

import secrets
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from server_app.results.folder import RunFolder
from workbench.watch.page import page, policy, report_policy
from workbench.watch.status import status

HOST = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def watcher(folder: Path, token: str) -> Starlette:
    """The application that shows the run in ``folder`` to who has ``token``.

    The report has an address of its own, which opens nothing else: what lies there may come from elsewhere, and a page
    can tell another server of its address.
    """
    report_token = secrets.token_urlsafe(24)

    def show(request: Request) -> Response:
        if not _same(request.query_params.get("token", ""), token):
            return PlainTextResponse("the address lacks the token that dr-encoder watch has printed", 403, _HEADERS)
        return HTMLResponse(page(), headers=_HEADERS | {"Content-Security-Policy": policy()})

    def tell(request: Request) -> Response:
        return _denied(request, token) or _told(folder, report_token)

    def report(request: Request) -> Response:
        given = request.query_params.get("token", "")
        if not _same(given, report_token) or not (folder / "report.html").is_file():
            return PlainTextResponse("no report here, or no token", 403, _HEADERS)
        text = (folder / "report.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers=_HEADERS | {"Content-Security-Policy": report_policy()})

    def stop(request: Request) -> Response:
        denied = _denied(request, token)
        if denied is not None:
            return denied
        if not RunFolder(folder).is_held():
            return JSONResponse({"error": "the run is not going on"}, 409, _HEADERS)
        try:
            RunFolder(folder).ask_to_stop()
        except OSError as error:
            return JSONResponse({"error": f"{folder.name}/stop: {error.strerror}"}, 409, _HEADERS)
        return JSONResponse({"stop_asked": True}, headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/", show),
            Route("/status", tell),
            Route("/report.html", report),
            Route("/stop", stop, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def _told(folder: Path, report_token: str) -> Response:
    """How the run stands, or that its files do not tell: somebody may have changed them."""
    try:
        found = status(folder, time.time())
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        said = f"the files of this run are damaged ({type(error).__name__})"
        return JSONResponse({"error": said}, 500, _HEADERS)
    return JSONResponse(found | {"report_token": report_token}, headers=_HEADERS)


def _denied(request: Request, token: str) -> Response | None:
    """Why a request is not answered: it lacks the token, or a page of another origin sends it."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    origin = request.headers.get("origin")
    if not _same(given, token) or (origin is not None and origin != f"http://{request.headers['host']}"):
        return JSONResponse({"error": "not allowed"}, 403, _HEADERS)
    return None


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())
