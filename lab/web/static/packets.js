// Packets as dots that move along links; who wants less motion gets them in words only.
//
// They are on a canvas over the picture, so that the picture, which may be large, need not be painted again.

import { byId } from "./dom.js";
import { internet, spot, TRUNK } from "./picture.js";

const HOP = 450;
const CROSS = 1200;
const MOST = 40;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const canvas = byId("moving");
const pen = canvas.getContext("2d");
let dots = [];
let latest = "";
let frame = 0;

function kind(packet) {
  if (!packet.teredo) return "native";
  if (packet.what.includes("bubble")) return "bubble";
  return packet.what.includes("router") ? "server" : "data";
}

// The colours of the legend: they follow light and dark.
const colour = (name) => getComputedStyle(document.querySelector(`#topology .key.${name}`)).color;

// Where a node is linked to the Internet, or the NAT before it: that is not in the way of what it has not translated.
const bar = (node) => node.core ?? bar(spot(node.upstream));

// The corners of a way: across the Internet it goes straight down, along, and up again.
function corners(names) {
  const core = internet();
  const path = names.map((name) => (name === core.name ? name : spot(name)?.name)).filter((name, at, all) => name && name !== all[at - 1]);
  const found = [];
  path.forEach((name, at) => {
    if (name !== core.name) {
      const node = spot(name);
      const before = at ? spot(path[at - 1]) : null;
      // Two of one LAN: the way is by the bridge, which is at its NAT.
      if (before?.upstream === node.upstream && node.upstream !== core.name) found.push(spot(node.upstream));
      found.push(node);
      return;
    }
    const ends = [path[at - 1], path[at + 1]].map((beside) => (beside === undefined ? null : spot(beside))).filter(Boolean);
    const [first, last] = [ends[0], ends.at(-1)];
    if (first) found.push({ x: first.x, y: bar(first) });
    if (first && bar(first) !== bar(last)) found.push({ x: TRUNK, y: bar(first) }, { x: TRUNK, y: bar(last) });
    if (first !== last) found.push({ x: last.x, y: bar(last) });
  });
  return found.map(({ x, y }) => ({ x, y }));
}

function fits() {
  const box = byId("frame");
  const density = devicePixelRatio;
  const [width, height] = [Math.round(box.clientWidth * density), Math.round(box.clientHeight * density)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const place = box.getBoundingClientRect();
  const there = byId("picture").getScreenCTM();
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.setTransform(there.a * density, 0, 0, there.d * density, (there.e - place.left) * density, (there.f - place.top) * density);
}

function paint(dot, now) {
  const hops = (now - dot.began) / HOP;
  const at = Math.min(Math.floor(Math.max(hops, 0)), dot.points.length - 1);
  const [from, to] = [dot.points[at], dot.points[at + 1] ?? dot.points[at]];
  const part = Math.min(Math.max(hops - at, 0), 1);
  const [x, y] = [from.x + (to.x - from.x) * part, from.y + (to.y - from.y) * part];
  if (hops >= dot.points.length - 1) {
    pen.fillStyle = dot.lost;
    pen.fillText("✗", x, y + 10);
    return;
  }
  pen.fillStyle = dot.colour;
  pen.beginPath();
  pen.arc(x, y, 9, 0, 2 * Math.PI);
  pen.fill();
}

function step(now) {
  dots = dots.filter((dot) => now < dot.until);
  fits(); // before anything is changed: asked later, the browser would have to lay out the page at once
  canvas.dataset.dots = dots.length;
  byId("last-packet").textContent = latest;
  pen.font = "700 30px sans-serif";
  pen.textAlign = "center";
  for (const dot of dots) paint(dot, now);
  frame = dots.length ? requestAnimationFrame(step) : 0;
}

export function showPackets(packets) {
  if (!still.matches && !document.hidden) {
    const began = performance.now();
    const lost = colour("lost");
    for (const packet of packets.slice(0, MOST - dots.length)) {
      const points = corners(packet.path);
      const until = began + HOP * (points.length - 1) + (packet.drop ? CROSS : 0);
      if (points.length) dots.push({ points, began, until, lost, colour: colour(kind(packet)) });
    }
  }
  const last = packets.at(-1);
  const count = last.count > 1 ? ` (${last.count} of these)` : "";
  latest = `Last packet: ${last.what}${count}, ${last.path.join(" → ")}${last.drop ? `; ${last.drop}` : ""}`;
  frame ||= requestAnimationFrame(step);
}

// Of another drawing, nothing is where it was.
export function forgetPackets() {
  dots = [];
}
