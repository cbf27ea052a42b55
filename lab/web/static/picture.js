// The topology as a picture: drawn once, then kept true to the states.

import { byId, mood, svg } from "./dom.js";

const HEIGHT = 86;
const ENLARGED = 1.1;
export const TRUNK = 36; // where the bars of the Internet are joined
let drawing = null;
let groups = new Map();
let links = new Map();

export const place = (name) => drawing?.nodes.find((node) => node.name === name);
export const internet = () => drawing?.internet;

// Keeps a text within so many pixels; the whole is in its node's label.
function fit(text, width) {
  text.removeAttribute("textLength");
  if (text.getComputedTextLength() <= width) return;
  text.setAttribute("textLength", width);
  text.setAttribute("lengthAdjust", "spacingAndGlyphs");
}

export function draw(picture, choose) {
  drawing = picture;
  groups = new Map();
  links = new Map();
  const root = byId("picture");
  root.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  root.setAttribute("width", picture.width * ENLARGED);
  root.setAttribute("height", picture.height * ENLARGED);
  const boxes = picture.boxes.map((box) => svg("g", {},
    svg("rect", { class: "box", x: box.x, y: box.y, width: box.width, height: box.height + HEIGHT / 2, rx: 12 }),
    svg("text", { class: "small", x: box.x + box.width / 2, y: box.y + box.height + HEIGHT / 2 - 11 }, `private ${box.inside}`)));
  const { internet: core, half } = picture;
  const lines = picture.nodes.map((node) => {
    const up = node.upstream === core.name ? { x: node.x, y: node.core } : place(node.upstream);
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
    parts.name.textContent = node.name;
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
  root.replaceChildren(...boxes, ...lines, cloud, ...nodes, svg("g", { id: "moving", "aria-hidden": "true" }));
  for (const { parts } of groups.values()) fit(parts.name, 2 * half - 12);
}

export function showStates(nodes) {
  for (const node of nodes) {
    const drawn = groups.get(node.name);
    if (!drawn) continue;
    const program = node.program === "miredo" ? " (Miredo)" : "";
    const what = node.role === "nat" ? node.nat_kind : `${node.role}${program}`;
    drawn.parts.what.textContent = what;
    fit(drawn.parts.what, 2 * drawing.half - 12);
    drawn.parts.state.textContent = node.state.startsWith("starting") ? "starting" : node.state;
    drawn.group.classList.remove("good", "middling", "bad");
    drawn.group.classList.add(mood(node.state));
    drawn.group.setAttribute("aria-label",
      `${node.name}, ${node.role === "nat" ? `NAT, ${what}` : what}: ${node.state}${node.reason ? `, ${node.reason}` : ""}`);
    drawn.group.dataset.state = node.state;
  }
}

export function showLinks(qualities) {
  for (const [name, { line, words }] of links) {
    const quality = qualities[name] ?? {};
    line.classList.toggle("down", Boolean(quality.down));
    const troubles = [quality.down && "cut", quality.loss && `${quality.loss} % lost`, quality.rate && `${quality.rate / 1000} kbit/s`,
      quality.delay && `${quality.delay} ms`];
    words.textContent = troubles.filter(Boolean).join(", ");
  }
}

export function showChosen(name) {
  for (const [node, { group }] of groups) {
    group.classList.toggle("chosen", node === name);
    group.setAttribute("aria-pressed", String(node === name));
  }
}
