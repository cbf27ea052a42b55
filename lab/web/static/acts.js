// What a teacher does: forms that ask the lab for something.

import { byId, html, offer } from "./dom.js";

// The token is in the address's fragment, which no browser sends; kept for a reload, and taken out of sight.
function token() {
  const given = location.hash.slice(1);
  if (/^[\w-]{20,}$/.test(given)) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

const TOKEN = token();
let kinds = new Map(); // of the NATs that run
let extensions = new Map(); // of the clients that run
let meant = ""; // the client, and the extensions, that the form shows

function notice(words, bad = false) {
  byId("notice").textContent = words;
  byId("notice").classList.toggle("bad", bad);
}

async function ask(path, said = {}) {
  const buttons = document.querySelectorAll("#acts button");
  buttons.forEach((button) => { button.disabled = true; });
  notice("");
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${TOKEN}` },
      body: JSON.stringify(said),
    });
    const told = await answer.json().catch(() => ({ problem: `the server answers ${answer.status}` }));
    notice(told.problem ?? told.done ?? told.outcome ?? "", Boolean(told.problem));
    return answer.ok;
  } catch (error) {
    notice(`the server does not answer: ${error.message}`, true);
    return false;
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}

function onSubmit(id, act) {
  const form = byId(id);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const submitter = event.submitter;
    await act(form.elements);
    submitter?.focus();
  });
}

function onClick(id, act) {
  const button = byId(id);
  button.addEventListener("click", async () => {
    await act(button.form.elements);
    button.focus();
  });
}

export async function begin() {
  byId("only-look").hidden = Boolean(TOKEN);
  if (!TOKEN) document.querySelectorAll("#acts form").forEach((form) => { form.hidden = true; });
  const { node, kind } = byId("nat").elements;
  const points = await (await fetch("kinds")).json();
  node.addEventListener("change", meanKind);
  offer(kind, Object.entries(points).map(([name, point]) => [name, `${name} (${point})`]));
  onSubmit("ping", (fields) => ask("ping", { from: fields.from.value, to: fields.to.value, cold: fields.cold.checked }));
  onSubmit("nat", (fields) => ask(`nats/${fields.node.value}/kind`, { kind: fields.kind.value }));
  onClick("reset", (fields) => ask(`nats/${fields.node.value}/reset`));
  onClick("cut", (fields) => ask(`links/${fields.node.value}`, { down: true }));
  onClick("mend", (fields) => ask(`links/${fields.node.value}`, { down: false }));
  const boxes = byId("extensions");
  for (const name of await (await fetch("extensions")).json()) {
    boxes.append(html("label", { class: "switch" }, html("input", { type: "checkbox", name, class: "extension" }), name));
  }
  const client = byId("client").elements;
  client.node.addEventListener("change", meanExtensions);
  onSubmit("client", () => ask(`clients/${client.node.value}/extensions`, { extensions: ticked().map((box) => box.name) }));
  onSubmit("check", () => ask("check"));
  onClick("forget", () => ask("forget"));
}

// Who there is to choose from.
export function offerNodes(nodes) {
  const named = (roles) => nodes.filter((node) => roles.includes(node.role)).map((node) => [node.name, node.name]);
  const ends = [...named(["client"]), ...named(["host"])];
  const { from, to } = byId("ping").elements;
  const fresh = !to.options.length;
  offer(from, ends);
  offer(to, ends);
  if (fresh && ends.length > 1) to.value = ends[Math.min(2, ends.length - 1)][0];
  const nats = nodes.filter((node) => node.role === "nat").map((node) => [node.name, `${node.name} (${node.nat_kind})`]);
  kinds = new Map(nodes.map((node) => [node.name, node.nat_kind]));
  const shown = byId("nat").elements.node.value;
  offer(byId("nat").elements.node, nats);
  if (!shown) meanKind();
  byId("nat").hidden = byId("nat").hidden || !nats.length;
  extensions = new Map(nodes.filter((node) => node.extensions).map((node) => [node.name, node.extensions]));
  offer(byId("client").elements.node, [...extensions.keys()].map((name) => [name, name]));
  byId("client").hidden = byId("client").hidden || !extensions.size;
  meanExtensions();
  offer(byId("link").elements.node, named(["client", "host", "nat", "server", "relay"]));
}

const ticked = () => [...document.querySelectorAll(".extension")].filter((box) => box.checked);

// Shows which extensions the client has, but for what somebody is about to change.
function meanExtensions() {
  const name = byId("client").elements.node.value;
  const has = extensions.get(name) ?? [];
  const now = JSON.stringify([name, has]);
  if (now === meant) return;
  meant = now;
  document.querySelectorAll(".extension").forEach((box) => { box.checked = has.includes(box.name); });
}

function meanKind() {
  const { node, kind } = byId("nat").elements;
  if (kinds.get(node.value)) kind.value = kinds.get(node.value);
}

// A node that has been chosen elsewhere is what forms are about, too.
export function meanNode(node) {
  const set = (select) => { if ([...select.options].some((option) => option.value === node.name)) select.value = node.name; };
  set(byId("nat").elements.node);
  set(byId("client").elements.node);
  set(byId("link").elements.node);
  meanExtensions();
  meanKind();
}
