// The matrix of the last check: a table, or of many nodes a map of squares with the results of one of them in words.

import { byId, html, offer } from "./dom.js";

const TABLE = 24; // so many names find room beside each other
const WIDEST = 800; // pixels, so that all of it is seen at once
let check = null;

const bad = (words) => words.startsWith("✗");
const mood = (words) => (words === null ? "quiet" : bad(words) ? "bad" : "good");
const cell = (words) => html("td", { class: mood(words) }, words ?? "·");

function whole() {
  return [
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "from"), ...check.destinations.map((name) => html("th", { scope: "col" }, `to ${name}`)))),
    html("tbody", {}, ...check.sources.map((source, row) => html("tr", {}, html("th", { scope: "row" }, source), ...check.cells[row].map(cell))))];
}

function ofOne(name) {
  const [row, column] = [check.sources.indexOf(name), check.destinations.indexOf(name)];
  const others = [...new Set([...check.sources, ...check.destinations])].filter((other) => other !== name);
  const there = (other) => check.cells[row]?.[check.destinations.indexOf(other)] ?? null;
  const back = (other) => check.cells[check.sources.indexOf(other)]?.[column] ?? null;
  const tested = others.filter((other) => there(other) !== null || back(other) !== null);
  return [
    html("thead", {}, html("tr", {}, ...["with", `from ${name}`, `to ${name}`].map((words) => html("th", { scope: "col" }, words)))),
    html("tbody", {}, ...tested.map((other) => html("tr", {}, html("th", { scope: "row" }, other), cell(there(other)), cell(back(other)))))];
}

// The colours of the legend, which follow light and dark, as red, green and blue.
const colour = (name) => getComputedStyle(document.querySelector(`#map .key.${name}`)).color.match(/[\d.]+/g).slice(0, 3).map(Number);

function kind(words) {
  if (bad(words)) return "lost";
  if (words.startsWith("no")) return "none";
  return words.startsWith("direct") ? "data" : "native";
}

// A pixel for each pair, which the browser enlarges: to draw so many squares would take longer than a frame.
function paint() {
  const canvas = byId("map-picture");
  const [width, height] = [check.destinations.length, check.sources.length];
  Object.assign(canvas, { width, height });
  canvas.style.width = `${Math.max(3, Math.min(12, Math.floor(WIDEST / width))) * width}px`;
  const colours = new Map(["lost", "none", "data", "native"].map((name) => [name, [...colour(name), 255]]));
  const pixels = new ImageData(width, height);
  check.cells.flat().forEach((words, at) => { if (words !== null) pixels.data.set(colours.get(kind(words)), 4 * at); });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function pointed(event) {
  const canvas = byId("map-picture");
  const scale = canvas.width / canvas.clientWidth;
  return [check.sources[Math.floor(event.offsetY * scale)], check.destinations[Math.floor(event.offsetX * scale)]];
}

function point(event) {
  const [source, destination] = pointed(event);
  const words = check.cells[check.sources.indexOf(source)]?.[check.destinations.indexOf(destination)];
  if (source && destination) byId("map-words").textContent = `${source} → ${destination}: ${words ?? "not checked"}`;
}

const showOne = () => byId("matrix-table").replaceChildren(...ofOne(byId("map-node").value));

export function showCheck(found) {
  check = found;
  byId("matrix").hidden = !check.total;
  const all = check.good === check.total;
  const without = Object.entries(check.left_out).map(([name, reason]) => `; left out: ${name}: ${reason}`).join("");
  byId("matrix-summary").textContent = `${all ? "✓" : "✗"} ${check.good} of ${check.total} results are as expected${without}`;
  byId("matrix-summary").className = all ? "good" : "bad";
  const many = Math.max(check.sources.length, check.destinations.length) > TABLE;
  byId("map").hidden = !many;
  if (many) {
    offer(byId("map-node"), check.sources.map((name) => [name, name]));
    paint();
    showOne();
  } else {
    byId("matrix-table").replaceChildren(...whole());
  }
  const more = check.more_failures ? [`and ${check.more_failures} more`] : [];
  byId("matrix-failures").replaceChildren(...[...check.failures, ...more].map((words) => html("li", { class: "bad" }, words)));
}

byId("map-node").addEventListener("change", showOne);
byId("map-picture").addEventListener("pointermove", point);
byId("map-picture").addEventListener("click", (event) => {
  const [source] = pointed(event);
  if (!source) return;
  byId("map-node").value = source;
  showOne();
});
