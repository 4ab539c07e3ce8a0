"""Visitors: HTTPS requests to a listener with the host and SNI of an app.

`*.localhost` does not resolve everywhere, so every request connects to the listener's address and
names the host itself, as the scripts must (design §6).
"""

import asyncio
import http.client
import json
import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


class Web:
    """Requests to one platform."""

    def __init__(self, https: str, ca_cert: str):
        host, port = https.rsplit(":", 1)
        self.address = (host, int(port))
        self.tls = ssl.create_default_context(cafile=ca_cert)

    def get(self, url: str, *, method="GET", body=None, headers=None, timeout=40):
        """One request on a new connection: (status, headers, body)."""
        parts = urlsplit(url)
        connection = _Connection(self, parts.hostname, timeout)
        try:
            path = parts.path or "/"
            if parts.query:
                path += "?" + parts.query
            sent = {"host": parts.netloc, "user-agent": "visitor", **(headers or {})}
            if isinstance(body, (dict, list)):
                body, sent["content-type"] = json.dumps(body), "application/json"
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return answer.status, dict((k.lower(), v) for k, v in answer.getheaders()), answer.read()
        finally:
            connection.close()

    def wait_for(self, url: str, wanted, *, seconds: float, method="GET"):
        """Repeats a request until `wanted(status, headers, body)`; None when time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                answer = self.get(url, method=method, timeout=max(1, end - time.monotonic()))
                if wanted(*answer):
                    return answer
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        return None


class _Connection(http.client.HTTPSConnection):
    """Connects to the listener, whatever the name resolves to."""

    def __init__(self, web: Web, name: str, timeout: float):
        super().__init__(name, context=web.tls, timeout=timeout)
        self._web = web

    def connect(self):
        plain = socket.create_connection(self._web.address, timeout=self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._web.tls.wrap_socket(plain, server_hostname=self.host)


@dataclass
class Load:
    """What a load run saw."""

    done: int = 0
    failed: int = 0
    in_flight: int = 0
    slowest_s: float = 0.0
    #: (started at, took) of every answer, in seconds of time.monotonic().
    answers: list = field(default_factory=list)
    failures: list = field(default_factory=list)

    def in_flight_at(self, moment: float) -> int:
        return sum(1 for start, took in self.answers if start <= moment <= start + took)


async def _client(web: Web, url: str, marker: bytes, load: Load, stop: asyncio.Event):
    parts = urlsplit(url)
    head = f"GET {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\nuser-agent: visitor\r\n\r\n".encode()
    reader = writer = None
    while not stop.is_set():
        start = time.monotonic()
        load.in_flight += 1
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(
                    *web.address, ssl=web.tls, server_hostname=parts.hostname
                )
            writer.write(head)
            status, closes, body = await asyncio.wait_for(_answer(reader), 45)
            if status != 200 or marker not in body:
                raise ValueError(f"status {status}, body {body[:80]!r}")
            if closes:
                writer.close()
                reader = writer = None
            took = time.monotonic() - start
            load.done += 1
            load.slowest_s = max(load.slowest_s, took)
            load.answers.append((start, took))
        except Exception as error:  # every way to fail counts
            load.failed += 1
            if len(load.failures) < 20:
                load.failures.append(f"{type(error).__name__}: {error}")
            if writer is not None:
                writer.close()
            reader = writer = None
        finally:
            load.in_flight -= 1
    if writer is not None:
        writer.close()


async def _answer(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:]) if v}
    closes = "close" in fields.get("connection", "").lower()
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
        return status, closes, body
    return status, closes, await reader.readexactly(int(fields.get("content-length", "0")))


def load_while(web: Web, url: str, marker: bytes, event, *, clients=32, before_s=1.0, after_s=2.0):
    """Runs `clients` keep-alive visitors, calls `event(load)` in a thread in the middle, and goes
    on for `after_s` after it returns. Returns (what event returned, Load)."""

    async def run():
        load, stop = Load(), asyncio.Event()
        tasks = [asyncio.create_task(_client(web, url, marker, load, stop)) for _ in range(clients)]
        await asyncio.sleep(before_s)
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(None, event, load)
            await asyncio.sleep(after_s)
        finally:
            stop.set()
            _, late = await asyncio.wait(tasks, timeout=70)
        # Whoever still waits was not served.
        load.failed += len(late)
        load.failures += ["no answer within 70 s"] * len(late)
        for task in late:
            task.cancel()
        return outcome, load

    return asyncio.run(run())
