"""A server on this machine whose paths are ways to misbehave."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from data.download import CHUNK

BODY = bytes(range(256)) * 800  # 204,800 bytes: several chunks


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Hostile)
        self.asked: list[str] = []
        self.headers_seen: dict[str, str] = {}
        self.drips = 0
        self.archive = b""  # what `archive` answers
        self.gate = threading.Event()  # lets those go who wait


class Hostile(BaseHTTPRequestHandler):
    """The path says how to misbehave."""

    server: "Server"  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.headers_seen = dict(self.headers)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, self.path.strip("/").split("?")[0])()

    def head(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, body, **headers):
        self.head(Content_Length=len(body), **headers)
        self.wfile.write(body)

    def good(self):
        self.body(BODY)

    def archive(self):
        self.body(self.server.archive)

    def without_length(self):
        self.head()
        self.wfile.write(BODY)

    def chunked(self):
        self.head(Transfer_Encoding="chunked")
        for start in range(0, len(BODY), 50_000):
            part = BODY[start : start + 50_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def short(self):
        self.head(Content_Length=len(BODY))
        self.wfile.write(BODY[:1000])

    def short_without_length(self):
        self.head()
        self.wfile.write(BODY[:-1])

    def html(self):
        self.body(b"<html>please log in</html>", Content_Type="text/html")

    def wrong(self):
        self.body(BODY[:-1] + b"!")

    def long(self):
        self.body(BODY + b"!")

    def compressed(self):
        self.body(BODY, Content_Encoding="gzip")

    def missing(self):
        self.send_error(404)

    def broken(self):
        self.send_error(503)

    def hung_up(self):
        self.connection.close()

    def endless(self):
        self.head()
        while True:
            self.wfile.write(b"x" * CHUNK)

    def silent(self):
        self.server.gate.wait(20)

    def silent_after_headers(self):
        self.head(Content_Length=len(BODY))
        self.wfile.flush()
        self.server.gate.wait(20)

    def half(self):
        self.head(Content_Length=len(BODY))
        self.wfile.write(BODY[: len(BODY) // 2])
        self.server.gate.wait(20)

    def dripping(self):
        self.head(Content_Length=len(BODY))
        for _ in range(200):
            self.wfile.write(b"x")
            self.server.drips += 1
            if self.server.gate.wait(0.05):
                return

    def redirect(self):
        self.head(301, Location="/good", Content_Length=0)

    def endless_redirect(self):
        self.head(302, Location="/good")
        while True:
            self.wfile.write(b"x" * CHUNK)

    def redirect_to_http(self):  # another name of this very server, outside the allowed prefix
        self.head(302, Location=f"http://localhost:{self.server.server_port}/good", Content_Length=0)

    def redirect_to_file(self):
        self.head(302, Location="file:///etc/hostname", Content_Length=0)

    def redirect_loop(self):
        self.head(302, Location="/redirect_loop", Content_Length=0)

    def recovers(self):
        (self.good if len(self.server.asked) >= 3 else self.broken)()
