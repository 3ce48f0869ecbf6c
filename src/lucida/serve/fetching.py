"""Pictures from hosts that whoever serves has named (`--allow-host`), and from nowhere else.

A server that fetches what strangers name can be led to addresses of its own network, so: the exact
host, https at its usual port, no redirect, no address that is not public (the one that was looked
up is the one that is connected to), and an end to size and time.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from lucida.serve.refused import Refused

MOST_BYTES = 20 * 2**20
"""Bytes of a picture."""

SECONDS = 10.0
"""From the first look-up to the last byte."""

PORT = 443
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(address: str, hosts: Collection[str], where: str) -> bytes:
    """What stands at an https address of one of `hosts`. Refused with 400, naming the field
    `where`, for every other address and for what cannot be had within the limits."""
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as problem:
        raise Refused(f"this is no address: {problem}", where) from problem
    hosts = {each.lower() for each in hosts}  # as `hostname` is
    if parts.scheme != "https" or host not in hosts or port not in (None, PORT) or "@" in parts[1]:
        raise Refused(
            "pictures are sent in the request as `data:image/…;base64,…`, or stand at "
            f"https://HOST/… where HOST is {' or '.join(sorted(hosts))}",
            where,
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise Refused("an address is written in ASCII, with % for everything else", where)
    deadline = time.monotonic() + SECONDS
    try:
        connection = open_connection(host, find_public(host, where))
        return read_picture(connection, target, deadline, where)
    except (OSError, http.client.HTTPException) as problem:  # a time-out is an OSError
        raise Refused(f"{host} does not give this picture: {problem}", where) from problem


def find_public(host: str, where: str) -> str:
    """The address to connect to; Refused where the name leads to any that is not public."""
    found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    addresses = [str(each[4][0]) for each in found]
    for each in addresses:
        if not is_public(each):
            raise Refused(f"{host} leads to {each}, which is not public", where)
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public network, and does not stand for another that may
    not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    # An IPv4 address in IPv6 clothes: `::ffff:10.0.0.1` would be asked of the private network.
    if ip.version == 6 and (ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in NAT64):
        return False
    return ip.is_global and not ip.is_multicast


def open_connection(host: str, address: str) -> http.client.HTTPConnection:
    """A connection to this very address, whose certificate is the host's."""
    plain = socket.create_connection((address, PORT), SECONDS)
    try:
        secret = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise
    connection = http.client.HTTPConnection(host)
    connection.sock = secret  # so that the name is not looked up a second time
    return connection


def read_picture(
    connection: http.client.HTTPConnection, target: str, deadline: float, where: str
) -> bytes:
    """The body of an answer that is a picture at once, within the limits."""
    pieces, size = [], 0
    try:
        connection.request("GET", target, headers={"Accept": "image/*", "Connection": "close"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise Refused(f"{connection.host} answers {response.status} to this address", where)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not whole after {SECONDS:.0f} s")
            if connection.sock is not None:
                connection.sock.settimeout(left)
            piece = response.read1(1 << 16)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BYTES:
                raise Refused(f"this picture has more than {MOST_BYTES:,} bytes", where)
    finally:
        connection.close()
