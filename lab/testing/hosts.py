"""Nodes as testinfra's hosts: containers by its own backend, network namespaces by this one."""

from __future__ import annotations

import shlex

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.backend.docker import DockerBackend
from testinfra.host import Host

from lab.state import Lab


class NodeBackend(BaseBackend):  # type: ignore[misc]
    """Runs commands in a node of a lab of namespaces, as root there.

    Nodes share the lab's processes: those of others are seen as well.
    """

    NAME = "teredo-lab"

    def __init__(self, lab: Lab, node: str) -> None:
        super().__init__(node)
        self._inside = shlex.join(lab.entering(node))

    def run(self, command: str, *args: str, **_: object) -> CommandResult:
        """Run a shell command; `args` are quoted in place of its %s."""
        whole = self.get_command(command, *args)
        result = self.run_local(f"{self._inside.replace('%', '%%')} sh -c %s", whole)
        result.command = self.encode(whole)
        return result


def host(lab: Lab, node: str) -> Host:
    """A node of a running lab. Raises StateError if there is none of that name."""
    from lab.backends.docker import DockerLab  # noqa: PLC0415 - slow to import

    backend = DockerBackend(lab.container_name(node)) if isinstance(lab, DockerLab) else NodeBackend(lab, node)
    return Host(backend)
