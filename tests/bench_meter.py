"""Measures the time of a program in which no server works for it: no engine, no registry, no API.

The program reaches each server through a relay. A server works from the first byte of a request to the last byte of its response;
on a connection that has left HTTP (BuildKit's session), until it is closed; on an encrypted one, until bytes come back.
"""

import socket
import threading
import time


class Meter:
    """What the relays have seen."""

    def __init__(self):
        self.lock = threading.Lock()
        self.outstanding, self.since, self.total = 0, 0.0, 0.0

    def change(self, by):
        with self.lock:
            if self.outstanding == 0 and by > 0:
                self.since = time.perf_counter()
            self.outstanding += by
            if self.outstanding == 0 and by < 0:
                self.total += time.perf_counter() - self.since

    def take(self):
        """The seconds since the last call in which a server worked."""
        with self.lock:
            total, self.total = self.total, 0.0
            return total


class Messages:
    """Finds the ends of HTTP messages in the bytes of one direction."""

    def __init__(self, bodiless):
        self.bodiless = bodiless  # of a head: has this message no body whatever its fields say?
        self.text, self.left, self.chunked, self.open = b"", None, False, False

    def feed(self, text):
        """How many messages these bytes end; `open` afterwards: what comes is no HTTP any more."""
        self.text += text
        ended = 0
        while not self.open and self.text:
            if self.left is None and not self.begin():
                break
            if self.chunked and self.left == 0 and not self.chunk():
                break
            taken = min(self.left, len(self.text))
            self.text, self.left = self.text[taken:], self.left - taken
            if self.left == 0 and not self.chunked:
                ended, self.left = ended + 1, None
        return ended

    def begin(self):
        head, found, rest = self.text.partition(b"\r\n\r\n")
        if not found:
            return False
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.text, self.left, self.chunked = rest, 0, False
        if lines[0].startswith("HTTP/1.1 101"):
            self.open = True
        elif not self.bodiless(lines[0]):
            self.chunked = fields.get("transfer-encoding") == "chunked"
            self.left = 0 if self.chunked else int(fields.get("content-length", 0))
        return True

    def chunk(self):
        size, found, rest = self.text.partition(b"\r\n")
        if not found:
            return False
        length = int(size.split(b";")[0], 16)
        # The line's end behind the bytes belongs to the chunk; the last one has no bytes.
        self.text, self.left, self.chunked = rest, length + 2, length > 0
        return True


class Relay:
    """Passes connections on to an address: a path or a pair of host and port. With `tunnels`, it is a proxy for CONNECT."""

    def __init__(self, meter, listen, to, tunnels=False):
        self.meter, self.to, self.tunnels = meter, to, tunnels
        self.server = socket.socket(socket.AF_UNIX if isinstance(listen, str) else socket.AF_INET)
        self.server.bind(listen)
        self.server.listen(64)
        self.address = self.server.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.server.accept()
            threading.Thread(target=Connection(self, client).serve, daemon=True).start()


class Connection:
    def __init__(self, relay, client):
        self.relay, self.client = relay, client
        self.server = socket.socket(socket.AF_UNIX if isinstance(relay.to, str) else socket.AF_INET)
        self.lock = threading.Lock()
        self.waiting = 0  # requests without an answer; 1 for what is no HTTP
        self.methods = []
        self.requests = Messages(self.request)
        self.answers = Messages(self.answer)

    def request(self, line):
        self.methods.append(line.split()[0])
        return False

    def answer(self, line):
        method = self.methods.pop(0) if self.methods else ""
        return method == "HEAD" or line.split()[1] in ("204", "304")

    def wait(self, count):
        self.relay.meter.change(count - self.waiting)
        self.waiting = count

    def sent(self, text):
        with self.lock:
            if not self.relay.tunnels and not self.requests.open:
                self.requests.feed(text)
            self.wait(1)

    def came(self, text):
        with self.lock:
            if self.relay.tunnels:
                return self.wait(0)
            ended = 0 if self.answers.open else self.answers.feed(text)
            self.requests.open = self.answers.open
            if ended and not self.answers.open:
                self.wait(0)

    def serve(self):
        try:
            self.server.connect(self.relay.to)
            for one in (self.client, self.server):
                if one.family == socket.AF_INET:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.relay.tunnels:
                while not self.client.recv(4096).endswith(b"\r\n\r\n"):
                    pass
                self.client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            other = threading.Thread(target=self.pump, args=(self.server, self.client, self.came), daemon=True)
            other.start()
            self.pump(self.client, self.server, self.sent)
            other.join()
        finally:
            with self.lock:
                self.wait(0)
            self.client.close()
            self.server.close()

    def pump(self, source, to, seen):
        try:
            while text := source.recv(65536):
                seen(text)
                to.sendall(text)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass
