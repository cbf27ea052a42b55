// The page: listens to news of the lab and hands them on.

import { begin, meanNode, offerNodes } from "./acts.js";
import { byId, offer } from "./dom.js";
import { showCheck } from "./matrix.js";
import { forgetPackets, showPackets } from "./packets.js";
import { forgetAll, learn, showPanels } from "./panels.js";
import { draw, place, showChosen, showLinks, showStates } from "./picture.js";
import { showTold } from "./told.js";

const ALL = 24; // labs of so many nodes are shown with all that each knows
const LARGE = new Set(["picture", "status", "links", "check", "told"]);
let stream = null;
let nodes = [];
let chosen = null;
let shownOf = "";
let lab = null;
const said = new Map(); // of topics that are large, what was said last: whoever listens anew is told all again

// The chosen node with the NATs before it, and for a NAT who is behind it.
function around(name) {
  const names = [name];
  for (let node = place(name); node && place(node.upstream); node = place(node.upstream)) names.push(node.upstream);
  names.push(...nodes.filter((node) => place(node.name)?.upstream === name).map((node) => node.name).slice(0, 20));
  return names;
}

// Each client, then the NATs before it, so that they are side by side; then all others.
function inOrder(names) {
  const clients = names.filter((name) => place(name).role === "client");
  return [...new Set([...clients.flatMap((name) => [name, ...around(name).filter((each) => names.includes(each))]), ...names])];
}

function watched() {
  const drawn = nodes.filter((node) => place(node.name)).map((node) => node.name);
  return drawn.length <= ALL ? drawn : chosen ? around(chosen) : [];
}

function listen() {
  const parameters = new URLSearchParams({ nodes: watched().join(","), packets: byId("packets").checked ? "1" : "0" });
  if (stream && shownOf === String(parameters)) return;
  shownOf = String(parameters);
  stream?.close();
  stream = new EventSource(`events?${parameters}`);
  stream.addEventListener("message", (event) => {
    const { topic, value } = JSON.parse(event.data);
    if (topic.startsWith("node ")) {
      learn(topic.slice(5), value);
      panels();
    } else if (!LARGE.has(topic) || said.get(topic) !== event.data) {
      if (LARGE.has(topic)) said.set(topic, event.data);
      news[topic]?.(value);
    }
  });
  stream.addEventListener("error", () => gone("The page's server does not answer: is `teredo-lab web` still running?"));
  stream.addEventListener("open", () => gone(""));
}

function gone(why) {
  byId("gone").textContent = why;
  byId("gone").hidden = !why;
}

function panels() {
  const names = chosen ? around(chosen) : inOrder(watched());
  showPanels(names.map((name) => nodes.find((node) => node.name === name)).filter(Boolean));
}

function choose(name) {
  chosen = name === chosen ? null : name;
  byId("chosen").value = chosen ?? "";
  showChosen(chosen);
  const node = nodes.find((each) => each.name === chosen);
  if (node) meanNode(node);
  panels();
  listen();
}

function drawLab() {
  const large = lab.whole.nodes.length > ALL;
  byId("folding").hidden = !large;
  document.body.classList.toggle("large", large);
  forgetPackets();
  draw(lab, large && byId("folded").checked, choose);
  showStates(nodes);
  showChosen(chosen);
}

const news = {
  gone,
  picture(picture) {
    document.title = `${picture.name}: teredo-lab`;
    byId("title").textContent = `Lab ${picture.name}`;
    forgetAll();
    lab = picture;
    drawLab();
    listen();
  },
  status(status) {
    nodes = status.nodes;
    showStates(nodes);
    offerNodes(nodes);
    offer(byId("chosen"), [["", "all"], ...nodes.filter((node) => place(node.name)).map((node) => [node.name, node.name])]);
    panels();
    listen();
  },
  links: showLinks,
  packets: showPackets,
  told: showTold,
  check: showCheck,
  doing(doing) { byId("doing").textContent = doing ? `${doing} …` : ""; },
  "too many packets"(many) { byId("last-packet").classList.toggle("busy", many); },
};

function theme() {
  const list = byId("theme");
  list.value = localStorage.getItem("theme") ?? "";
  const set = () => {
    if (list.value) document.documentElement.dataset.theme = list.value;
    else delete document.documentElement.dataset.theme;
    localStorage.setItem("theme", list.value);
  };
  list.addEventListener("change", set);
  set();
}

theme();
byId("enlarged").addEventListener("change", () => byId("topology").classList.toggle("enlarged", byId("enlarged").checked));
byId("folded").addEventListener("change", drawLab);
byId("packets").addEventListener("change", listen);
byId("chosen").addEventListener("change", () => { chosen = null; choose(byId("chosen").value || null); });
await begin();
listen();
