// The topology as a picture: drawn once, then kept true to the states.

import { byId, mood, svg } from "./dom.js";

const HEIGHT = 86;
const ENLARGED = 1.1;
export const TRUNK = 36; // where the bars of the Internet are joined
const FONTS = { name: "600 19px system-ui, sans-serif", small: "15px system-ui, sans-serif" };
const ruler = document.createElement("canvas").getContext("2d");
let drawing = null;
let half = 0;
let places = new Map(); // of the whole lab, by name
let spots = new Map(); // of what is drawn now
let groups = new Map();
let links = new Map();
let states = new Map();
let qualities = {};

// What a node is, and whom it is linked to.
export const place = (name) => places.get(name);
// Where a node is drawn, or the one that stands for it.
export const spot = (name) => spots.get(name) ?? (places.has(name) ? spot(places.get(name).upstream) : undefined);
export const internet = () => drawing.internet;

// Writes what is new, and keeps it within a node's width: the whole is in the node's label. Asking a text how long it is
// would have the browser lay out the page for each.
function write(text, words, font) {
  if (text.textContent === words) return;
  text.textContent = words;
  text.removeAttribute("textLength");
  ruler.font = font;
  if (ruler.measureText(words).width <= 2 * half - 12) return;
  text.setAttribute("textLength", 2 * half - 12);
  text.setAttribute("lengthAdjust", "spacingAndGlyphs");
}

export function draw(lab, folded, choose) {
  const picture = folded ? lab.folded : lab.whole;
  drawing = picture;
  half = lab.half;
  places = new Map(lab.whole.nodes.map((node) => [node.name, node]));
  spots = new Map(picture.nodes.map((node) => [node.name, node]));
  groups = new Map();
  links = new Map();
  states = new Map();
  const root = byId("picture");
  root.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  root.setAttribute("width", picture.width * ENLARGED);
  root.setAttribute("height", picture.height * ENLARGED);
  const boxes = picture.boxes.map((box) => svg("g", {},
    svg("rect", { class: "box", x: box.x, y: box.y, width: box.width, height: box.height + HEIGHT / 2, rx: 12 }),
    svg("text", { class: "small", x: box.x + box.width / 2, y: box.y + box.height + HEIGHT / 2 - 11 }, `private ${box.inside}`)));
  const { internet: core } = picture;
  const lines = picture.nodes.map((node) => {
    const up = node.upstream === core.name ? { x: node.x, y: node.core } : spots.get(node.upstream);
    const line = svg("line", { class: "link", x1: node.x, y1: node.y, x2: up.x, y2: up.y });
    const below = up.y < node.y ? 0.55 : 0.6;
    const words = svg("text", { class: "on-link link-words", x: (node.x + up.x) / 2, y: node.y + (up.y - node.y) * below + 5 });
    links.set(node.name, { line, words });
    const more = node.outside.length > 1 ? ` +${node.outside.length - 1}` : "";
    const outside = node.outside.length ? [svg("text", { class: "on-link small", x: node.x, y: node.y - HEIGHT / 2 - 9 }, `${node.outside[0]}${more}`)] : [];
    return svg("g", {}, line, words, ...outside);
  });
  const cloud = svg("g", {},
    core.bars.length > 1 ? svg("line", { class: "trunk", x1: TRUNK, y1: core.bars[0], x2: TRUNK, y2: core.bars.at(-1) }) : null,
    ...core.bars.flatMap((y, at) => [
      svg("rect", { class: "core", x: core.x - core.width / 2, y: y - 24, width: core.width, height: 48, rx: 24 }),
      svg("text", { class: "core-name", x: core.x, y: y + 6 }, at ? "Internet" : "Internet (IPv4 and IPv6): the public side")]));
  const nodes = picture.nodes.map((node) => {
    const text = (kind, y) => svg("text", { class: kind, x: node.x, y: node.y + y });
    const parts = { name: text("name", -20), what: text("small", 2), state: text("state", 25) };
    write(parts.name, node.name, FONTS.name);
    const group = svg("g", { class: "node", role: "button", tabindex: "0", "data-node": node.name, "aria-pressed": "false" },
      svg("rect", { x: node.x - half, y: node.y - HEIGHT / 2, width: 2 * half, height: HEIGHT, rx: node.role === "nat" ? 4 : 16 }),
      parts.name, parts.what, parts.state);
    group.addEventListener("click", () => choose(node.name));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(node.name);
    });
    groups.set(node.name, { group, parts });
    return group;
  });
  root.replaceChildren(...boxes, ...lines, cloud, ...nodes);
  showLinks(qualities);
}

// A node's state; where it stands for others, how many of them are well, unless it is not itself.
function summary(node, all) {
  const state = node.state.startsWith("starting") ? "starting" : node.state;
  const clients = spots.get(node.name).folds.map((name) => all.get(name)).filter((other) => other?.role === "client");
  if (!clients.length || state !== "running") return { state, mood: mood(node.state) };
  const well = clients.filter((client) => mood(client.state) === "good").length;
  const worst = ["bad", "middling"].find((each) => clients.some((client) => mood(client.state) === each));
  return { state: `${well} of ${clients.length} qualified`, mood: worst ?? "good" };
}

export function showStates(nodes) {
  const all = new Map(nodes.map((node) => [node.name, node]));
  for (const node of nodes) {
    const drawn = groups.get(node.name);
    if (!drawn) continue;
    const found = summary(node, all);
    const key = JSON.stringify([node, found]);
    if (states.get(node.name) === key) continue;
    states.set(node.name, key);
    const program = node.program === "miredo" ? " (Miredo)" : "";
    const what = node.role === "nat" ? node.nat_kind : `${node.role}${program}`;
    write(drawn.parts.what, what, FONTS.small);
    drawn.parts.state.textContent = found.state;
    drawn.group.classList.remove("good", "middling", "bad");
    drawn.group.classList.add(found.mood);
    drawn.group.setAttribute("aria-label",
      `${node.name}, ${node.role === "nat" ? `NAT, ${what}` : what}: ${node.state}${found.state.includes(" of ") ? `, ${found.state}` : ""}${node.reason ? `, ${node.reason}` : ""}`);
    drawn.group.dataset.state = node.state;
  }
}

export function showLinks(found) {
  qualities = found;
  for (const [name, { line, words }] of links) {
    const quality = qualities[name] ?? {};
    line.classList.toggle("down", Boolean(quality.down)); // changes nothing where that is so already
    const troubles = [quality.down && "cut", quality.loss && `${quality.loss} % lost`, quality.rate && `${quality.rate / 1000} kbit/s`,
      quality.delay && `${quality.delay} ms`];
    const said = troubles.filter(Boolean).join(", ");
    if (words.textContent !== said) words.textContent = said;
  }
}

export function showChosen(name) {
  const shown = name === null ? undefined : spot(name);
  for (const [node, { group }] of groups) {
    const chosen = node === shown?.name;
    if (group.classList.toggle("chosen", chosen) !== (group.getAttribute("aria-pressed") === "true")) {
      group.setAttribute("aria-pressed", String(chosen));
    }
  }
  const frame = byId("frame");
  if (!shown || frame.scrollHeight <= frame.clientHeight && frame.scrollWidth <= frame.clientWidth) return;
  const scale = byId("picture").clientWidth / drawing.width;
  frame.scrollTo({ left: shown.x * scale - frame.clientWidth / 2, top: shown.y * scale - frame.clientHeight / 2 });
}
