"""The Docker engine: finding it, and the images of a lab's containers."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
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
CONTROLLER: Final = "org.teredo-lab.controller"
_SOURCE: Final = "org.teredo-lab.source"

_TREE: Final = Path(__file__).parents[2]
_DOCKERFILE: Final = "images/Dockerfile"
_CONTEXT: Final = ("lab", "images", "pyproject.toml", "constraints.txt")
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


def image(miredo: bool) -> str:
    """The tag of the image that a node runs."""
    return f"teredo-lab/{'miredo' if miredo else 'node'}:{metadata.version('teredo-lab')}"


def ensure_images(client: docker.DockerClient, *, miredo: bool) -> Iterator[str]:
    """Build the images that are missing, or are of another source than this one; yield what is being done.

    Raises MachineError.
    """
    source = _fingerprint()
    for each in (False, True) if miredo else (False,):
        tag = image(each)
        with contextlib.suppress(ImageNotFound):
            labels = client.images.get(tag).labels or {}
            if source is None or labels.get(_SOURCE) == source:
                continue
        if source is None:
            raise MachineError(f"the image {tag} is missing: build it in a checkout of the project (make images)")
        yield f"building {tag}"
        yield from _build(client, tag, "miredo" if each else "node", source)


def _fingerprint() -> str | None:
    """What the images are made of; None where the project is installed without its source."""
    if not (_TREE / _DOCKERFILE).exists():
        return None
    digest = hashlib.sha256()
    for name in _CONTEXT:
        path = _TREE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(_TREE)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _build(client: docker.DockerClient, tag: str, target: str, source: str) -> Iterator[str]:
    arguments = {name: os.environ[name] for name in ("BASE", "PIP_INDEX_URL") if name in os.environ}
    said: list[str] = []
    try:
        for line in client.api.build(
            path=str(_TREE),
            dockerfile=_DOCKERFILE,
            target=target,
            tag=tag,
            buildargs=arguments | {"SOURCE": source},
            network_mode="host",
            rm=True,
            decode=True,
        ):
            if "error" in line:
                raise MachineError(f"the image {tag} cannot be built: {line['error']}\n{''.join(said[-40:])}")
            said.append(line.get("stream", ""))
            if said[-1].startswith("Step "):
                yield said[-1].strip()
    except APIError as error:
        raise MachineError(f"the image {tag} cannot be built: {error.explanation}") from error
