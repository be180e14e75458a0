// A form built from a model's signature, and the V2 request that it describes.

import { $, el, setText } from "./dom.js";

const FIELDS_MAX = 30;
const WHOLE = /^U?INT/;

let shown = null;
let forced = false; // rows, since there is no field for this model

/** Build the form for a model, as `/v2/models/NAME` describes it, and fill in an example. */
export function build(model) {
  shown = { ...model, fields: fieldsOf(model.inputs, model.example ?? {}) };
  setText($("try-takes"), `takes ${list(model.inputs)} · gives ${model.outputs.map((output) => output.name).join(", ")}`);
  const all = shown.fields !== null;
  $("try-as").hidden = !all;
  if (all === forced) $("try-form").querySelector(`[value="${all ? "fields" : "json"}"]`).checked = true;
  forced = !all;
  $("try-fields").classList.toggle("long", all && shown.fields.some(({ label }) => label.length > 9));
  $("try-fields").replaceChildren(...(all ? shown.fields.map(input) : []));
  example();
  choice();
}

/** Put the example into the fields and the rows. */
export function example() {
  if (!shown) return;
  for (const field of shown.fields ?? []) fill($(field.id), field.example);
  $("try-rows").value = rowsText();
  clear();
}

/** Show the fields or the rows, as chosen; the text of one is put into the other where that is possible. */
export function choice() {
  const json = asJson().checked;
  $("try-json").hidden = !json;
  $("try-fields").hidden = json;
}

/** Focus the first input. */
export function focus() {
  const place = asJson().checked ? $("try-rows") : $(shown?.fields?.[0]?.id);
  (place ?? $("try-model")).focus();
}

/** The request's body, and whether it is JSON rows; null where an input is wrong, which is then marked and has the focus. */
export function body() {
  clear();
  return asJson().checked ? fromRows() : fromFields();
}

/** The form's content as one compact line of JSON, for the shell; or why it is refused. */
export function sample() {
  return asJson().checked ? sampleRows() : sampleFields();
}

function sampleRows() {
  const text = $("try-rows").value;
  try {
    JSON.parse(text);
    return { text: text.trim().replaceAll(/\s*\n\s*/g, " ") };
  } catch (error) {
    return { refused: notJson(error) };
  }
}

function sampleFields() {
  const refused = (shown?.fields ?? []).find((field) => read(field, $(field.id)) === undefined);
  return refused ? { refused: mustBe(refused) } : { text: v2Request() };
}

const notJson = (error) => `these rows are not JSON: ${error.message}`;
const mustBe = (field) => `${field.label} must be ${kindOf(field)}`;

function fromRows() {
  const text = $("try-rows").value;
  try {
    JSON.parse(text);
    return text;
  } catch (error) {
    return markInvalid($("try-rows"), notJson(error));
  }
}

function fromFields() {
  const refused = (shown?.fields ?? []).find((field) => read(field, $(field.id)) === undefined);
  return refused ? markInvalid($(refused.id), mustBe(refused)) : v2Request();
}

/** The fields as a V2 request. */
function v2Request() {
  const values = new Map((shown?.fields ?? []).map((field) => [field.id, read(field, $(field.id))]));
  return JSON.stringify({ inputs: (shown?.inputs ?? []).map((spec) => tensor(spec, values)) });
}

function tensor({ name, datatype, shape }, values) {
  const data = shown.fields.filter((field) => field.input === name).map((field) => values.get(field.id));
  return { name, datatype, shape: shape.map((size, at) => (at ? size : 1)), data };
}

function read(field, element) {
  if (field.datatype === "BOOL") return element.checked;
  if (field.datatype === "BYTES") return element.value;
  const text = element.value.trim();
  if (text === "" || !Number.isFinite(Number(text))) return undefined;
  if (!WHOLE.test(field.datatype)) return Number(text);
  if (!/^-?\d+$/.test(text)) return undefined;
  // A number of 64 bits may be larger than a double tells apart.
  return JSON.rawJSON ? JSON.rawJSON(BigInt(text).toString()) : Number(text);
}

const kindOf = ({ datatype }) => (WHOLE.test(datatype) ? "a whole number" : "a number");

function markInvalid(element, text) {
  element.setAttribute("aria-invalid", "true");
  element.setAttribute("aria-describedby", "try-error");
  setText($("try-error"), text);
  element.focus();
  return null;
}

function clear() {
  setText($("try-error"), "");
  for (const element of $("try-form").querySelectorAll("[aria-invalid]")) {
    element.removeAttribute("aria-invalid");
    element.removeAttribute("aria-describedby");
  }
}

/** One field a column, or a feature of a matrix; null where they would be too many, or the shape is another. */
function fieldsOf(inputs, own) {
  const fields = [];
  for (const { name, datatype, shape } of inputs) {
    const width = shape.length === 1 ? 1 : shape.length === 2 ? shape[1] : -1;
    if (width < 1) return null;
    for (let at = 0; at < width && fields.length <= FIELDS_MAX; at += 1) {
      const label = width === 1 && shape.length === 1 ? name : `${name}[${at}]`;
      fields.push({ id: `try-field-${fields.length}`, input: name, label, datatype, example: own[name]?.[at] ?? exampleOf(datatype, fields.length) });
    }
  }
  return fields.length > 0 && fields.length <= FIELDS_MAX ? fields : null;
}

function input(field) {
  if (field.datatype === "BOOL") return el("label", { class: "tick" }, el("input", { id: field.id, type: "checkbox" }), field.label);
  const text = field.datatype === "BYTES";
  const kind = text ? { type: "text", autocomplete: "off" } : { type: "text", inputmode: WHOLE.test(field.datatype) ? "numeric" : "decimal", autocomplete: "off" };
  return el("div", { class: text && "text" }, el("label", { for: field.id }, field.label), el("input", { id: field.id, "data-datatype": field.datatype, ...kind }));
}

function fill(element, value) {
  if (element.type === "checkbox") element.checked = value;
  else element.value = String(value);
}

function exampleOf(datatype, at) {
  if (datatype === "BOOL") return true;
  if (datatype === "BYTES") return "text";
  return WHOLE.test(datatype) ? 1 : [5.1, 3.5, 1.4, 0.2][at % 4];
}

function rowsText() {
  const { inputs, example: own = {} } = shown;
  if (inputs.length === 1 && inputs[0].shape.length === 2) {
    const width = Math.max(1, inputs[0].shape[1]);
    return `[\n  [${Array.from({ length: width }, (_, at) => JSON.stringify(own[inputs[0].name]?.[at] ?? exampleOf(inputs[0].datatype, at))).join(", ")}]\n]`;
  }
  const row = Object.fromEntries(inputs.map(({ name, datatype }, at) => [name, own[name]?.[0] ?? exampleOf(datatype, at)]));
  return `[\n  ${JSON.stringify(row)}\n]`;
}

function list(inputs) {
  const shape = ({ shape }) => (shape.length > 1 ? ` × ${shape.slice(1).map((size) => (size < 0 ? "any" : size)).join(" × ")}` : "");
  const specs = inputs.slice(0, 6).map((spec) => `${spec.name} ${spec.datatype}${shape(spec)}`);
  return specs.join(", ") + (inputs.length > 6 ? ` and ${inputs.length - 6} more` : "");
}

const asJson = () => $("try-form").querySelector('[value="json"]');
