"""The page's server: the page itself, news as server-sent events, and acts."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.nat.kinds import NAMES
from lab.state import Lab, MachineError
from lab.teredo.extensions import Extension
from lab.web import acts
from lab.web.acts import ActError
from lab.web.guard import HEADERS, objection, policy
from lab.web.live import GONE, Live

_STATIC: Final = resources.files("lab.web") / "static"
_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_KEPT: Final = 20
"""Pictures of stories that are kept."""

_BREATH: Final = 15.0
"""Seconds after which a viewer hears from us even if nothing happens: so we find out who has gone."""

WATCHED: Final = 64
"""Nodes of which one viewer may want to know all."""

Act = Callable[[Request, dict[str, Any]], Awaitable[dict[str, Any]]]


class _Guarded:
    """Refuses what is not for us, and adds to each answer what browsers shall keep to."""

    def __init__(self, app: ASGIApp, bound: str, token: str) -> None:
        self._app = app
        self._bound = bound
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = policy(headers.get("content-type", ""))
                headers.update(HEADERS)
            await send(message)

        refused = objection(self._bound, scope["method"], _lower(scope), self._token)
        app = self._app if refused is None else JSONResponse({"problem": refused[1]}, refused[0])
        await app(scope, receive, careful)


def _lower(scope: MutableMapping[str, Any]) -> dict[str, str]:
    return dict(Headers(scope=scope).items())


class _Pages:
    """What each route does, for one lab."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._stories: dict[str, str] = {}

    async def file(self, request: Request) -> Response:
        """A file of the page; only those that are there, by their names."""
        name = request.path_params.get("name", "index.html")
        files = {each.name: each for each in _STATIC.iterdir()}
        if name not in files:
            return JSONResponse({"problem": f"there is no {name}"}, 404)
        return Response(files[name].read_text(encoding="utf-8"), media_type=_TYPES[name.rpartition(".")[2]])

    async def kinds(self, request: Request) -> Response:
        return JSONResponse({name: behaviour.point for name, behaviour in NAMES.items()})

    async def extensions(self, request: Request) -> Response:
        return JSONResponse([*Extension])

    async def events(self, request: Request) -> Response:
        """News as long as somebody listens; of these `nodes` all, and with `packets=1` packets on their way."""
        named = request.query_params.get("nodes", "")
        nodes = frozenset(name for name in named.split(",") if name)
        if len(nodes) > WATCHED:
            return JSONResponse({"problem": f"nodes: up to {WATCHED} at once, and these are {len(nodes)}"}, 400)
        stream = self._news(nodes, packets=request.query_params.get("packets") == "1")
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _news(self, nodes: frozenset[str], *, packets: bool) -> AsyncIterator[str]:
        async with self._live.viewer(nodes, packets=packets) as viewer:
            while not viewer.closed:
                news = await viewer.news(_BREATH)
                said = [f"data: {json.dumps({'topic': topic, 'value': value})}\n\n" for topic, value in news]
                yield "".join(said) or ": still here\n\n"

    async def story(self, request: Request) -> Response:
        picture = self._stories.get(request.path_params["number"])
        if picture is None:
            return JSONResponse({"problem": "this picture is not kept any more"}, 404)
        return Response(picture, media_type="image/svg+xml")

    # Acts

    async def ping(self, request: Request, said: dict[str, Any]) -> dict[str, Any]:
        caller, callee, cold = _text(said, "from"), _text(said, "to"), _flag(said, "cold")
        doing = f"{caller} pings {callee}"
        told = await self._live.act(doing, acts.ping, caller, callee, cold=cold)
        number = secrets.token_hex(8)
        self._stories[number] = told.picture()
        for old in list(self._stories)[:-_KEPT]:
            del self._stories[old]
        facts = told.facts() | {"picture": f"stories/{number}.svg"}
        self._live.viewers.tell("told", facts)
        return facts

    async def reset(self, request: Request, said: dict[str, Any]) -> dict[str, Any]:
        node = request.path_params["node"]
        await self._live.act(f"{node} is power-cycled", acts.reset_nat, node)
        return {"done": f"{node} has forgotten all its mappings"}

    async def kind(self, request: Request, said: dict[str, Any]) -> dict[str, Any]:
        node, kind = request.path_params["node"], _text(said, "kind")
        await self._live.act(f"{node} becomes {kind}", acts.set_nat, node, kind)
        return {"done": f"{node} is {kind} now, and has forgotten all its mappings"}

    async def set_extensions(self, request: Request, said: dict[str, Any]) -> dict[str, Any]:
        node, names = request.path_params["node"], _names(said, "extensions")
        state = await self._live.act(f"{node} starts anew", acts.set_extensions, node, names)
        return {"done": f"{node} has {', '.join(names) or 'no extensions'} now, and is {state}"}

    async def link(self, request: Request, said: dict[str, Any]) -> dict[str, Any]:
        node, down = request.path_params["node"], _flag(said, "down")
        what = f"the link of {node} is {'cut' if down else 'mended'}"
        await self._live.act(what, acts.cut_link, node, down=down)
        return {"done": what}

    async def forget(self, request: Request, said: dict[str, Any]) -> dict[str, Any]:
        await self._live.act("all paths are forgotten", acts.forget)
        return {"done": "all paths are cold: peers are forgotten, and whom NATs have let out"}

    async def check(self, request: Request, said: dict[str, Any]) -> dict[str, Any]:
        good = await self._live.act("checking", acts.check, self._live.progress("checking"))
        return {"done": "all is as expected" if good else "not all is as expected: see the matrix", "ok": good}


