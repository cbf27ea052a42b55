"""A plan as a Compose file, for who has Docker alone: the same containers, and one that checks them by itself."""

from __future__ import annotations

import ipaddress
import json
from typing import Any, Final

import yaml

from lab import controller
from lab.agent import HEALTHY
from lab.backends.containers import MTU, SETTINGS, Container, containers, controller_address
from lab.backends.engine import CHECKS, CONTROLLER, LABEL, NODE, image
from lab.plan import Plan
from lab.topology.rules import INTERNET

_TRUNK: Final = "trunk"

_HEADER: Final = """\
# Made by `teredo-lab compose`: change the topology, not this file.
#
#   docker compose up --build --wait      the lab; ends healthy only if everybody reaches whom they should
#   docker compose logs checks            who reaches whom
#   docker compose exec alice ping web
#   docker compose down
"""

_VERDICT: Final = f"until [ -e {HEALTHY} ] || [ -e {controller.SICK} ]; do sleep 0.2; done; test -e {HEALTHY}"


def compose_text(plan: Plan, topology: dict[str, Any], subnet: ipaddress.IPv4Network) -> str:
    """The Compose file of a lab, whose checks run by themselves and decide whether it is healthy."""
    made = containers(plan, subnet)
    services = {container.name: _node(container) for container in made}
    first_miredo = next((container.name for container in made if container.miredo), None)
    if first_miredo is not None:
        services[first_miredo] = {"build": _build("miredo")} | services[first_miredo]
    described = {
        "name": f"teredo-lab-{plan.name}",
        "services": {CHECKS: _controller(plan, topology, subnet)} | services,
        "networks": {
            _TRUNK: {
                "internal": True,
                "driver_opts": {"com.docker.network.driver.mtu": str(MTU)},
                "ipam": {"config": [{"subnet": str(subnet)}]},
                "labels": {LABEL: plan.name},
            }
        },
    }
    return _HEADER + yaml.safe_dump(described, sort_keys=False, width=1 << 20)


def _build(target: str) -> dict[str, Any]:
    return {
        "context": ".",
        "dockerfile": "images/Dockerfile",
        "target": target,
        "network": "host",
        "args": {name: f"${{{name}:-{default}}}" for name, default in _ARGUMENTS.items()},
    }


_ARGUMENTS: Final = {"BASE": "debian:bookworm-slim", "PIP_INDEX_URL": ""}


def _common(name: str, address: str, *, miredo: bool) -> dict[str, Any]:
    return {
        "image": image(miredo=miredo),
        "hostname": name,
        "ipc": "shareable" if name == INTERNET else f"service:{INTERNET}",
        "networks": {_TRUNK: {"ipv4_address": address}},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 512,
    }


def _node(container: Container) -> dict[str, Any]:
    settings = container.settings
    return _common(container.name, container.address, miredo=container.miredo) | {
        "pull_policy": "never",
        "cap_add": list(container.capabilities),
        "devices": ["/dev/net/tun"],
        "sysctls": container.sysctls,
        "labels": {LABEL: settings.lab, NODE: container.name},
        "healthcheck": {"interval": "3s", "start_period": "120s"},
        "environment": {SETTINGS: _escaped(settings.model_dump_json(exclude_defaults=True))},
    }


def _controller(plan: Plan, topology: dict[str, Any], subnet: ipaddress.IPv4Network) -> dict[str, Any]:
    common = _common(CHECKS, controller_address(subnet), miredo=False)
    return (
        {"build": _build("node")}
        | common
        | {
            "command": ["python", "-m", "lab.controller"],
            "user": "lab",
            "read_only": True,
            "tmpfs": ["/tmp"],  # noqa: S108 - the container's
            "labels": {LABEL: plan.name, CONTROLLER: "yes"},
            "healthcheck": {
                "test": ["CMD-SHELL", _VERDICT],
                "interval": "1s",
                "timeout": "300s",
                "retries": 1,
            },
            "environment": {
                controller.NAME: plan.name,
                controller.FILE: plan.topology or "",
                controller.CHECK: "1",
                controller.MEASURE: "1",
                controller.TOPOLOGY: _escaped(json.dumps(topology)),
            },
        }
    )


def _escaped(text: str) -> str:
    """Compose would put variables in for what follows a dollar sign."""
    return text.replace("$", "$$")
