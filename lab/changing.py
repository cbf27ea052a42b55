"""Changing the NATs of a running lab, as commands and the live page do."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from lab.planner import plan
from lab.state import Lab
from lab.topology.changes import ChangeError, with_nat
from lab.topology.model import Nat, Topology
from lab.topology.wording import explain


def make_nat(lab: Lab, site: str, options: Mapping[str, str]) -> None:
    """Make a site's NAT another one: `kind`, and other options of `nat:` in a topology.

    Raises ChangeError with a line for each reason why that cannot be, StateError.
    """
    try:
        nat = Nat.model_validate(options)
        topology = with_nat(Topology.model_validate(lab.ask_once("plan")["topology"]), site, nat)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        lines = [explain({**item, "loc": ("sites", site, "nat", *item["loc"])}) for item in errors]
        raise ChangeError("\n".join(lines)) from error
    new = plan(topology)
    fresh = lab.refit(new.model_copy(update={"name": lab.name}))
    lab.ask_once(
        "replan",
        fresh=fresh,
        plan=new.model_dump(mode="json"),
        topology=topology.model_dump(mode="json", by_alias=True),
    )
