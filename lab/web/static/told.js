// What came out of a ping, with its diagram.

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
