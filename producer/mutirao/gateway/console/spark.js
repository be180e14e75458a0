// Small line charts of the last minutes, drawn as SVG.

import { svg } from "./dom.js";

const POINTS_MAX = 180;
const WIDTH = 120;
const HEIGHT = 30;
const LEAST = { rate: 1, depth: 10 }; // the least value that the full height stands for, so that one request is no peak

/** The last few minutes of named series, one point a snapshot. */
export class History {
  #series = new Map();

  add(name, value) {
    const points = this.#series.get(name) ?? [];
    points.push(value);
    if (points.length > POINTS_MAX) points.shift();
    this.#series.set(name, points);
  }

  of(name) {
    return this.#series.get(name) ?? [];
  }

  keep(names) {
    for (const name of this.#series.keys()) if (!names.has(name)) this.#series.delete(name);
  }
}

/** Draw lines in one chart, each on a scale of its own: [{points, kind: "rate" | "depth"}]. */
export class Spark {
  constructor(place, kinds) {
    this.lines = kinds.map((kind) => ({ kind, path: svg("path", { class: kind }), area: kind === "rate" ? svg("path", { class: "area" }) : null }));
    const drawn = this.lines.flatMap(({ path, area }) => (area ? [area, path] : [path]));
    const zero = svg("path", { class: "zero", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` });
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", focusable: "false" }, zero, ...drawn);
    this.place = place;
    place.append(this.picture);
  }

  draw(series, label) {
    this.picture.setAttribute("aria-label", label);
    this.place.toggleAttribute("data-empty", !series.some((points) => points.some(Boolean)));
    this.lines.forEach(({ kind, path, area }, at) => {
      const line = Math.max(0, ...series[at]) > 0 ? curve(series[at], LEAST[kind]) : "";
      path.setAttribute("d", line);
      if (area) area.setAttribute("d", line && `${line}V${HEIGHT}H${start(series[at]).toFixed(1)}Z`);
    });
  }
}

const start = (points) => WIDTH - (points.length - 1) * (WIDTH / (POINTS_MAX - 1));

function curve(points, least) {
  if (points.length < 2) return "";
  const most = Math.max(least, ...points);
  const step = WIDTH / (POINTS_MAX - 1);
  const first = start(points);
  const at = (value, place) => `${(first + place * step).toFixed(1)} ${(HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1)}`;
  return `M${points.map(at).join("L")}`;
}
