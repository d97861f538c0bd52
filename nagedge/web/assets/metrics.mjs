/**
 * What the page says of predictions: the same decisions as nagedge/tasks.
 *
 * @typedef {import("./bundle.mjs").Task} Task
 */

import { standardisationOf } from "./bundle.mjs";
import { unstandardise } from "./preprocessing.mjs";

const sigmoid = (/** @type {number} */ logit) => 1 / (1 + Math.exp(-logit));

/** @param {number[]} logits @returns {number[]} */
export function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - highest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/**
 * A model's output for people: probabilities, or values in the task's unit.
 * @param {any} manifest @param {Task} task @param {number[]} output raw, one entry an output
 * @returns {number[]}
 */
export function answer(manifest, task, output) {
  if (task.kind === "classification") return softmax(output);
  if (task.kind === "regression") return unstandardise(output, standardisationOf(manifest, task.name));
  return output.map(sigmoid);
}

/**
 * What the model says: a label, yes or no for every label, or values: a target in the task's unit.
 * @param {Task} task @param {number[]} shown of `answer`
 * @returns {number[]}
 */
export function decision(task, shown) {
  if (task.kind === "classification") return [shown.indexOf(Math.max(...shown))];
  return task.kind === "regression" ? shown : shown.map((probability) => (probability > 0.5 ? 1 : 0));
}

/**
 * @param {Task} task @param {number[][]} decisions @param {number[][]} targets one an example, at least one
 * @returns {{right: number, of: number}|{off: number}} labels that are right, or the mean absolute error
 */
export function score(task, decisions, targets) {
  const pairs = decisions.flatMap((said, row) => said.map((value, index) => [value, targets[row][index]]));
  if (task.kind !== "regression") return { right: pairs.filter(([a, b]) => a === b).length, of: pairs.length };
  return { off: pairs.reduce((sum, [a, b]) => sum + Math.abs(a - b), 0) / pairs.length };
}

/** The value below which that share of the values lies, by nearest rank. @param {number[]} values @param {number} share */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}
