"""The live page's server: who may ask it for what, the picture, packets on their way, and what viewers are told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from importlib import resources
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from lab.nat.flows import _mapping
from lab.plan import Plan
from lab.planner import plan
from lab.state import Lab, StateError
from lab.teredo.packet import echo_request
from lab.topology.load import load
from lab.web.app import WATCHED, app
from lab.web.guard import objection
from lab.web.matrix import MOST_FAILURES, matrix
from lab.web.moving import MOST, Moving
from lab.web.picture import _HALF, drawing, picture
from lab.web.viewers import Viewer, Viewers
from tests.unit.test_story import ALICE, ALICE_OUT, CAROL_OUT, A, C, Hop, Wire, actors

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
STATIC = resources.files("lab.web") / "static"
TOKEN = "a-token-that-is-long-enough"
AT = "http://127.0.0.1:8610"


class QuietLab(Lab):
    """A lab that has been started and answers nothing more."""

    def ask(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        if command == "links":
            yield {"links": {"alice": {"loss": 5.0}}}
        elif command == "status":
            yield {"name": "quiet", "nodes": [{"name": "alice", "role": "client", "site": "home"}]}
        else:
            raise StateError("it does not answer")


@pytest.fixture
def client() -> TestClient:
    return TestClient(app(QuietLab("quiet", Path("/nowhere")), "127.0.0.1", TOKEN)[0], base_url=AT)


# Who may ask


@pytest.mark.parametrize(
    ("bound", "host", "fine"),
    [
        ("127.0.0.1", "127.0.0.1:8610", True),
        ("127.0.0.1", "localhost:8610", True),
        ("127.0.0.1", "[::1]:8610", True),
        ("127.0.0.1", "evil.example:8610", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "192.168.7.7:8610", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[nonsense", False),
        ("192.168.7.7", "192.168.7.7:8610", True),
        ("school.example", "School.example:8610", True),
        ("0.0.0.0", "192.168.7.7:8610", True),
        ("::", "[2001:db8::7]:8610", True),
        ("0.0.0.0", "evil.example", False),
    ],
)
def test_only_names_of_this_server_are_answered(bound: str, host: str, fine: bool) -> None:
    refused = objection(bound, "GET", {"host": host}, TOKEN)
    assert (refused is None) is fine
    assert fine or (refused is not None and refused[0] == 421)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1"])
def test_no_other_sites_page_may_ask(client: TestClient, origin: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Origin": origin}
    assert client.post("/links/alice", json={"down": True}, headers=headers).status_code == 403
    assert client.get("/kinds", headers=headers).status_code == 403
    assert client.get("/kinds", headers=headers | {"Origin": AT}).status_code == 200


def test_no_other_sites_page_may_have_our_answers_as_its_own_pictures(client: TestClient) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/icon.svg", headers=foreign).status_code == 403
    assert client.get("/", headers=foreign | {"Sec-Fetch-Mode": "navigate"}).status_code == 200  # a link to the page
    assert client.get("/icon.svg", headers=foreign | {"Sec-Fetch-Site": "same-origin"}).status_code == 200


ACTS = (
    "/ping",
    "/check",
    "/forget",
    "/nats/home-nat/reset",
    "/nats/home-nat/kind",
    "/clients/alice/extensions",
    "/links/alice",
)


@pytest.mark.parametrize("path", ACTS)
@pytest.mark.parametrize(
    "given", [None, "Bearer ", "Bearer nonsense", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_nothing_changes_without_the_token(client: TestClient, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.encode()}
    answer = client.post(path, json={}, headers=cast(dict[str, str], headers))
    assert answer.status_code == 401
    assert "teredo-lab web" in answer.json()["problem"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_need_the_token_too(client: TestClient, method: str) -> None:
    assert client.request(method, "/links/alice").status_code == 401


def test_every_act_is_a_route_for_post_alone(client: TestClient) -> None:
    for path in ACTS:
        assert client.get(path).status_code in (404, 405)
        assert client.post(path, json={}, headers={"Authorization": f"Bearer {TOKEN}"}).status_code in (200, 400, 409)


# What is answered


def test_the_page_asks_nobody_else_and_runs_nothing_of_others(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert TOKEN not in answer.text
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\"'\s)]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"\son\w+=|innerHTML|<style|style=", text), file.name


def test_all_that_the_page_names_is_there(client: TestClient) -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    modules = (file.read_text(encoding="utf-8") for file in STATIC.iterdir() if file.name.endswith(".js"))
    named = {*re.findall(r"(?:href|src)=\"([\w.]+)\"", page), *re.findall(r"from \"\./([\w.]+)\"", "".join(modules))}
    assert {"style.css", "page.js", "picture.js", "dom.js"} <= named
    for name in named:
        assert client.get(f"/{name}").status_code == 200, name
    ids = set(re.findall(r"id=\"([\w-]+)\"", page))
    scripts = [file.read_text(encoding="utf-8") for file in STATIC.iterdir() if file.name.endswith(".js")]
    assert {each for text in scripts for each in re.findall(r"byId\(\"([\w-]+)\"\)", text)} <= ids


@pytest.mark.parametrize("path", ["/app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/static/page.js", "/stories/1.svg"])
def test_no_other_file_is_given(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/ping", b"nonsense", "no JSON"),
        ("/ping", b"[]", "object"),
        ("/ping", b'{"from": "alice"}', "'to'"),
        ("/ping", b'{"from": 1, "to": "bob"}', "'from'"),
        ("/links/alice", b'{"down": "yes"}', "'down'"),
        ("/links/nobody", b'{"down": true}', "these have: alice"),
        ("/nats/alice/reset", b"{}", "alice is no NAT but a client"),
        ("/nats/alice/kind", b'{"kind": "leaky"}', "there is no kind of NAT 'leaky'; there are cone"),
        ("/nats/alice/kind", b"{}", "'kind'"),
        ("/clients/alice/extensions", b"{}", "'extensions' must be there, and a list of names"),
        ("/clients/alice/extensions", b'{"extensions": "all"}', "'extensions' must be there, and a list of names"),
        ("/clients/alice/extensions", b'{"extensions": [1]}', "'extensions' must be there, and a list of names"),
    ],
)
def test_bad_requests_are_answered_in_words(client: TestClient, path: str, body: bytes, words: str) -> None:
    answer = client.post(path, content=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 400
    assert words in answer.json()["problem"]


def test_a_lab_that_does_not_answer_is_said_so(client: TestClient) -> None:
    answer = client.post("/check", json={}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.json()) == (409, {"problem": "it does not answer"})


def test_nobody_may_watch_more_than_can_be_told(client: TestClient) -> None:
    names = ",".join(f"node{number}" for number in range(WATCHED + 1))
    assert client.get(f"/events?nodes={names}").status_code == 400


# The picture


def drawn(name: str) -> tuple[Plan, dict[str, Any]]:
    planned = plan(load(TOPOLOGIES / name))
    return planned, drawing(planned)


@pytest.mark.parametrize("name", sorted(path.name for path in TOPOLOGIES.glob("*.yaml")))
def test_every_node_has_a_place_of_its_own(name: str) -> None:
    planned, found = drawn(name)
    places = {node["name"]: node for node in found["nodes"]}
    assert set(places) == {node.name for node in planned.nodes if node.role != "internet"}
    for one, other in combinations(found["nodes"], 2):
        apart = abs(one["x"] - other["x"]) >= 2 * _HALF or abs(one["y"] - other["y"]) >= 100
        assert apart, (one, other)
    for node in found["nodes"]:
        assert _HALF <= node["x"] <= found["width"] - _HALF + 0.01
        assert 0 < node["y"] < found["height"]


def test_who_is_behind_a_nat_is_in_its_box_and_nobody_else() -> None:
    found = drawn("default.yaml")[1]
    boxes = {box["nat"]: box for box in found["boxes"]}
    assert boxes["home-cone-nat"]["inside"] == "192.168.1.0/24"
    assert next(node["outside"] for node in found["nodes"] if node["name"] == "home-cone-nat") == ["198.51.100.1"]
    for nat, box in boxes.items():
        inside = {
            node["name"]
            for node in found["nodes"]
            if box["x"] < node["x"] < box["x"] + box["width"] and box["y"] < node["y"] <= box["y"] + box["height"]
        }
        assert inside == {node["name"] for node in found["nodes"] if node["upstream"] == nat}


def test_boxes_of_nats_behind_nats_lie_in_each_other(tmp_path: Path) -> None:
    file = tmp_path / "nested.yaml"
    file.write_text(
        "servers: {server: }\nsites:\n  carrier: {nat: cgn}\n"
        "  flat: {nat: home_router, behind: carrier, clients: {bob: }}\n"
        "  house: {nat: home_router, behind: carrier, clients: {ann: , zoe: }}\n"
    )
    found = drawing(plan(load(file)))
    carrier, *others = found["boxes"]
    assert carrier["nat"] == "carrier-nat"
    assert {box["nat"] for box in others} == {"flat-nat", "house-nat"}
    for box in others:
        assert carrier["x"] < box["x"]
        assert box["x"] + box["width"] < carrier["x"] + carrier["width"]
        assert carrier["y"] < box["y"]
        assert box["y"] + box["height"] < carrier["y"] + carrier["height"]


def test_large_labs_are_drawn_in_rows() -> None:
    found = drawn("large/clients-1000.yaml")[1]
    assert 0.3 < found["width"] / found["height"] < 6
    bars = found["internet"]["bars"]
    assert len(bars) > 3
    places = {node["name"]: node for node in found["nodes"]}
    for node in found["nodes"]:  # no link crosses a bar or another row
        if node["upstream"] == "internet":
            assert node["core"] == min(bars, key=lambda bar: abs(bar - node["y"]))
        else:
            assert node["core"] is None
            assert not any(places[node["upstream"]]["y"] < bar < node["y"] for bar in bars)


@pytest.mark.parametrize("name", ["carrier.yaml", "large/clients-300.yaml"])
def test_folded_a_site_s_nat_stands_for_all_that_is_behind_it(name: str) -> None:
    planned = plan(load(TOPOLOGIES / name))
    whole, folded = (drawing(planned, folded=each) for each in (False, True))
    shown = {node["name"] for node in folded["nodes"]}
    stood_for = [name for node in folded["nodes"] for name in node["folds"]]
    assert len(stood_for) == len(set(stood_for))
    assert shown | set(stood_for) == {node["name"] for node in whole["nodes"]}
    assert shown == {node["name"] for node in whole["nodes"] if node["upstream"] == "internet"}
    assert folded["boxes"] == []
    assert folded["width"] < whole["width"]
    for one, other in combinations(folded["nodes"], 2):
        assert abs(one["x"] - other["x"]) >= 2 * _HALF or abs(one["y"] - other["y"]) >= 100


# The matrix


def result(source: str, destination: str, **facts: Any) -> dict[str, Any]:
    plain = {"expected": "reachable", "observed": "reachable", "ok": True, "path": "direct", "first_packet_ms": 8.94}
    more = {"probe": "udp", "because": "it does", "reason": None}
    return {"source": source, "destination": destination, **plain, **more, **facts}


def test_a_matrix_has_a_few_words_for_each_pair() -> None:
    silent = {"observed": "unreachable", "path": None, "first_packet_ms": None}
    told = matrix(
        [
            result("a-10", "a-2"),
            result("a-10", "b", expected="unreachable", **silent),
            result("a-2", "a-10", path="relay"),
            result("a-2", "a-10", probe="tcp", ok=False, reason="refused", **silent),
            result("b", "a-2", ok=False, **silent),
        ],
        {"dave": "no Miredo"},
    )
    assert told["sources"] == ["a-2", "a-10", "b"]
    assert told["destinations"] == ["a-2", "a-10", "b"]
    assert told["cells"] == [
        [None, "✗ relay, 8.9 ms", None],
        ["direct, 8.9 ms", None, "no, expected"],
        ["✗ unreachable", None, None],
    ]
    assert (told["good"], told["total"], told["left_out"]) == (3, 5, {"dave": "no Miredo"})
    assert told["failures"][0] == "a-2 → a-10 (tcp): expected reachable (it does), observed unreachable: refused"


def test_the_matrix_of_many_is_small() -> None:
    names = [f"client-{number}" for number in range(140)]
    results = [
        result(one, other, probe=probe, ok=False)
        for one in names
        for other in names
        if one != other
        for probe in ("icmp6", "udp", "tcp")
    ]
    told = matrix(results, {})
    assert len(json.dumps(told)) < 1_000_000 < len(json.dumps(results))
    assert (len(told["failures"]), told["more_failures"]) == (MOST_FAILURES, len(results) - MOST_FAILURES)


# Packets on their way


def test_packets_are_told_with_their_way_across_the_internet() -> None:
    wire = Wire(actors())
    moving = Moving(wire.cast, wire.taps, wire.interfaces)
    wire.bubbles()
    for _ in range(3):
        wire.there(echo_request(A.packed, C.packed, b""))
    assert moving.take(wire.packets) == 0
    last = wire.packets[-1].at
    assert moving.ready(wire.packets[0].at) == []
    told = moving.ready(last + 10**12)
    direct, up, down, back, echo = told
    assert direct["path"] == ["alice", "home-nat", "internet", "away-nat"]
    assert direct["what"] == "direct bubble"
    assert direct["drop"].startswith("dropped by away-nat: filtering APDF")
    assert up["path"] == ["alice", "home-nat", "internet", "server"]
    assert down["path"] == ["server", "internet", "away-nat", "carol"]
    assert back["path"] == ["carol", "away-nat", "internet", "home-nat", "alice"]
    assert (echo["what"], echo["count"], echo["drop"]) == ("echo request", 3, "")
    assert moving.ready(last + 10**12) == []


def test_a_flood_is_not_followed_but_counted() -> None:
    wire = Wire(actors())
    for number in range(2000):
        wire.send(echo_request(A.packed, C.packed, number.to_bytes(2)), Hop("alice", True, ALICE, CAROL_OUT))
    moving = Moving(wire.cast, wire.taps, wire.interfaces)
    assert moving.take(wire.packets) == 1500
    assert len(moving.ready(10**19)) <= MOST


# What viewers are told


def test_a_viewer_is_told_the_latest_of_each_topic() -> None:
    async def main() -> None:
        viewers = Viewers()
        viewers.tell("status", 1)
        viewer = Viewer(frozenset({"alice"}), packets=True)
        viewers.add(viewer)
        viewers.tell("status", 2)
        viewers.tell("node alice", "hers")
        viewers.tell("node bob", "his")
        viewers.move([{"path": []}])
        assert await viewer.news(1) == [("status", 2), ("node alice", "hers"), ("packets", [{"path": []}])]
        viewers.tell("status", 2)
        assert await viewer.news(0.01) == []
        assert viewers.nodes == {"alice"}
        viewers.remove(viewer)
        assert not viewers.want_packets

    asyncio.run(main())


def test_a_slow_viewer_misses_packets_and_holds_none_up() -> None:
    async def main() -> None:
        viewers = Viewers()
        slow, blind = Viewer(frozenset(), packets=True), Viewer(frozenset(), packets=False)
        viewers.add(slow)
        viewers.add(blind)
        viewers.move([{"number": number} for number in range(1000)])
        ((topic, moves),) = await slow.news(1)
        assert topic == "packets"
        assert len(moves) < 100
        assert moves[-1] == {"number": 999}
        assert await blind.news(0.01) == []

    asyncio.run(main())


def test_all_viewers_end_when_the_server_does() -> None:
    async def main() -> None:
        viewers = Viewers()
        early, late = Viewer(frozenset(), packets=False), Viewer(frozenset(), packets=False)
        viewers.add(early)
        viewers.close()
        viewers.add(late)
        await early.news(60)
        await late.news(60)
        assert early.closed
        assert late.closed

    asyncio.run(main())


# What NATs remember


def entry(there: tuple[str, int, str, int], back: tuple[str, int, str, int], status: int = 2, proto: int = 17) -> Any:
    def side(ends: tuple[str, int, str, int]) -> SimpleNamespace:
        return SimpleNamespace(saddr=ends[0], sport=ends[1], daddr=ends[2], dport=ends[3], proto=proto)

    return SimpleNamespace(tuple_orig=side(there), tuple_reply=side(back), status=status, timeout=30)


IN, OUT, PEER = (ALICE.host, 1111), (ALICE_OUT.host, 4444), (CAROL_OUT.host, 2222)


def test_a_flow_is_a_mapping_whoever_began_it() -> None:
    ends = {"inside": "192.168.1.2:1111", "outside": "198.51.100.1:4444", "remote": "198.51.100.2:2222", "expires": 30}
    assert _mapping(entry((*IN, *PEER), (*PEER, *OUT))) == ends | {"opened": "inside", "answered": True}
    assert _mapping(entry((*PEER, *OUT), (*IN, *PEER), 0)) == ends | {"opened": "outside", "answered": False}


def test_what_is_not_translated_or_not_udp_is_no_mapping() -> None:
    assert _mapping(entry((*PEER, *OUT), (*OUT, *PEER))) is None
    assert _mapping(entry((*IN, *PEER), (*PEER, *OUT), proto=6)) is None


def test_news_can_be_written_as_json() -> None:
    planned = plan(load(TOPOLOGIES / "default.yaml"))
    assert json.loads(json.dumps(picture(planned)))["name"] == "default"
