"""The Docker engine: finding it, and the images of a lab's containers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import docker
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound

from lab.state import MachineError

LABEL: Final = "org.teredo-lab.lab"
NODE: Final = "org.teredo-lab.node"
CHECKS: Final = "checks"
"""What the controller's container is called."""

CONTROLLER: Final = "org.teredo-lab.controller"
_SOURCE: Final = "org.teredo-lab.source"

_TREE: Final = Path(__file__).parents[2]
_CONNECTIONS: Final = 16
_TIMEOUT: Final = 120


@lru_cache(maxsize=1)
def engine() -> docker.DockerClient:
    """The engine that the command `docker` would use. Raises MachineError."""
    try:
        options: dict[str, Any] = {"timeout": _TIMEOUT, "max_pool_size": _CONNECTIONS}
        if "DOCKER_HOST" not in os.environ and (context := ContextAPI.get_current_context()).Host:
            options |= {"base_url": context.Host, "tls": context.TLSConfig}
            client = docker.DockerClient(**options)
        else:
            client = docker.from_env(**options)
        client.ping()
    except (DockerException, OSError) as error:
        raise MachineError(
            f"no Docker engine answers ({error}): start Docker, or the engine by hand (tools/engine.sh up), or allow"
            " yourself its use (group docker)"
        ) from error
    return client


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
    script = _TREE / "tools/images.sh"
    source = _run([str(script), "--source"]).strip() if script.exists() else None
    tags = [image(miredo=miredo) for miredo in (False, True)]
    if all(_is_there(client, tag, source) for tag in tags):
        return
    if source is None:
        raise MachineError(f"the images {' and '.join(tags)} are missing: build them in a checkout of the project")
    yield "building images"
    _run([str(script)])


def _is_there(client: docker.DockerClient, tag: str, source: str | None) -> bool:
    try:
        labels = client.images.get(tag).labels or {}
    except ImageNotFound:
        return False
    return source is None or labels.get(_SOURCE) == source


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MachineError(f"the images cannot be built:\n{result.stderr.strip()}")
    return result.stdout
