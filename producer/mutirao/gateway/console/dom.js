// Create and change elements. Text is always set as text, never as markup: names and errors come from elsewhere.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** Create an element: el("td", {class: "number", on: {click}}, "text", child). */
export function el(tag, attributes = {}, ...children) {
  return withAttributes(document.createElement(tag), attributes, children);
}

/** Create an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return withAttributes(document.createElementNS(SVG, tag), attributes, children);
}

/** Set an element's text only where it differs, so that what has the focus or is selected stays. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Tell a screen reader of a change, once. */
export function announce(text) {
  const region = $("said");
  region.textContent = "";
  requestAnimationFrame(() => setText(region, text));
}

function withAttributes(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  element.append(...children.filter((child) => child != null));
  return element;
}
