"""The page on which people judge: a server on this machine alone, from the standard library.

It answers only to whoever knows the random token in its address, and only under a name of this machine, so that no page of
the web can reach it (DNS rebinding). Nothing on the page comes from elsewhere: the policy in `HEADERS` forbids it, and texts
are text. A judgement is on the disk before the answer to it is sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, quote, unquote, urlsplit

from jinja2 import Environment, FileSystemLoader, select_autoescape

from cluster import storage
from ray_jobs.errors import UserError

TEMPLATES = Path(__file__).parents[1] / "templates"
ASSETS = {"inspect.css": "text/css; charset=utf-8", "inspect.js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
OWN_NAMES = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 1 << 16  # of what a form sends
PATIENCE_SECONDS = 30  # with a client that has connected and says nothing


class Desk(Protocol):
    """What the pages show and where judgements go: texts (`ray_jobs.inspect.desk`) or pairs of answers (`pairs`)."""

    def page(self, key: str | None) -> dict | None:
        """What the template needs for an item, or without a key for the next one; None when there is no such item."""
        ...

    def judge(self, form: Mapping[str, list[str]]) -> str | None:
        """Save a judgement; what is wrong with the form, or None."""
        ...

    def undo(self, key: str) -> bool:
        """Take a judgement back; whether there was one."""
        ...

    def scores(self) -> dict:
        """What the template needs for the page of scores."""
        ...


class Server(ThreadingHTTPServer):
    """Serves a desk at `http://127.0.0.1:<port>/<token>/`. Port 0 takes a free one. Raises UserError for a port that is taken."""

    daemon_threads = True

    def __init__(self, desk: Desk, port: int):
        self.desk = desk
        self.token = secrets.token_urlsafe(16)
        self.environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape())
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror}; give another one") from None
        except OverflowError:
            raise UserError(f"--port {port}: must be from 0 to 65535") from None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = PATIENCE_SECONDS
    server_version = "pinisi"
    sys_version = ""

    def do_GET(self) -> None:
        if (place := self._place()) is None:
            return
        if place in ASSETS:
            self._send(HTTPStatus.OK, (TEMPLATES / place).read_bytes(), ASSETS[place])
            return
        key = unquote(place.removeprefix("item/")) if place.startswith("item/") else None
        if key is None and place not in ("", "scores"):
            self._fail(HTTPStatus.NOT_FOUND)
            return
        try:
            found = self.server.desk.scores() if place == "scores" else self.server.desk.page(key)
        except storage.faults() as error:
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, f"the run cannot be read or written: {error}")
            return
        if found is None:
            self._fail(HTTPStatus.NOT_FOUND)
            return
        page = self.server.environment.get_template("inspect.html").render(base=f"/{self.server.token}", **found)
        self._send(HTTPStatus.OK, page.encode("utf-8", "backslashreplace"), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if (place := self._place()) is None:
            return
        if place not in ("label", "undo"):
            self._fail(HTTPStatus.NOT_FOUND)
            return
        size = self.headers.get("Content-Length", "")
        if not size.isascii() or not size.isdigit() or int(size) > MOST_BYTES:
            self.close_connection = True  # what was not read would be taken for the next request
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE if size.isdigit() else HTTPStatus.LENGTH_REQUIRED)
            return
        try:
            form = parse_qs(self.rfile.read(int(size)).decode("utf-8", "replace"), max_num_fields=50)
        except ValueError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
            return
        key = form.get("key", [""])[0]
        try:
            if place == "undo":
                then = f"item/{quote(key, safe='')}" if self.server.desk.undo(key) else ""
            elif wrong := self.server.desk.judge(form):
                self._fail(HTTPStatus.BAD_REQUEST, wrong)
                return
            else:
                then = ""
        except storage.faults() as error:
            self._fail(HTTPStatus.INSUFFICIENT_STORAGE, f"the judgement could not be written: {error}")
            return
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", f"/{self.server.token}/{then}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _place(self) -> str | None:
        """What is asked for below the token; None, and answered, where the asker may not."""
        path = urlsplit(self.path).path
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not _own(f"//{host}") or (origin is not None and not _own(origin)):
            self._fail(HTTPStatus.FORBIDDEN, "this page is for the machine that it runs on; open it as localhost")
            return None
        token, _, place = path.removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._fail(HTTPStatus.NOT_FOUND)
            return None
        return place

    def _fail(self, status: HTTPStatus, said: str = "") -> None:
        if self.command == "POST":
            self.close_connection = True
        self._send(status, (said or status.phrase).encode("utf-8", "replace"), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for every key that somebody presses tells nobody anything, and it would hold the token."""


def _own(address: str) -> bool:
    """Whether an address is of this machine."""
    try:
        return urlsplit(address).hostname in OWN_NAMES
    except ValueError:
        return False
