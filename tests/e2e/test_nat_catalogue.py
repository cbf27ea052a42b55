"""Every kind of NAT and every point of the grid is what it claims, says our prober, and says coturn's."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.nat.kinds import KINDS, NAMES, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from tests.e2e.labs import RunningLab, running, until

pytestmark = pytest.mark.e2e

HOSTS = "abc"
COTURN_PORT = 20123
"""The local port of all hosts that coturn's prober runs on: they want the same one outside."""

POINTS: dict[str, tuple[str, NatBehaviour]] = {}
"""NATs by site: how a topology writes each, and what it shall be."""

for kind, hairpin in itertools.product(KINDS, (False, True)):
    nat = f"{{kind: {kind}, hairpin: {str(hairpin).lower()}}}"
    POINTS[f"k{len(POINTS)}"] = nat, NAMES[kind]
for mapping, filtering, hairpin in itertools.product(Mapping, Filtering, (False, True)):
    nat = f"{{mapping: {mapping}, filtering: {filtering}, hairpin: {str(hairpin).lower()}}}"
    POINTS[f"g{len(POINTS)}"] = nat, NatBehaviour(mapping, filtering)
for extra, behaviour in (
    ("{mapping: EIM, filtering: EIF, ports: sequential, delta: 2}", NatBehaviour(filtering=Filtering.EIF)),
    ("{mapping: EIM, filtering: ADF, ports: random}", NatBehaviour(filtering=Filtering.ADF)),
    ("{kind: sequential_port_symmetric, delta: 5}", KINDS["sequential_port_symmetric"]),
    ("{kind: port_symmetric, addresses: 2, pooling: arbitrary}", KINDS["port_symmetric"]),
    ("{kind: sequential_port_symmetric, addresses: 2, pooling: arbitrary}", KINDS["sequential_port_symmetric"]),
    ("{kind: cone, addresses: 2, pooling: paired}", KINDS["cone"]),
    ("{kind: home_router}", NAMES["home_router"]),
    ("{kind: cgn}", NAMES["cgn"]),
    ("{kind: office}", NAMES["office"]),
):
    POINTS[f"x{len(POINTS)}"] = extra, behaviour


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """All of them in one lab, each with three hosts inside."""
    sites = [
        f"  {site}: {{nat: {nat}, clients: {{{', '.join(f'{site}{host}: ' for host in HOSTS)}}}}}"
        for site, (nat, _) in POINTS.items()
    ]
    text = "\n".join(["servers: {server: }", "checks: {pairs: ring}", "sites:", *sites, ""])
    with running(text, tmp_path_factory.mktemp("catalogue")) as lab:
        yield lab


@pytest.fixture(scope="module")
def measured(catalogue: RunningLab) -> dict[str, dict[str, Any]]:
    """What our prober sees, by site."""
    _, rows = catalogue.nat()
    return {row["node"].removesuffix("-nat"): row for row in rows}


@pytest.mark.parametrize("site", POINTS)
def test_our_prober_sees_what_is_claimed(measured: dict[str, dict[str, Any]], site: str) -> None:
    row, (nat, claim) = measured[site], POINTS[site]
    assert row["problems"] == []
    assert row["ok"]
    assert (row["mapping"], row["filtering"]) == (claim.mapping, claim.filtering)
    if "ports" not in nat:
        assert row["ports"] == claim.ports
    if row["ports"] == PortChoice.SEQUENTIAL:
        assert row["delta"] == int((re.search(r"delta: (\d+)", nat) or [0, 1])[1])
    overloads = "home_router" in nat
    assert row["collision"] == (None if row["ports"] != "preserving" else "overload" if overloads else "another")
    assert row["icmp_errors"] is True
    assert row["upnp"] is claim.upnp
    assert [(host["mapping"], host["filtering"]) for host in row["hosts"]] == [(claim.mapping, claim.filtering)] * 3


@pytest.mark.parametrize("site", [site for site, (nat, _) in POINTS.items() if "hairpin" in nat])
def test_our_prober_sees_hairpinning(measured: dict[str, dict[str, Any]], site: str) -> None:
    nat, claim = POINTS[site]
    foreseeable = not claim.symmetric or claim.filtering is Filtering.EIF or claim.ports is not PortChoice.RANDOM
    assert measured[site]["hairpin"] is (("hairpin: true" in nat) if foreseeable else None)


