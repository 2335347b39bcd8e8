"""Whether the host of an address answers at all, known in seconds: clients try again for minutes before they say no."""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cluster.fetch import s3_request

TRIES = 3
SECONDS = 4.0  # for a connection, and in all for the pauses between tries
PORTS = {"http": 80, "https": 443}
STORES = {"gs": "https://storage.googleapis.com", "gcs": "https://storage.googleapis.com"}
"""Where other object stores answer, unless their clients are told of another place."""


def fault(uri: str, region: str = "us-east-1") -> str:
    """Why nothing answers at the host of `uri` (http, https, s3, gs), or at the proxy that the environment names for it, after
    some tries; "" where something does, and for storages whose hosts are not known here."""
    scheme = uri.partition("://")[0]
    if scheme in ("s3", "s3a"):
        uri = s3_request.url(uri.replace("s3a://", "s3://", 1), region)
    elif scheme in STORES:
        uri = os.environ.get("STORAGE_EMULATOR_HOST") or STORES[scheme]
    parts = urlsplit(uri)
    if parts.scheme not in PORTS or not parts.hostname:
        return ""
    proxy = None if proxy_bypass(parts.hostname) else getproxies().get(parts.scheme)
    if proxy:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in PORTS:  # such as SOCKS
            return ""
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    for again in range(TRIES):
        try:
            socket.create_connection((host, port), SECONDS).close()
            return ""
        except OSError as error:
            why = f"{'the proxy ' * bool(proxy)}{host}:{port}: {error.strerror or error}"
        if again + 1 < TRIES:
            time.sleep(SECONDS / TRIES)
    return why