def _acting(act: Act) -> Callable[[Request], Awaitable[Response]]:
    """A route that does something: JSON in, JSON out, and problems in words."""

    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await act(request, _object(await request.body())))
        except ActError as error:
            return JSONResponse({"problem": str(error)}, 400)
        except (MachineError, *GONE) as error:
            return JSONResponse({"problem": str(error)}, 409)

    return answer


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body or b"{}")
    except ValueError as error:
        raise ActError("the request is no JSON") from error
    if not isinstance(said, dict):
        raise ActError("the request must be an object of JSON")
    return said


def _text(said: dict[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        raise ActError(f"{key!r} must be there, and a name")
    return value


def _names(said: dict[str, Any], key: str) -> list[str]:
    value = said.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ActError(f"{key!r} must be there, and a list of names")
    return value


def _flag(said: dict[str, Any], key: str) -> bool:
    value = said.get(key, False)
    if not isinstance(value, bool):
        raise ActError(f"{key!r} must be true or false")
    return value


def app(lab: Lab, bound: str, token: str) -> tuple[ASGIApp, Live]:
    """The server of a lab's page that listens at `bound`, and what it follows the lab with."""
    live = Live(lab)
    pages = _Pages(live)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        live.start()
        yield
        await live.stop()

    routes = [
        Route("/", pages.file),
        Route("/extensions", pages.extensions),
        Route("/events", pages.events),
        Route("/kinds", pages.kinds),
        Route("/stories/{number}.svg", pages.story),
        Route("/ping", _acting(pages.ping), methods=["POST"]),
        Route("/check", _acting(pages.check), methods=["POST"]),
        Route("/forget", _acting(pages.forget), methods=["POST"]),
        Route("/nats/{node}/reset", _acting(pages.reset), methods=["POST"]),
        Route("/nats/{node}/kind", _acting(pages.kind), methods=["POST"]),
        Route("/clients/{node}/extensions", _acting(pages.set_extensions), methods=["POST"]),
        Route("/links/{node}", _acting(pages.link), methods=["POST"]),
        Route("/{name}", pages.file),
    ]
    return _Guarded(Starlette(routes=routes, lifespan=lifespan), bound, token), live
