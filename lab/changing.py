"""Changing NATs and clients of a running lab, as commands and the live page do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError

from lab.planner import plan
from lab.state import Lab
from lab.teredo.extensions import ALL, Extension
from lab.topology.changes import ChangeError, with_extensions, with_nat
from lab.topology.model import Nat, Topology
from lab.topology.wording import explain, unknown

_WORDS: Final = {"all": ALL, "none": frozenset[Extension]()}
"""What may be said in place of a list of extensions."""


def make_nat(lab: Lab, site: str, options: Mapping[str, str]) -> None:
    """Make a site's NAT another one: `kind`, and other options of `nat:` in a topology.

    Raises ChangeError with a line for each reason why that cannot be, StateError.
    """
    try:
        topology = with_nat(_topology(lab), site, Nat.model_validate(options))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        lines = [explain({**item, "loc": ("sites", site, "nat", *item["loc"])}) for item in errors]
        raise ChangeError("\n".join(lines)) from error
    _replan(lab, topology)


def make_client(lab: Lab, client: str, options: Mapping[str, str]) -> None:
    """Have a client's program start anew with other options. There is one: `extensions`, as `named` takes them.

    Raises ChangeError with why that cannot be, StateError.
    """
    for option in options:
        if option != "extensions":
            raise ChangeError("; ".join(unknown("option", option, ["extensions"])))
    _replan(lab, with_extensions(_topology(lab), client, named(options["extensions"].split(","))))


def named(words: Sequence[str]) -> frozenset[Extension]:
    """The extensions of these names; `all` or `none` may be the only one. Raises ChangeError."""
    if len(words) == 1 and words[0] in _WORDS:
        return _WORDS[words[0]]
    for word in words:
        if word not in ALL:
            raise ChangeError(
                "; ".join(unknown("extension", word, [each.value for each in Extension]))
                + f"; or {' or '.join(_WORDS)} alone"
            )
    return frozenset(map(Extension, words))


def _topology(lab: Lab) -> Topology:
    return Topology.model_validate(lab.ask_once("plan")["topology"])


def _replan(lab: Lab, topology: Topology) -> None:
    new = plan(topology)
    fresh = lab.refit(new.model_copy(update={"name": lab.name}))
    lab.ask_once(
        "replan",
        fresh=fresh,
        plan=new.model_dump(mode="json"),
        topology=topology.model_dump(mode="json", by_alias=True),
    )
