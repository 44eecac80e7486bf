"""A web site, or any pod that serves HTTP: HTTP/1.1 with keep-alive, with TLS where a certificate is given.

`python3 -m harness.programs.website CONFIG.json`, or this file's path in place of the module. Configuration:

    {"name": "www.f5.com", "version": null, "server_header": null, "body": null,
     "listen": [{"address": "0.0.0.0:443", "certificate": "chain.pem", "key": "key.pem"},
                {"address": "0.0.0.0:80"}]}

With `keylog` beside a certificate, the secrets of each TLS connection are appended to that file (NSS key log format).

/whoami answers with JSON what the site saw of its client; /status/NNN answers with that status; every other
path with 200 and a page that names site, path and client address. It prints `listening` for each address,
`ready`, then `request` for each answer, `tls-failed`, and `close` for each connection. The HTTP is its own,
because http.server takes as long to import as all the rest, and ten of these start at once.

Exit statuses: 0 after SIGTERM, 2 unusable configuration, 4 an address or certificate that does not work,
74 the log broke.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import sys
import threading
import time
from typing import Any

if not __package__:
    # Started as a file: its folder is the package, wherever it was put, so that its neighbours are found.
    _parent, _, __package__ = __file__.rpartition("/")[0].rpartition("/")
    sys.path.append(_parent or "/")

from .events import CANNOT_LISTEN, EventLog, parsed, read_config, refuse, written
from .web_request import REASONS, Answer, RefusedError, Request

IDLE = 30.0
"""Seconds that a client may be silent, in a handshake, between requests or within one."""
LINGER = 1.0
"""Seconds that a client may take to close after the last answer."""
HEAD_LIMIT = 16384


class _ClientEnded(Exception):
    """The client has ended its direction; the message says when."""


class Website:
    """All listeners of one site; a thread for each connection, so that a slow handshake delays nobody."""

    def __init__(self, config: dict[str, Any], log: EventLog) -> None:
        self._config = config
        self._log = log

    def open(self) -> None:
        """Listen on every address and serve from then on.

        Raises OSError when one cannot be listened on or its certificate not be read.
        """
        for entry in self._config["listen"]:
            context = None
            if entry.get("certificate"):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(entry["certificate"], entry["key"])
                if entry.get("keylog"):
                    context.keylog_filename = entry["keylog"]
            address = parsed(entry["address"])
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            listener = socket.create_server(address, family=family, backlog=1024)
            self._log.write("listening", local=written(listener.getsockname()), tls=context is not None)
            threading.Thread(target=self._accept, args=(listener, context), daemon=True).start()

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError as error:
                # Out of descriptors, most likely: the client queues until another connection has closed.
                self._log.write("accept-failed", reason=str(error))
                time.sleep(0.05)
                continue
            threading.Thread(target=self._serve, args=(sock, peer, context), daemon=True).start()

    def _serve(self, sock: socket.socket, peer: tuple[str, int], context: ssl.SSLContext | None) -> None:
        where = {"peer": written(peer), "local": written(sock.getsockname())}
        sock.settimeout(IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conversation = _Conversation(self._config, self._log, where, tls=context is not None)
        try:
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
        except OSError as error:
            reason = "tls failed"
            self._log.write("tls-failed", **where, reason=getattr(error, "reason", None) or str(error))
        else:
            reason = conversation.hold(sock)
        sock.close()
        self._log.write("close", **where, requests=conversation.requests, reason=reason)


class _Conversation:
    """The requests and answers of one connection."""

    def __init__(self, config: dict[str, Any], log: EventLog, where: dict[str, str], *, tls: bool) -> None:
        self.requests = 0
        self._config = config
        self._log = log
        self._where = where
        self._tls = tls
        self._buffer = b""

    def hold(self, sock: socket.socket) -> str:
        """Answer until one side ends; return which, or what broke."""
        try:
            while self._exchange(sock):
                pass
            sock.shutdown(socket.SHUT_WR)
            # A close with unread bytes would send a RST, and that can overtake the answer.
            sock.settimeout(LINGER)
            while sock.recv(65536):
                pass
        except _ClientEnded as ended:
            return str(ended)
        except OSError as error:
            return str(error)
        return "site ended"

    def _exchange(self, sock: socket.socket) -> bool:
        request = None
        try:
            request = Request(self._head(sock))
            self._skip_body(sock, request.body_length)
            answer = self._answer(request)
            keep = request.keep
        except RefusedError as refused:
            answer = Answer(refused.status, "text/plain", f"{REASONS[refused.status]}\n".encode())
            keep = False
        self.requests += 1
        self._report(request, answer.status)
        bare = request is not None and request.method == "HEAD"
        server = self._config.get("server_header")
        sock.sendall(answer.encoded(server=server, keep=keep, bare=bare))
        return keep

    def _head(self, sock: socket.socket) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > HEAD_LIMIT:
                raise RefusedError(431)
            self._more(sock)
            # Empty lines before a request are to be ignored (RFC 9112 section 2.2).
            self._buffer = self._buffer.lstrip(b"\r\n")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def _skip_body(self, sock: socket.socket, length: int) -> None:
        while len(self._buffer) < length:
            self._more(sock)
        self._buffer = self._buffer[length:]

    def _more(self, sock: socket.socket) -> None:
        data = sock.recv(65536)
        if not data:
            raise _ClientEnded("client ended within a request" if self._buffer else "client ended")
        self._buffer += data

    def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            raise RefusedError(405)
        path = request.path.partition("?")[0]
        name, version = self._config["name"], self._config.get("version")
        if path == "/whoami":
            seen = {"name": name, "version": version, **self._where, "tls": self._tls}
            seen |= {"path": request.path, "host": request.fields.get("host")}
            return Answer(200, "application/json", (json.dumps(seen) + "\n").encode())
        status = 200
        if path.startswith("/status/"):
            word = path.removeprefix("/status/")
            if not (len(word) == 3 and word.isdecimal() and "200" <= word <= "599"):
                raise RefusedError(404)
            status = int(word)
        page = self._config.get("body") or (
            f"<!doctype html>\n<title>{name}</title>\n"
            f"<p>This is {name}{f' {version}' if version else ''}, path {_escaped(request.path)}, "
            f"and you come from {self._where['peer']}.\n"
        )
        return Answer(status, "text/html;charset=utf-8", page.encode())

    def _report(self, request: Request | None, status: int) -> None:
        fields = request.fields if request else {}
        self._log.write(
            "request",
            **self._where,
            method=request.method if request else None,
            path=request.path if request else None,
            host=fields.get("host"),
            status=status,
            version=self._config.get("version"),
            tls=self._tls,
            user_agent=fields.get("user-agent"),
            token=fields.get("x-egresslab-token"),
        )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def main() -> None:
    """Run the configuration named on the command line until SIGTERM or SIGINT."""
    config = read_config(sys.argv)
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the first thread starts, so that only the wait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.stack_size(262144)
    log = EventLog()
    try:
        Website(config, log).open()
        log.write("ready", name=config["name"])
    except (KeyError, TypeError, ValueError) as error:
        refuse(f"{sys.argv[1]}: unusable: {error!r}")
    except OSError as error:
        refuse(f"{config.get('name')}: {error}", CANNOT_LISTEN)
    signal.sigwait(signals)
    log.write("stopped", name=config["name"])


if __name__ == "__main__":
    main()
