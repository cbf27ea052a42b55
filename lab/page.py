"""One HTML page that needs nothing else: no script, no font, nothing from elsewhere; light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from lab.story import Line

_STYLE: Final = """
:root { --ink: #1c2430; --paper: #fff; --line: #e3e6ea; --chosen: #fffbe6; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --ink: #dde3ea; --paper: #14181f; --line: #2a313b; --chosen: #2b2a1d } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
color: var(--ink); background: var(--paper) }
table { border-collapse: collapse } th, td { padding: .35rem .6rem; text-align: left; vertical-align: top }
th { font-weight: 600; font-size: .85rem } section { margin-top: 2rem } h2 { font-size: 1.05rem }
:target { background: var(--chosen) }
.packets td { border-top: 1px solid var(--line) }
.packets td:first-child { text-align: right; font-variant-numeric: tabular-nums }
@media print { body { margin: 0; max-width: none } a { color: inherit } tr, figure { break-inside: avoid }
h2, h3 { break-after: avoid } thead { display: table-header-group } }
"""


def page(title: str, style: str, body: str) -> str:
    """A whole page; `style` is CSS, `body` HTML below the title."""
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}{style}</style></head><body>"
        f"<main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def packets_table(lines: Iterable[Line]) -> str:
    """A story's packets, a row each; nothing if there are none."""
    rows = "".join(
        f"<tr><td>{line.at:.1f} ms</td><td>{escape(line.source)}</td><td>→ {escape(line.to)}</td>"
        f"<td>{escape(line.what)}</td></tr>"
        for line in lines
    )
    return f"<table class='packets'>{rows}</table>" if rows else ""
