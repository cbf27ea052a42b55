"""Finds out what a lesson's checks want to know of the running lab."""

from __future__ import annotations

from typing import Any

from lab.state import Lab
from lab.workshop.judgement import Wanted


def gather(lab: Lab, wanted: Wanted, answer: str | None) -> dict[str, Any]:
    """The facts for `lab.workshop.judgement`. Raises what `Lab.ask` raises."""
    status = {node["name"]: node for node in lab.ask_once("status")["nodes"]}
    nats: dict[str, Any] = {}
    present = [node for node in wanted.nats if node in status]
    if present:
        nats = {
            told["row"]["node"]: told["row"] for told in lab.ask("nat", nodes=present, thorough=True, lifetime=None)
        }
    return {
        "answer": answer,
        "status": status,
        "state": {
            node: lab.ask_once("program", node=node, request="state")["answer"]
            for node in wanted.states
            if node in status
        },
        "nat": nats,
        "pair": _pairs(lab, [pair for pair in wanted.pairs if set(pair) <= status.keys()]),
        "link": lab.ask_once("links")["links"],
        "topology": lab.ask_once("plan")["topology"],
    }


def _pairs(lab: Lab, pairs: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Who reaches whom, by ICMPv6 over cold paths: results by caller and callee."""
    found: dict[str, dict[str, Any]] = {}
    if pairs:
        for told in lab.ask("check", pairs=pairs, probes=["icmp6"]):
            for result in told.get("results", ()):
                found.setdefault(result["source"], {})[result["destination"]] = result
    return found
