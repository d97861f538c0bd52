/**
 * The examples that a person gave, and how the model does on them: as exported, and now.
 *
 * @typedef {import("./bundle.mjs").Task} Task
 * @typedef {import("./lesson.mjs").Example} Example
 * @typedef {Record<string, number[][]>} Decisions  by task, one row an example
 */

import { classNames } from "./bundle.mjs";
import { h, short, words } from "./dom.mjs";
import { score } from "./metrics.mjs";

/** A target in words. @param {any} manifest @param {Task} task @param {number[]} target */
function spoken(manifest, task, target) {
  if (task.kind === "classification") return classNames(manifest, task)[target[0]];
  if (task.kind === "regression") return `${target.map(short).join(", ")} ${task.unit}`.trim();
  return target.map((label) => (label === 1 ? "yes" : "no")).join(", ");
}

/**
 * @param {any} manifest @param {Example[]} examples @param {Decisions} before @param {Decisions} now
 * @param {(index: number) => void} remove
 */
export function tiles(manifest, examples, before, now, remove) {
  const [first] = manifest.tasks; // the others are in the table and in the tile's words
  return examples.map(({ picture, text, targets }, index) => {
    const said = (/** @type {Decisions} */ decisions, /** @type {Task} */ task) =>
      spoken(manifest, task, decisions[task.name][index]);
    const right = spoken(manifest, first, targets[first.name]);
    const judged = first.kind !== "regression";
    const description = manifest.tasks.map((/** @type {Task} */ task) =>
      `${words(task.name)} ${spoken(manifest, task, targets[task.name])}: was ${said(before, task)}, is ${said(now, task)}`).join("; ");
    const good = judged && said(now, first) === right;
    return h("li", { class: `tile${judged ? (good ? " good" : " bad") : ""}`, title: description },
      picture === "" ? h("span", { class: "text" }, text) : h("img", { src: picture, alt: "", width: 64, height: 64 }),
      h("span", { class: "target" }, right),
      h("span", { class: "said" }, judged ? (good ? "✓" : `✗ ${said(now, first)}`) : `now ${said(now, first)}`),
      h("span", { class: "hidden" }, description),
      h("button", { type: "button", class: "remove", "aria-label": `Remove example ${index + 1}`, onclick: () => remove(index) }, "×"));
  });
}

/** What the table says of a task. @param {Task} task */
function measured({ kind, unit }) {
  if (kind === "regression") return unit === "" ? " error" : ` error, ${unit}`;
  return kind === "multilabel" ? " labels right" : " right";
}

/** @param {any} manifest @param {Example[]} examples @param {Decisions} before @param {Decisions} now */
export function beforeAndAfter(manifest, examples, before, now) {
  if (examples.length === 0) return [];
  const rows = manifest.tasks.map((/** @type {Task} */ task) => {
    const targets = examples.map((example) => example.targets[task.name]);
    const [old, current] = [before, now].map((decisions) => score(task, decisions[task.name], targets));
    const better = "off" in old ? "off" in current && current.off < old.off : "right" in current && current.right > old.right;
    const text = (/** @type {typeof old} */ value) => "off" in value
      ? short(value.off) : `${value.right} of ${value.of}`;
    return h("tr", {}, h("th", { scope: "row" }, words(task.name), h("span", { class: "in-unit" }, measured(task))), h("td", {}, text(old)),
      h("td", { class: better ? "better" : "" }, text(current)));
  });
  return [h("table", {}, h("caption", { class: "hidden" }, "On your examples, as exported and now"),
    h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, "before"), h("th", { scope: "col" }, "now"))),
    h("tbody", {}, ...rows))];
}
