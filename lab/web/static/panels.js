// What nodes know: a client's state machine, peers and timers, and a NAT's mappings.

import { byId, html, mood, table } from "./dom.js";

const STATES = ["initial", "starting (UPnP)", "starting (primary server)", "starting (secondary server)", "qualified", "off-line", "dormant"];
const known = new Map();

const seconds = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(0)} s`);
const yes = (flag) => (flag ? "yes" : "no");

export function learn(name, facts) {
  known.set(name, facts);
}

export function forgetAll() {
  known.clear();
}

function facts(pairs) {
  const there = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return html("dl", {}, ...there.flatMap(([key, value]) => [html("dt", {}, key), html("dd", {}, String(value))]));
}

function machine(state) {
  const shown = STATES.includes(state) ? STATES : [...STATES, state];
  return html("ol", { class: "states", "aria-label": "State machine" }, ...shown.map((each) =>
    html("li", each === state ? { "aria-current": "step", class: mood(each) } : {}, each)));
}

function peers(rows) {
  if (!rows?.length) return html("p", { class: "quiet" }, "It knows no peers now.");
  return table("Peers", ["address", "mapping", "trusted", "received", "sent", "bubbles", "waiting"], rows.map((peer) => [
    peer.address, peer.mapping ?? "–", yes(peer.trusted), `${seconds(peer.received_ago)} ago`, `${seconds(peer.sent_ago)} ago`,
    String(peer.bubbles), String(peer.queued)]));
}

function counters(program) {
  const rows = Object.entries(program.counters ?? {}).map(([name, value]) => [name, String(value)]);
  return rows.length ? html("details", {}, html("summary", {}, "Counters"), table("Counters", ["what", "how often"], rows)) : null;
}

function ofProgram(node, program) {
  if (!program) {
    return [html("p", { class: "quiet" }, "Miredo does not tell what it knows.")];
  }
  if (program.type !== "client") {
    return [facts([["is a", program.type], ["address", program.address ?? program.server]]), program.peers ? peers(program.peers) : null, counters(program)];
  }
  return [machine(program.state), facts([
    ["why", program.error], ["Teredo address", program.address], ["mapped to", program.external_mapping],
    ["local end", program.local_mapping], ["server", program.server], ["its NAT", program.nat], ["", program.nat_behaviour],
    ["next refresh in", seconds(program.next_refresh)], ["refresh interval", seconds(program.refresh_interval)],
    ["extensions", program.extensions?.join(", ") || "none"]]), peers(program.peers), counters(program)];
}

function ofNat(rows) {
  if (!rows.length) return [html("p", { class: "quiet mappings" }, "It remembers no mapping now.")];
  const shown = rows.slice(0, 50);
  const list = table("Mappings of UDP, as the kernel has them", ["inside", "outside", "lets in", "opened from", "answered", "expires in"],
    shown.map((row) => [row.inside, row.outside, row.remote, row.opened, row.answered === null ? "–" : yes(row.answered), seconds(row.expires)]));
  list.className = "mappings";
  const more = rows.length - shown.length;
  return [list, more ? html("p", { class: "quiet" }, `and ${more} more`) : null];
}

// The panels of these nodes, in this order; what has not changed stays, so that nobody loses their place.
export function showPanels(nodes) {
  const box = byId("panels");
  const told = (node) => known.get(node.name)?.mappings || known.get(node.name)?.program || node.program === "miredo";
  const wanted = nodes.filter((node) => known.has(node.name) && told(node));
  const panels = new Map([...box.children].map((panel) => [panel.dataset.node, panel]));
  box.replaceChildren(...wanted.map((node) => {
    const knows = known.get(node.name);
    const key = JSON.stringify([node, knows]);
    const before = panels.get(node.name);
    if (before?.dataset.key === key) return before;
    const open = before?.querySelector("details")?.open ?? false;
    const what = node.role === "nat" ? `NAT, ${node.nat_kind}` : node.role;
    const body = knows.mappings ? ofNat(knows.mappings) : ofProgram(node, knows.program);
    const panel = html("article", { class: "panel", "data-node": node.name, "aria-label": node.name },
      html("h3", {}, `${node.name} (${what}): `, html("span", { class: mood(node.state) }, node.state)),
      node.reason ? html("p", { class: "bad" }, node.reason) : null, ...body);
    panel.dataset.key = key;
    const details = panel.querySelector("details");
    if (details) details.open = open;
    return panel;
  }));
}