@pytest.mark.parametrize("site", [site for site, (nat, _) in POINTS.items() if "addr" in nat or "cgn" in nat])
def test_all_external_addresses_are_used(catalogue: RunningLab, measured: dict[str, dict[str, Any]], site: str) -> None:
    own = {address for address in catalogue.node(f"{site}-nat")["ipv4"] if not address.startswith("192.168.")}
    row, (_, claim) = measured[site], POINTS[site]
    paired = claim.pooling is Pooling.PAIRED and "arbitrary" not in POINTS[site][0]
    used = set(row["external"])
    assert used == own or (paired and used < own and len(used) == len(HOSTS))  # with four addresses one is left over
    assert row["pooling"] == (None if len(own) == 1 else "paired" if paired else "arbitrary")


@contextlib.contextmanager
def _coturn(lab: RunningLab, directory: Path) -> Iterator[str]:
    """coturn's STUN server at the Teredo server's two addresses; yields the first one."""
    first, second, *_ = lab.node("server")["ipv4"]
    options = ("-n", "-S", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout", f"--pidfile={directory}/pid")
    command = (*lab.lab.entering("server"), "turnserver", *options, "-L", first, "-L", second)
    with (directory / "turnserver.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            listening = (*lab.lab.entering("server"), "ss", "-Hlun", "sport", "=", "3478", "or", "sport", "=", "3479")
            until(lambda: len(subprocess.check_output(listening).splitlines()) >= 4)
            yield first
        finally:
            server.kill()


JUDGED = {
    "Endpoint Independent Mapping": "EIM",
    "Address Dependent Mapping": "ADM",
    "Address and Port Dependent Mapping": "APDM",
    "Endpoint Independent Filtering": "EIF",
    "Address Dependent Filtering": "ADF",
    "Address and Port Dependent Filtering": "APDF",
}


@pytest.fixture(scope="module")
def judged(catalogue: RunningLab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What coturn's prober says of mapping and filtering, by client; all clients of a site at once, from one port."""
    status = {node["name"]: node for node in catalogue.status()["nodes"]}
    answers: dict[str, set[str]] = {}
    with _coturn(catalogue, tmp_path_factory.mktemp("coturn")) as server:
        for test in ("-m", "-f"):
            # Two ports, since whom the mapping was tested with may come in for the filtering.
            port = str(COTURN_PORT + (test == "-f"))
            running_ = {}
            for client, node in status.items():
                if node["role"] == "client" and not ("home_router" in POINTS[node["site"]][0] and client[-1] != "a"):
                    command = (*catalogue.lab.entering(client), "turnutils_natdiscovery", test)
                    options = ("-L", node["ipv4"][0], "-l", port, server)
                    time.sleep(0.02)  # it does not repeat a packet that is lost when two hosts draw one port at once
                    running_[client] = subprocess.Popen((*command, *options), stdout=subprocess.PIPE, text=True)
            for client, process in running_.items():
                output, _ = process.communicate(timeout=60)
                found = {JUDGED[words] for words in re.findall(r"^NAT with (.*)!", output, re.MULTILINE)}
                answers.setdefault(client, set()).update(found)
    return answers


@pytest.mark.parametrize("site", POINTS)
def test_coturn_agrees(judged: dict[str, set[str]], site: str) -> None:
    nat, claim = POINTS[site]
    hosts = "a" if "home_router" in nat else HOSTS  # where hosts share a port, what each sees depends on the others
    seen = {host: judged[f"{site}{host}"] for host in hosts}
    assert seen == {host: {claim.mapping, claim.filtering} for host in hosts}, nat


def test_the_answer_has_what_scripts_rely_on(catalogue: RunningLab) -> None:
    code, rows = catalogue.nat("k0-nat")
    assert code == 0
    (row,) = rows
    expected = {"node": "k0-nat", "kind": "cone", "engine": "nftables", "mapping": "EIM", "filtering": "EIF"}
    assert row.items() >= {**expected, "ports": "preserving", "hairpin": False, "ok": True}.items()
    assert "chain filtering" in row["rules"]["nft list table ip nat_lab"]
    json.dumps(row)
