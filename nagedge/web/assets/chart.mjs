/** The loss of every step as lines. */

import { h, short, svg, words } from "./dom.mjs";

const [WIDTH, HEIGHT] = [320, 132];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 4, 8, 18];

/**
 * @param {Record<string, number>[]} losses one a step: `loss`, and `loss.<task>`
 * @returns {HTMLElement}
 */
export function lossChart(losses) {
  if (losses.length === 0) return h("p", { class: "hint" }, "The loss of every step is drawn here.");
  const names = Object.keys(losses[0]);
  const series = names.length > 2 ? names : ["loss"];
  const highest = Math.max(...losses.flatMap((loss) => series.map((name) => loss[name])), 1e-9);
  const x = (/** @type {number} */ step) =>
    LEFT + ((WIDTH - LEFT - RIGHT) * step) / Math.max(losses.length - 1, 1);
  const y = (/** @type {number} */ loss) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - loss / highest);
  const first = losses[0].loss;
  const last = losses[losses.length - 1].loss;
  const summary = `Loss from ${short(first)} to ${short(last)} in ${losses.length} steps`;
  const grid = [0, 0.5, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share * highest), y2: y(share * highest) }),
    svg("text", { x: LEFT - 5, y: y(share * highest) + 3.5, "text-anchor": "end" }, short(Number((share * highest).toPrecision(2)))),
  ]);
  const lines = series.map((name, index) => svg("polyline", {
    class: `line line-${index}`,
    points: losses.map((loss, step) => `${x(step).toFixed(1)},${y(loss[name]).toFixed(1)}`).join(" "),
  })).reverse(); // the total is drawn last, above the tasks
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary },
    ...grid, ...lines,
    svg("text", { x: LEFT, y: HEIGHT - 4 }, "step 1"),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, `${losses.length}`));
  const legend = h("ul", { class: "legend" }, ...series.map((name, index) => h("li", {},
    h("span", { class: `key line-${index}`, "aria-hidden": "true" }),
    name === "loss" ? "loss, all tasks" : words(name.replace("loss.", "")))));
  return h("figure", {}, picture, h("figcaption", {}, legend));
}
