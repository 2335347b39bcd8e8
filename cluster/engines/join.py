"""Joining a Ray cluster that runs already: which one an address means, whether it lets us in, and what it has.

Ray's own `auto` takes any Ray that it finds running on the machine, whoever started it. Ours is the cluster of `RAY_ADDRESS`,
which Ray sets in every job, or the one that this user started here by `ray start` and holds the token of. Whether it lets us in
is asked by one call first: `ray.init` takes up to minutes and prints a page of warnings to say no.
"""

from __future__ import annotations

import logging
import os
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

ANSWER_SECONDS = 15.0  # a head may be far away, or busy
WANTS_TOKEN = "the cluster wants its token: export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
OPEN = "runs anybody's code; start the cluster with RAY_AUTH_MODE=token"


def join(address: str, say: Callable[[str], None] = print) -> None:
    """Connect this process to the cluster at `address`: `auto`, `HOST:PORT` of its head, or `ray://HOST:10001`.

    `say` gets one line: which cluster, its nodes, CPUs and GPUs. Raises ValueError, one sentence, for an address that is none, a
    cluster that does not answer or wants another token, and under `auto` for one that may be somebody else's.
    """
    import ray

    read_token_anew()
    address, source = _own() if address == "auto" else (address, "")
    named = f"--address auto ({address} of {source})" if source else f"--address {address}"
    target = _host_and_port(address, named)
    _knock(address, target, named)
    if _open_to_all(address, target):
        if source == str(address_file()):
            raise ValueError(f"{named}: it asks nobody for a token, so it may be anybody's; give --address {address}")
        print(f"pinisi: warning: {address} {OPEN}", file=sys.stderr)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # of Ray, its client or gRPC
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{named}: it answers, but this process cannot join it: {lines[-1]}") from error
    has = ray.cluster_resources()
    counts = {"node": sum(node["Alive"] for node in ray.nodes()), "CPU": has.get("CPU", 0), "GPU": has.get("GPU", 0)}
    what = ", ".join(f"{n:,.0f} {name}{'' if n == 1 else 's'}" for name, n in counts.items())
    say(f"joined the Ray cluster at {address}{source and f' (of {source})'}: {what}")


def read_token_anew() -> None:
    """Ray reads `RAY_AUTH_MODE` and the token once in a process; after they changed this makes it read them again."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without types

    Config.initialize("")  # first the mode: a thread that still drains must not look for a token that is gone
    AuthenticationTokenLoader.instance().reset_cache()


def address_file() -> Path:
    """Where `ray start` writes the cluster's address; all users of a machine share it, unless RAY_TMPDIR or TMPDIR is set."""
    from ray._common.utils import get_ray_address_file

    return Path(get_ray_address_file(None))


def _own() -> tuple[str, str]:
    """The address that `auto` means, and where it stands. Raises ValueError when there is none that is surely this user's."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address, "RAY_ADDRESS"
    file = address_file()
    if not file.is_file():
        raise ValueError(
            f"--address auto: RAY_ADDRESS is not set, and no `ray start` on this machine wrote {file}; give --address "
            "HOST:6379, or none for a private Ray"
        )
    if file.lstat().st_uid != os.geteuid():
        raise ValueError(
            f"--address auto: {file} is another user's; if you may use that cluster, give --address HOST:6379"
        )
    address = file.read_text().strip()
    if os.environ.get("RAY_AUTH_MODE") is None and _has_token():  # as `ray start` does
        os.environ["RAY_AUTH_MODE"] = "token"
        read_token_anew()
    if not (_token_mode() and _has_token()):
        raise ValueError(
            f"--address auto: {file} names {address}, which may be anybody's by now, and this shell has no token that would "
            f"tell: export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or give --address {address}"
        )
    return address, str(file)


def _host_and_port(address: str, named: str) -> str:
    fix = "give HOST:6379 of the head or ray://HOST:10001, or no --address for a private Ray"
    if address.startswith(("http://", "https://")):
        raise ValueError(f"{named}: that is a dashboard, where `pinisi submit` starts runs; {fix}")
    try:
        parts = urllib.parse.urlsplit(address if address.startswith("ray://") else f"//{address}")
        if parts.hostname and parts.port:
            return parts.netloc
    except ValueError:  # a port that is no number
        pass
    raise ValueError(f"{named}: that is not the address of a cluster; {fix}")


def _knock(address: str, target: str, named: str) -> None:
    """Raises ValueError when there is no Ray at `target`, or none that takes the token of this environment."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    if _token_mode() and not _has_token():
        raise ValueError(
            f"{named}: RAY_AUTH_MODE is token, but there is none: export RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
    with init_grpc_channel(target, _options(address)) as channel:  # with TLS where Ray is told so, and the token
        try:
            _call(address, channel)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise ValueError(f"{named}: {WANTS_TOKEN}") from None
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                kind = "Ray's client server" if address.startswith("ray://") else "the head of a Ray cluster"
                raise ValueError(f"{named}: what answers there is not {kind}; is the port right?") from None
            raise ValueError(f"{named}: no Ray answers ({_reason(error)}); is it up, and the port open?") from None


def _open_to_all(address: str, target: str) -> bool:
    """Whether the cluster answers somebody who has neither token nor certificate."""
    import grpc

    with grpc.insecure_channel(target, _options(address)) as channel:
        try:
            _call(address, channel)
        except grpc.RpcError:
            return False
    return True


def _call(address: str, channel: grpc.Channel) -> None:
    """The least that one can ask of a cluster; it wants the token as anything else does."""
    if address.startswith("ray://"):
        from ray.core.generated import ray_client_pb2 as client
        from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

        kind = client.ClusterInfoType.PING  # type: ignore[attr-defined]  # protobuf makes its classes when imported
        ping = client.ClusterInfoRequest(type=kind)  # type: ignore[attr-defined]  # as above
        RayletDriverStub(channel).ClusterInfo(ping, timeout=ANSWER_SECONDS)
    else:
        from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]  # as above
        from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

        NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=ANSWER_SECONDS)


def _options(address: str) -> list[tuple[str, int]]:
    return [] if address.startswith("ray://") else [("grpc.enable_http_proxy", 0)]  # as Ray does


def _reason(error: grpc.RpcError) -> str:
    """The end of gRPC's sentence: Connection refused, Deadline Exceeded, …"""
    return (error.details() or error.code().name).strip().splitlines()[-1].rsplit(": ", 1)[-1]


def _token_mode() -> bool:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return is_token_auth_enabled()


def _has_token() -> bool:
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled, without types

    return AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
