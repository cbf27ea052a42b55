// Packets as dots that move along links; who wants less motion gets them in words only.

import { byId, svg } from "./dom.js";
import { internet, place, TRUNK } from "./picture.js";

const HOP = 450;
const MOST = 40;
const still = matchMedia("(prefers-reduced-motion: reduce)");
let moving = 0;

function kind(packet) {
  if (!packet.teredo) return "native";
  if (packet.what.includes("bubble")) return "bubble";
  return packet.what.includes("router") ? "server" : "data";
}

// Where a node is linked to the Internet, or the NAT before it: that is not in the way of what it has not translated.
const bar = (node) => node.core ?? bar(place(node.upstream));

// The corners of a way: across the Internet it goes straight down, along, and up again.
function corners(path) {
  const core = internet();
  const found = [];
  path.forEach((name, at) => {
    if (name !== core.name) {
      const node = place(name);
      const before = place(path[at - 1] ?? "");
      // Two of one LAN: the way is by the bridge, which is at its NAT.
      if (node && before?.upstream === node.upstream && node.upstream !== core.name) found.push({ ...place(node.upstream) });
      if (node) found.push({ x: node.x, y: node.y });
      return;
    }
    const ends = [path[at - 1], path[at + 1]].map((beside) => (beside === undefined ? null : place(beside))).filter(Boolean);
    const [first, last] = [ends[0], ends.at(-1)];
    if (first) found.push({ x: first.x, y: bar(first) });
    if (first && bar(first) !== bar(last)) found.push({ x: TRUNK, y: bar(first) }, { x: TRUNK, y: bar(last) });
    if (first !== last) found.push({ x: last.x, y: bar(last) });
  });
  return found;
}

function settle(packet, end) {
  if (packet.drop) {
    const cross = svg("text", { class: "cross", x: end.x, y: end.y + 10 }, "✗");
    byId("moving").append(cross);
    setTimeout(() => cross.remove(), 1200);
  }
}

function move(packet) {
  const points = corners(packet.path);
  const layer = byId("moving");
  if (points.length < 2 || !layer || moving >= MOST) return;
  const dot = svg("circle", { class: `dot ${kind(packet)}`, cx: 0, cy: 0, r: 9 });
  layer.append(dot);
  moving += 1;
  const frames = points.map((point) => ({ transform: `translate(${point.x}px, ${point.y}px)` }));
  const run = dot.animate(frames, { duration: HOP * (points.length - 1), easing: "linear" });
  const end = () => { dot.remove(); moving -= 1; settle(packet, points.at(-1)); };
  run.finished.then(end, end);
}

export function showPackets(packets) {
  for (const packet of packets) {
    if (!still.matches && !document.hidden) move(packet);
  }
  const last = packets.at(-1);
  const count = last.count > 1 ? ` (${last.count} of these)` : "";
  byId("last-packet").textContent = `Last packet: ${last.what}${count}, ${last.path.join(" → ")}${last.drop ? `; ${last.drop}` : ""}`;
}
