"""A name server on loopback whose records a test sets: enough of RFC 1035 for one resolver."""

import ipaddress
import socket
import struct
import threading

TYPES = {"A": 1, "CNAME": 5, "TXT": 16, "AAAA": 28}


class NameServer:
    """Answers by UDP until closed; unknown names do not exist."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._records = {}
        self.address = "%s:%d" % self._socket.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def set(self, name: str, kind: str, value: str):
        self._records.setdefault(name.lower(), {}).setdefault(kind, []).append(value)

    def clear(self):
        self._records = {}

    def close(self):
        self._socket.close()

    def _serve(self):
        while True:
            try:
                query, client = self._socket.recvfrom(4096)
            except OSError:
                return  # closed
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii").lower())
            at += 1 + query[at]
        (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
        known = self._records.get(".".join(labels))
        found = [
            (number, _data(name, value))
            for name, number in TYPES.items()
            # An alias is the answer to every question about its name.
            if number == kind or name == "CNAME"
            for value in (known or {}).get(name, [])
        ]
        code = 0 if known else 3
        answer = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        answer += query[12 : at + 5]
        for number, data in found:
            answer += struct.pack(">HHHIH", 0xC00C, number, 1, 60, len(data)) + data
        return answer


def _data(kind: str, value: str) -> bytes:
    if kind == "TXT":
        text = value.encode()
        return bytes([len(text)]) + text
    if kind == "CNAME":
        return b"".join(bytes([len(label)]) + label.encode() for label in value.split(".")) + b"\0"
    return ipaddress.ip_address(value).packed
