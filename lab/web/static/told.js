// What came out: a ping with its diagram, and the matrix of the last check.

import { byId, html } from "./dom.js";

export function showTold(told) {
  if (byId("told-picture").getAttribute("src") === told.picture) return;
  byId("told").hidden = false;
  byId("told-title").textContent = `Ping ${told.title}${told.cold ? ", over cold paths" : ""}`;
  const outcome = byId("told-outcome");
  outcome.textContent = `${told.reached ? "✓" : "✗"} ${told.outcome}`;
  outcome.className = told.reached ? "good" : "bad";
  byId("told-output").textContent = told.output;
  const picture = byId("told-picture");
  picture.alt = `Sequence diagram of ${told.title}; the same follows in words`;
  picture.src = told.picture;
  byId("told-steps").replaceChildren(...told.steps.map((step) => html("li", {},
    html("strong", {}, `${step.at.toFixed(1)} ms, ${step.path.join(" → ")}${step.dropped ? " ✗" : ""}`),
    ...step.notes.map((note) => html("div", { class: note.style }, note.text)))));
}

function cell(results) {
  if (!results.length) return html("td", { class: "quiet" }, "·");
  const first = results[0];
  const good = results.every((result) => result.ok);
  let words = first.expected === "reachable" ? "unreachable" : "no, expected";
  if (first.observed === "reachable") words = `${first.path ?? "reached"}, ${first.first_packet_ms.toFixed(1)} ms`;
  return html("td", { class: good ? "good" : "bad" }, good ? words : `✗ ${words}`);
}

export function showCheck(check) {
  const results = check.results;
  byId("matrix").hidden = !results.length;
  const names = (key) => [...new Set(results.map((result) => result[key]))].sort();
  const sources = names("source");
  const destinations = names("destination");
  const good = results.filter((result) => result.ok).length;
  const all = good === results.length;
  const without = Object.entries(check.left_out).map(([name, reason]) => `; left out: ${name}: ${reason}`).join("");
  byId("matrix-summary").textContent = `${all ? "✓" : "✗"} ${good} of ${results.length} results are as expected${without}`;
  byId("matrix-summary").className = all ? "good" : "bad";
  byId("matrix-table").replaceChildren(
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "from"), ...destinations.map((name) => html("th", { scope: "col" }, `to ${name}`)))),
    html("tbody", {}, ...sources.map((source) => html("tr", {}, html("th", { scope: "row" }, source),
      ...destinations.map((destination) => cell(results.filter((each) => each.source === source && each.destination === destination)))))));
  byId("matrix-failures").replaceChildren(...results.filter((result) => !result.ok).map((result) => html("li", { class: "bad" },
    `${result.source} → ${result.destination} (${result.probe}): expected ${result.expected} (${result.because}), observed ${result.observed}${result.reason ? `: ${result.reason}` : ""}`)));
}
