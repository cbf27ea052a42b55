// Making elements, of HTML and of SVG.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export const html = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// Sets what a <select> offers, [value, words] each, and leaves the choice as it is where it can.
export function offer(select, options) {
  const key = JSON.stringify(options);
  if (select.dataset.offered === key) return;
  select.dataset.offered = key;
  const before = select.value;
  select.replaceChildren(...options.map(([value, words]) => html("option", { value }, words)));
  if (options.some(([value]) => value === before)) select.value = before;
}

// Whether a state is good, for colours; the words are always beside.
export function mood(state) {
  if (state === "qualified" || state === "running") return "good";
  return state === "off-line" || state === "failed" ? "bad" : "middling";
}

export function table(caption, heads, rows) {
  return html("table", {}, html("caption", {}, caption),
    html("thead", {}, html("tr", {}, ...heads.map((head) => html("th", { scope: "col" }, head)))),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map((cell) => html("td", {}, cell))))));
}
