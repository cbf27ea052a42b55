"""The Docker engine: finding it, and the images of a lab's containers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import docker
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound

from lab.doctor.remedies import DOCTOR
from lab.state import MachineError

LABEL: Final = "org.teredo-lab.lab"
NODE: Final = "org.teredo-lab.node"
CHECKS: Final = "checks"
"""What the controller's container is called."""

CONTROLLER: Final = "org.teredo-lab.controller"
_SOURCE: Final = "org.teredo-lab.source"

_SCRIPT: Final = Path(__file__).parents[2] / "tools/images.sh"
_CONNECTIONS: Final = 16
_TIMEOUT: Final = 120


def connect(timeout: float = _TIMEOUT) -> docker.DockerClient:
    """The engine that the command `docker` would use, which has answered. Raises DockerException, OSError."""
    options: dict[str, Any] = {"timeout": timeout, "max_pool_size": _CONNECTIONS}
    if "DOCKER_HOST" not in os.environ and (context := ContextAPI.get_current_context()).Host:
        options |= {"base_url": context.Host, "tls": context.TLSConfig}
        client = docker.DockerClient(**options)
    else:
        client = docker.from_env(**options)
    client.ping()
    return client


@lru_cache(maxsize=1)
def engine() -> docker.DockerClient:
    """The engine that the command `docker` would use. Raises MachineError."""
    try:
        return connect()
    except (DockerException, OSError) as error:
        raise MachineError(
            f"no Docker engine answers ({reason(error)}): start Docker, or the engine by hand (tools/engine.sh up), or"
            f" allow yourself its use (group docker); {DOCTOR}"
        ) from error


def reason(error: BaseException) -> str:
    """Why an engine does not answer: the system's own words, where the library wraps errors in errors."""
    pending: list[object] = [error]
    while pending:
        this = pending.pop(0)
        if isinstance(this, OSError) and this.strerror:
            return this.strerror
        if isinstance(this, BaseException):
            pending += [*this.args, this.__cause__, this.__context__]
    return str(error)


@contextmanager
def answering() -> Iterator[None]:
    """Makes a MachineError of what the engine refuses, and of its having gone."""
    try:
        yield
    except APIError as error:
        raise MachineError(f"the engine refused: {error.explanation or error}") from error
    except (DockerException, OSError) as error:
        raise MachineError(f"the Docker engine does not answer any more: {error}") from error


def image(*, miredo: bool) -> str:
    """The tag of the image that a node runs."""
    return f"teredo-lab/{'miredo' if miredo else 'node'}:{metadata.version('teredo-lab')}"


def ensure_images(client: docker.DockerClient) -> Iterator[str]:
    """Build the images where they are missing, or of another source than this checkout; yield what is being done.

    Raises MachineError.
    """
    source = image_source()
    if all(state == "fresh" for state in image_states(client, source).values()):
        return
    if source is None:
        raise MachineError(f"the images {' and '.join(_tags())} are missing: build them in a checkout of the project")
    yield "building images"
    _run([str(_SCRIPT)])


def image_source() -> str | None:
    """What images of this checkout would be made of; None where this is none. Raises MachineError."""
    return _run([str(_SCRIPT), "--source"]).strip() if _SCRIPT.exists() else None


def image_states(client: docker.DockerClient, source: str | None) -> dict[str, Literal["fresh", "stale", "missing"]]:
    """Whether the images are there, by tag, and made of that source."""
    return {tag: _state(client, tag, source) for tag in _tags()}


def _tags() -> list[str]:
    return [image(miredo=miredo) for miredo in (False, True)]


def _state(client: docker.DockerClient, tag: str, source: str | None) -> Literal["fresh", "stale", "missing"]:
    try:
        labels = client.images.get(tag).labels or {}
    except ImageNotFound:
        return "missing"
    return "fresh" if source is None or labels.get(_SOURCE) == source else "stale"


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MachineError(f"the images cannot be built:\n{result.stderr.strip()}")
    return result.stdout
