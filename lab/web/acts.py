"""What a teacher can do with a running lab from its page. All of it takes a while: call it in a thread."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lab.changing import make_client, make_nat
from lab.nat.kinds import NAMES
from lab.plan import LinkQuality
from lab.seeing.conversation import Story, tell
from lab.seeing.diagram import notes
from lab.seeing.live import Capture, cast_of
from lab.seeing.svg import svg
from lab.state import Lab, node_facts
from lab.topology.changes import ChangeError

_DEADLINE: Final = 10
"""Seconds for a ping; a client gives a peer up after 8."""

PING: Final = ("ping", "-6", "-n", "-i", "0.1", "-c", "3", "-w", str(_DEADLINE))


class ActError(Exception):
    """It cannot be done; the message says why, and what can."""


@dataclass(frozen=True)
class Told:
    """A ping: what it printed, and what its packets tell."""

    output: str
    story: Story
    cold: bool

    def facts(self) -> dict[str, Any]:
        """As JSON takes it, with the words for each step."""
        return {
            "title": self.story.title,
            "caller": self.story.caller,
            "callee": self.story.callee,
            "cold": self.cold,
            "reached": self.story.reached,
            "outcome": self.story.outcome,
            "output": self.output,
            "steps": [
                {
                    "at": step.at,
                    "path": step.path,
                    "dropped": step.drop is not None,
                    "notes": [{"text": text, "style": style} for text, style in notes(step)],
                }
                for step in self.story.steps
            ],
        }

    def picture(self) -> str:
        return svg(self.story)


def ping(lab: Lab, caller: str, callee: str, *, cold: bool) -> Told:
    """Run `ping` in a node, with a capture of all links that it may use. `cold`: first have all paths forgotten.

    Raises ActError, StateError.
    """
    cast = cast_of(lab)
    able = [name for name, actor in cast.actors.items() if actor.role in ("client", "host")]
    for name in (caller, callee):
        if name not in able:
            raise ActError(f"{name} cannot ping or be pinged; these can: {', '.join(able)}")
    if caller == callee:
        raise ActError(f"a ping needs two, and {caller} is one: choose another node")
    actor = cast.actors[callee]
    address = actor.teredo if actor.role == "client" else next(iter(actor.ipv6), None)
    if address is None:
        return Told(f"ping: {callee} has no IPv6 address now", tell(cast, (), (), (), (caller, callee)), cold)
    command = (*lab.entering(caller), *PING, address)
    if cold:
        forget(lab)
    capture = Capture(lab, cast.taps(cast.links_between(caller, callee)), cast.interface)
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DEADLINE * 3)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ActError(f"ping cannot run in {caller}: {error}") from error
    finally:
        packets = capture.rest()
    output = (result.stdout + result.stderr).strip()
    reason = None if result.returncode == 0 else output.splitlines()[-1] if output else "no answer"
    return Told(output, tell(cast, capture.taps, capture.interfaces, packets, (caller, callee), reason), cold)


def forget(lab: Lab) -> None:
    """Make all paths cold. Raises StateError."""
    for _ in lab.ask("forget"):
        pass


def reset_nat(lab: Lab, node: str) -> None:
    """Power-cycle a NAT. Raises ActError, StateError."""
    _site_of_nat(lab, node)
    lab.ask_once("nat-reset", node=node)  # not measured: that would fill it again


def set_nat(lab: Lab, node: str, kind: str) -> None:
    """Make a NAT one of another kind. Raises ActError, StateError."""
    if kind not in NAMES:
        raise ActError(f"there is no kind of NAT {kind!r}; there are {', '.join(NAMES)}")
    try:
        make_nat(lab, _site_of_nat(lab, node), {"kind": kind})
    except ChangeError as error:
        raise ActError(str(error)) from error
    _measured(lab, node)


def set_extensions(lab: Lab, node: str, extensions: Sequence[str]) -> str:
    """Start a client anew with these extensions alone; returns its state, or why it is off-line. Raises ActError,
    StateError."""
    role = node_facts(lab.ask_once("status"), node)["role"]
    if role != "client":
        raise ActError(f"{node} is no client but a {role}")
    try:
        make_client(lab, node, {"extensions": ",".join(extensions) or "none"})
    except ChangeError as error:
        raise ActError(str(error)) from error
    for _ in lab.ask("settle", timeout=_DEADLINE):
        pass
    facts = node_facts(lab.ask_once("status"), node)
    return f"{facts['state']}: {facts['reason']}" if facts["reason"] else str(facts["state"])


def _site_of_nat(lab: Lab, node: str) -> str:
    facts = node_facts(lab.ask_once("status"), node)
    if facts["role"] != "nat":
        raise ActError(f"{node} is no NAT but a {facts['role']}")
    return str(facts["site"])


def _measured(lab: Lab, node: str) -> None:
    """Have a NAT measured, as `teredo-lab nat set` does: its state tells whether it is what it is meant to be."""
    for _ in lab.ask("nat", nodes=[node]):
        pass


def cut_link(lab: Lab, node: str, *, down: bool) -> None:
    """Cut or mend the link between a node and the next one upstream. Raises ActError, StateError."""
    links = lab.ask_once("links")["links"]
    if node not in links:
        raise ActError(f"{node} has no link of its own; these have: {', '.join(links)}")
    quality = LinkQuality.model_validate(links[node] | {"down": down})
    lab.ask_once("link", node=node, quality=quality.model_dump())


def check(lab: Lab, progress: Callable[[int, int], None]) -> bool:
    """Check who reaches whom; whether all is as expected. The lab keeps the results. Raises StateError."""
    good = True
    for answer in lab.ask("check"):
        if answer["event"] == "pair":
            good = good and all(result["ok"] for result in answer["results"])
            progress(answer["done"], answer["total"])
    return good
