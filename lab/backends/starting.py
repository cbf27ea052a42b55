"""Making, starting and removing a lab's containers.

An engine (Docker 20.10) miscounts what is on a network when several containers join or leave it at once, and then never
again removes the network. So one does it after another; all the rest of their start or end goes on side by side.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import docker
from docker.errors import APIError, NotFound

from lab.backends.containers import BRIDGE_FILTER, SETTINGS, Container
from lab.backends.engine import CHECKS, CONTROLLER, LABEL, NODE, image

AT_ONCE: Final = 8

WATCHED: Final = 64
"""Containers up to which a lab's have their health looked at: each look starts a process, and all come at once."""

_INTERVAL: Final = 5 * 10**9
"""Nanoseconds between two looks."""


def is_watched(made: Sequence[Container]) -> bool:
    """Whether the health of a lab's containers is looked at, its controller's included."""
    return len(made) + 1 <= WATCHED


Act = Callable[[str], None]
"""Does something to the container that has this id."""


@contextlib.contextmanager
def one_at_a_time(
    api: docker.APIClient, network: str, event: Literal["connect", "disconnect"], act: Act
) -> Iterator[Act]:
    """The same as `act`, for threads: each waits until the one before has joined or left the network, or has ended."""
    turn = threading.Semaphore()
    acting: set[str] = set()

    def over(identity: str) -> None:
        """Its turn, if it still has it."""
        with contextlib.suppress(KeyError):
            acting.remove(identity)
            turn.release()

    def in_turn(identity: str) -> None:
        turn.acquire()
        acting.add(identity)
        try:
            act(identity)
        finally:
            over(identity)

    events = api.events(
        since=int(time.time()), filters={"type": "network", "event": event, "network": network}, decode=True
    )

    def follow() -> None:
        for each in events:
            over(each["Actor"]["Attributes"]["container"])

    following = threading.Thread(target=follow, daemon=True)
    following.start()
    try:
        yield in_turn
    finally:
        events.close()
        following.join()


def create(api: docker.APIClient, container: Container, network: str, ipc: str, *, watched: bool = True) -> str:
    """A node's container, not started; returns its id. Health is for who watches containers: see `WATCHED`."""
    settings = container.settings
    return make(
        api,
        f"teredo-lab-{settings.lab}-{container.name}",
        image=image(miredo=container.miredo),
        environment={SETTINGS: settings.model_dump_json(exclude_defaults=True)},
        labels={LABEL: settings.lab, NODE: container.name},
        host={
            "cap_add": list(container.capabilities),
            "devices": ["/dev/net/tun"],
            "sysctls": container.sysctls,
            "ipc_mode": ipc,
        },
        networks={network: container.address},
        hostname=container.name,
        healthcheck={"interval": _INTERVAL} if watched else {"test": ["NONE"]},
    )


def start(
    api: docker.APIClient,
    go: Act,
    container: Container,
    network: str,
    ipc: str,
    *,
    watched: bool = True,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Make a node's container, and have it started by `go` once `after` returns."""
    identity = create(api, container, network, ipc, watched=watched)
    after()
    try:
        go(identity)
    except APIError as error:
        left = {key: value for key, value in container.sysctls.items() if not key.startswith(BRIDGE_FILTER)}
        if left == container.sysctls or "bridge" not in str(error.explanation):
            raise
        # The engine's machine does not filter what bridges pass on, so there is nothing to switch off.
        api.remove_container(identity, force=True)
        start(api, go, container.model_copy(update={"sysctls": left}), network, ipc, watched=watched)


def create_controller(
    api: docker.APIClient, lab: str, network: str, address: str, shared: str, environment: dict[str, str]
) -> str:
    return make(
        api,
        f"teredo-lab-{lab}-{CHECKS}",
        image=image(miredo=False),
        command=["python", "-m", "lab.controller"],
        environment=environment,
        labels={LABEL: lab, CONTROLLER: "yes"},
        host={"ipc_mode": f"container:{shared}", "read_only": True, "tmpfs": {"/tmp": ""}},  # noqa: S108
        networks={network: address},
        hostname=CHECKS,
        user="lab",
    )


def make(api: docker.APIClient, name: str, *, host: dict[str, Any], networks: dict[str, str], **options: Any) -> str:
    """Make a container with no rights but those that `host` gives it; returns its id. Raises APIError."""
    config = api.create_host_config(cap_drop=["ALL"], security_opt=["no-new-privileges"], pids_limit=512, **host)
    ends = {network: api.create_endpoint_config(ipv4_address=address) for network, address in networks.items()}
    created = api.create_container(
        name=name, host_config=config, networking_config={"EndpointsConfig": ends}, **options
    )
    identity: str = created["Id"]
    return identity


def remove(api: docker.APIClient, identity: str) -> None:
    """Remove a container whatever its state, and also if somebody else removes it right now."""
    with contextlib.suppress(NotFound):
        try:
            api.remove_container(identity, force=True, v=True)
        except APIError as error:
            if error.status_code != 409:  # its removal is already in progress
                raise
            with contextlib.suppress(APIError):
                api.wait(identity, condition="removed")
