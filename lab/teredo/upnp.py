"""UPnP for a Teredo client: the NAT in front of it opens its service port (RFC 6081 sections 5.3.3 and 5.3.5.1)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import miniupnpc
from ssdp.aio import SSDP
from ssdp.messages import SSDPRequest

from lab.teredo.address import Endpoint, host_bytes
from lab.teredo.surroundings import default_gateway

_log = logging.getLogger("teredo")

SSDP_GROUP: Final = "239.255.255.250"
SSDP_PORT: Final = 1900
GATEWAY_DEVICE: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
DESCRIPTION: Final = "TEREDO"

_TIMEOUT = 10.0
_AGAIN = 0.4
"""Seconds until a request is repeated: UDP may lose it (UPnP Device Architecture 1.1 section 1.3.2)."""


class PortMapper:
    """Opens and closes one port. `memory` is a file that keeps its number over restarts; `wait` is in seconds.

    The file lets a port be closed that was left open when the client was killed.
    """

    def __init__(self, memory: Path | None, wait: float) -> None:
        self._memory = memory
        self._wait = wait
        self._gateway: Any = None
        self._port = 0

    async def map(self, local: Endpoint) -> Endpoint | None:
        """Have the same port opened outside; the endpoint there, or None if there is no such gateway or it refuses."""
        try:
            async with asyncio.timeout(self._wait + _TIMEOUT):
                location = await find_gateway(local.host, self._wait)
                if location is None:
                    _log.info("UPnP: no gateway answers")
                    return None
                return await asyncio.to_thread(self._map, location, local)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            _log.info("UPnP: %s", error or "no answer in time")
            return None

    async def unmap(self) -> None:
        """Have it closed again, if it was opened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                await asyncio.to_thread(self._unmap)

    def _map(self, location: str, local: Endpoint) -> Endpoint | None:
        gateway = miniupnpc.UPnP()
        try:
            gateway.selectigd(location)
            self._gateway = gateway
            self._port = self._remembered()
            self._unmap()
            if not gateway.addportmapping(local.port, "UDP", local.host, local.port, DESCRIPTION, "", 0):
                return None
            self._port = local.port
            self._remember()
            external = Endpoint(gateway.externalipaddress(), local.port)
            host_bytes(external.host)
        except Exception as error:
            _log.info("UPnP: %s", error)
            self._unmap()
            return None
        return external

    def _unmap(self) -> None:
        if self._gateway is None or not self._port:
            return
        with contextlib.suppress(Exception):  # it may be gone already, or the gateway is
            self._gateway.deleteportmapping(self._port, "UDP", "")
        self._port = 0
        self._remember()

    def _remembered(self) -> int:
        try:
            return 0 if self._memory is None else int(self._memory.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def _remember(self) -> None:
        if self._memory is None:
            return
        with contextlib.suppress(OSError):
            if self._port:
                self._memory.write_text(f"{self._port}\n", encoding="ascii")
            else:
                self._memory.unlink(missing_ok=True)


async def find_gateway(host: str, wait: float, gateway: str | None = None) -> str | None:
    """Where the description of the gateway of this address lies, a URL; None if nobody says so within `wait` seconds.

    The group of SSDP is asked, and a gateway by itself, the default one unless it is given: if that refuses, nobody
    needs to be waited for. Both are asked again until an answer comes. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str | None] = loop.create_future()

    class Search(SSDP):  # type: ignore[misc]
        def response_received(self, response: Any, _address: tuple[str, int]) -> None:  # noqa: ANN401
            location = {name.lower(): value for name, value in response.headers}.get("location", "")
            if urlsplit(location).scheme == "http" and not found.done():
                found.set_result(location)

        def request_received(self, _request: object, _address: tuple[str, int]) -> None:
            pass

        def error_received(self, error: OSError) -> None:
            if isinstance(error, ConnectionRefusedError) and not found.done():
                found.set_result(None)

        def connection_lost(self, _error: Exception | None) -> None:
            pass

    headers = {
        "HOST": f"{SSDP_GROUP}:{SSDP_PORT}",
        "MAN": '"ssdp:discover"',
        "MX": str(max(1, round(wait))),
        "ST": GATEWAY_DEVICE,
    }
    request = bytes(SSDPRequest("M-SEARCH", headers=headers))
    gateway = gateway or default_gateway()
    with contextlib.ExitStack() as stack:
        group, _ = await loop.create_datagram_endpoint(Search, (host, 0), family=socket.AF_INET)
        stack.callback(group.close)
        own = group.get_extra_info("socket")
        own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, host_bytes(host))
        asked: list[tuple[asyncio.DatagramTransport, tuple[str, int] | None]] = [(group, (SSDP_GROUP, SSDP_PORT))]
        if gateway is not None:
            single, _ = await loop.create_datagram_endpoint(Search, (host, 0), (gateway, SSDP_PORT))
            stack.callback(single.close)
            asked.append((single, None))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while not found.done():
                    for transport, to in asked:
                        transport.sendto(request, to)
                    await asyncio.wait([found], timeout=_AGAIN)
                return found.result()
    return None
