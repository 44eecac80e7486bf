"""One HTTP/1.1 request and its answer, as bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

BODY_LIMIT = 1048576
REASONS = {
    200: "OK",
    204: "No Content",
    301: "Moved Permanently",
    302: "Found",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class RefusedError(Exception):
    """A request that is answered with an error status, after which the connection is closed."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


class Request:
    """A request's head.

    Raises RefusedError when it is not one of HTTP/1.0 or 1.1.
    """

    def __init__(self, head: bytes) -> None:
        first, *fields = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
            raise RefusedError(400)
        self.method, self.target, self.version = words
        self.fields: dict[str, str] = {}
        for line in fields:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise RefusedError(400)
            self.fields[name.lower()] = value.strip()
        if self.version == "HTTP/1.1" and "host" not in self.fields:
            raise RefusedError(400)

    @property
    def path(self) -> str:
        """The target without scheme and host, should it have them (RFC 9112 section 3.2.2)."""
        if self.target.startswith("/"):
            return self.target
        return "/" + self.target.partition("://")[2].partition("/")[2]

    @property
    def keep(self) -> bool:
        """Whether the client expects the connection to stay."""
        wish = self.fields.get("connection", "").lower()
        return wish != "close" if self.version == "HTTP/1.1" else wish == "keep-alive"

    @property
    def body_length(self) -> int:
        """How many bytes follow the head."""
        if "transfer-encoding" in self.fields:
            raise RefusedError(501)
        length = self.fields.get("content-length", "0")
        if not length.isdecimal():
            raise RefusedError(400)
        if int(length) > BODY_LIMIT:
            raise RefusedError(413)
        return int(length)


@dataclass(frozen=True)
class Answer:
    """A status with its page; `kind` is the media type."""

    status: int
    kind: str
    page: bytes

    def encoded(self, *, server: str | None, keep: bool, bare: bool) -> bytes:
        """Return the response; `bare` leaves the page away, as the answer to HEAD does."""
        lines = [
            f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}",
            f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}",
        ]
        if server:
            lines.append(f"Server: {server}")
        if self.status == 405:
            lines.append("Allow: GET, HEAD")
        bodiless = self.status in (204, 304)
        if not bodiless:
            lines += [f"Content-Type: {self.kind}", f"Content-Length: {len(self.page)}"]
        lines.append(f"Connection: {'keep-alive' if keep else 'close'}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if bare or bodiless else head + self.page
