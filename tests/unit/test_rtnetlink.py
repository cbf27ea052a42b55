"""rtnetlink: what is asked of the kernel is what it then has. Where this may not be tried, messages are compared."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from lab import rtnetlink
from lab.backends import linux
from lab.rtnetlink import Rtnetlink


def apart(work: Callable[[], Any]) -> Any:
    """Do something in a network namespace of a child; returns what it returns."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            linux.isolate(None if os.geteuid() == 0 else (os.geteuid(), os.getegid()))
            if (inner := os.fork()) == 0:  # only the first child of a new PID namespace may have more
                os.write(writing, json.dumps(work()).encode())
            else:
                os.waitpid(inner, 0)
            code = 0
        except OSError as error:
            os.write(writing, json.dumps({"problem": str(error)}).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    found = json.loads(text)
    if isinstance(found, dict) and "Operation not permitted" in found.get("problem", ""):
        pytest.skip("needs root or unprivileged user namespaces")
    return found


def shown(*what: str) -> Any:
    return json.loads(subprocess.run(("/sbin/ip", "-json", *what), capture_output=True, check=True).stdout or "[]")


def linked(mac: str = "02:00:00:00:00:09") -> tuple[int, int]:
    """Two ends of a link in this namespace, one at a bridge; their indexes."""
    home = linux.current_netns()
    with Rtnetlink() as kernel:
        kernel.do(rtnetlink.bridge("lan"))
        kernel.do(rtnetlink.veth("one", "other", home, peer_mac=mac, master=socket.if_nametoindex("lan")))
        index = socket.if_nametoindex("other")
        kernel.do(rtnetlink.no_link_local(index), rtnetlink.set_up(index, mtu=1400))
    return socket.if_nametoindex("one"), index


def test_links_are_made_with_their_ends() -> None:
    def work() -> Any:
        linked()
        return {each["ifname"]: each for each in shown("-details", "link")} | {
            "v6": shown("-6", "address", "show", "other")
        }

    found = apart(work)
    assert found["one"]["master"] == "lan"
    assert "UP" in found["one"]["flags"]
    assert (found["other"]["address"], found["other"]["mtu"]) == ("02:00:00:00:00:09", 1400)
    assert found["lan"]["linkinfo"]["info_kind"] == "bridge"
    assert not any(each.get("addr_info") for each in found["v6"])


def test_a_vxlan_leads_over_a_link_to_one_other_host() -> None:
    def work() -> Any:
        _, over = linked()
        with Rtnetlink() as kernel:
            kernel.do(
                rtnetlink.vxlan("far", 7, "192.0.2.9", port=4789, over=over, mtu=1300),
                rtnetlink.vxlan(
                    "port", 8, "192.0.2.8", port=4789, over=over, mtu=1300, master=socket.if_nametoindex("lan")
                ),
            )
        return {each["ifname"]: each for each in shown("-details", "link")}

    found = apart(work)
    facts = found["far"]["linkinfo"]["info_data"]
    assert (facts["id"], facts["remote"], facts["port"], facts["link"]) == (7, "192.0.2.9", 4789, "other")
    assert (found["far"]["mtu"], found["far"].get("master"), "UP" in found["far"]["flags"]) == (1300, None, False)
    assert (found["port"]["master"], "UP" in found["port"]["flags"]) == ("lan", True)


def test_a_route_that_another_program_made_can_be_removed() -> None:
    def work() -> Any:
        _, index = linked()
        with Rtnetlink() as kernel:
            kernel.do(rtnetlink.address(index, "192.0.2.1/24"))
            subprocess.run(("/sbin/ip", "route", "add", "default", "via", "192.0.2.9", "proto", "boot"), check=True)
            kernel.do(rtnetlink.route("0.0.0.0/0", index, present=False))
            only = [list(kernel.addresses(socket.AF_INET, each)) for each in (index, index + 100)]
        return [[each["dst"] for each in shown("route")], only]

    assert apart(work) == [["192.0.2.0/24"], [[["192.0.2.1", 24]], []]]


def test_an_ipv6_address_can_be_bound_to_at_once() -> None:
    """Also while the kernel has not yet come to see that there is nothing to detect."""

    def work() -> Any:
        _, index = linked()
        with Rtnetlink() as kernel:
            kernel.do(rtnetlink.address(index, "2001:db8::1/64"))
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as web:
                web.bind(("2001:db8::1", 0))
        return shown("-6", "address", "show", "other")[0]["addr_info"][0]

    found = apart(work)
    assert found["local"] == "2001:db8::1"
    assert found["nodad"]


def test_addresses_neighbours_routes_and_rules_come_and_go() -> None:
    def work() -> Any:
        _, index = linked()
        requests = [
            rtnetlink.address(index, "192.0.2.1/24"),
            rtnetlink.address(index, "2001:db8::1/64"),
            rtnetlink.neighbour(index, "192.0.2.9", "02:00:00:00:00:07"),
            rtnetlink.route("0.0.0.0/0", index, via="192.0.2.9"),
            rtnetlink.route("198.51.100.0/24", index, source="192.0.2.1"),
            rtnetlink.route("10.0.0.0/8", kind="unreachable"),
            rtnetlink.route("2001::/32", index, via="2001:db8::2", table=1000, metric=77),
            rtnetlink.route("::/0", index),
            rtnetlink.source_rule("2001:db8:1::/64", 1000),
        ]

        def look() -> list[Any]:
            return [
                [each["local"] for each in shown("address", "show", "other")[0]["addr_info"]],
                [
                    [each["dst"], each["lladdr"], each["state"]]
                    for each in shown("neighbour", "show", "nud", "permanent")
                ],
                {each["dst"]: each for each in shown("route")},
                {each["dst"]: each for each in shown("-6", "route", "show", "table", "1000")},
                [each.get("table") for each in shown("-6", "rule") if each.get("src") == "2001:db8:1::"],
                [each["dev"] for each in shown("-6", "route", "show", "default")],
            ]

        with Rtnetlink() as kernel:
            kernel.do(*requests)
            there = look()
            surroundings = [list(kernel.addresses(socket.AF_INET)), list(kernel.default_routes(socket.AF_INET))]
            kernel.do(
                rtnetlink.route("198.51.100.0/24", index, present=False),
                rtnetlink.neighbour(index, "192.0.2.9", "02:00:00:00:00:07", present=False),
                rtnetlink.address(index, "2001:db8::1/64", present=False),
            )
        return [there, surroundings, index, look()]

    there, surroundings, index, after = apart(work)
    addresses, neighbours, routes, table, rules, defaults = there
    assert addresses == ["192.0.2.1", "2001:db8::1"]
    assert neighbours == [["192.0.2.9", "02:00:00:00:00:07", ["PERMANENT"]]]
    assert routes["default"]["gateway"] == "192.0.2.9"
    assert (routes["198.51.100.0/24"]["scope"], routes["10.0.0.0/8"]["type"]) == ("link", "unreachable")
    assert (table["2001::/32"]["gateway"], table["2001::/32"]["metric"]) == ("2001:db8::2", 77)
    assert rules == ["1000"]
    assert routes["198.51.100.0/24"]["prefsrc"] == "192.0.2.1"
    assert defaults == ["other"]
    assert surroundings == [[["192.0.2.1", 24]], [[index, "192.0.2.9"]]]
    assert (after[0], after[1]) == (["192.0.2.1"], [])
    assert "198.51.100.0/24" not in after[2]


def test_the_first_failure_of_many_is_told_with_what_was_asked_and_the_others_are_done() -> None:
    def work() -> Any:
        many = [rtnetlink.address(1, f"10.0.{number >> 8}.{number & 255}/32") for number in range(2000)]
        wrong = [rtnetlink.address(99, "192.0.2.1/32"), rtnetlink.address(98, "192.0.2.2/32")]
        with Rtnetlink() as kernel:
            try:
                kernel.do(*many[:1500], *wrong, *many[1500:1505])
            except OSError as error:
                return [error.errno, error.strerror, len(list(kernel.addresses(socket.AF_INET)))]
        return None

    number, text, count = apart(work)
    assert number == errno.ENODEV
    assert text.startswith("address 192.0.2.1/32: ")
    assert count == 1505


def test_the_way_to_a_host_is_the_one_that_the_kernel_takes() -> None:
    def work() -> Any:
        _, index = linked()
        requests = [rtnetlink.address(index, "192.0.2.1/24"), rtnetlink.address(index, "192.0.2.9/24")]
        requests.append(rtnetlink.route("198.51.100.0/24", index, via="192.0.2.2"))
        requests.append(rtnetlink.route("198.51.100.7/32", kind="blackhole"))
        with Rtnetlink() as kernel:
            kernel.do(*requests)
            asked = [("192.0.2.5", None), ("192.0.2.5", "192.0.2.9"), ("198.51.100.5", None)]
            asked += [("198.51.100.7", None), ("203.0.113.1", None), ("192.0.2.9", None)]
            return [index, *(kernel.way(*each) for each in asked), kernel.link(index), kernel.link(9999)]

    index, *found = apart(work)
    assert found[:3] == [
        [index, "192.0.2.1", "192.0.2.5"],
        [index, "192.0.2.9", "192.0.2.5"],
        [index, "192.0.2.1", "192.0.2.2"],
    ]
    assert found[3:6] == [None, None, None]
    assert found[6:] == [["other", rtnetlink.ETHERNET, 1400, True], None]
