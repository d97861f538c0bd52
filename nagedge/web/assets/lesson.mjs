/**
 * A lesson: steps over the examples that a person gave.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 * @typedef {import("./bundle.mjs").Bundle} Bundle
 * @typedef {object} Example
 * @property {Record<string, Tensor>} inputs  by name, prepared, without the batch axis
 * @property {Record<string, number[]>} targets  by task, in the task's unit
 * @property {string} picture  a `data:` address, or "" when the input is no image
 * @property {string} text  the input in words
 */

import { standardisationOf } from "./bundle.mjs";
import { DivergedError } from "./learner.mjs";
import { answer, decision } from "./metrics.mjs";
import { standardise } from "./preprocessing.mjs";
import { row, stack, tensor } from "./tensors.mjs";

const AT_ONCE = 64;

/**
 * A batch of examples; where the bundle fixes the batch size it is filled up with rows of weight 0.
 * @param {Bundle} bundle @param {Example[]} examples
 */
export function batchOf({ manifest, batch }, examples) {
  const rows = filled(examples, batch);
  const targets = manifest.tasks.map((/** @type {any} */ task) => {
    const { dtype, shape } = task.target;
    const standardisation = standardisationOf(manifest, task.name);
    const values = rows.flatMap(({ targets: given }) =>
      dtype === "int64" ? given[task.name] : standardise(given[task.name], standardisation));
    return [task.name, tensor(dtype, [rows.length, ...shape.slice(1)], values)];
  });
  const weights = rows.map((_, index) => (index < examples.length ? 1 : 0));
  return {
    inputs: inputsOf(manifest, rows),
    targets: Object.fromEntries(targets),
    sampleWeight: tensor("float32", [rows.length], weights),
  };
}

/** @param {any} manifest @param {Example[]} rows @returns {Record<string, Tensor>} */
function inputsOf(manifest, rows) {
  return Object.fromEntries(manifest.inputs.map(
    (/** @type {any} */ { name }) => [name, stack(rows.map(({ inputs }) => inputs[name]))]));
}

/** @template T @param {T[]} rows @param {number|null} size @returns {T[]} */
const filled = (rows, size) => (size === null ? rows : Array.from({ length: size }, (_, at) => rows[at % rows.length]));

/**
 * What the model answers to each example, by task.
 * @param {import("./learner.mjs").Learner} learner @param {Pick<Example, "inputs">[]} examples @param {"original"|"personal"} [which]
 * @returns {Promise<Record<string, number[]>[]>} as `answer` gives it
 */
export async function answers(learner, examples, which) {
  const { manifest, batch } = learner.bundle;
  const found = [];
  for (let start = 0; start < examples.length; start += batch ?? AT_ONCE) {
    const some = examples.slice(start, start + (batch ?? AT_ONCE));
    const rows = /** @type {Example[]} */ (filled(some, batch));
    const outputs = await learner.predict(inputsOf(manifest, rows), which);
    found.push(...some.map((_, index) => Object.fromEntries(manifest.tasks.map(
      (/** @type {any} */ task) => [task.name, answer(manifest, task, row(outputs[task.name], index))]))));
  }
  return found;
}

/** Decisions by task, one row an example. @param {any} manifest @param {Record<string, number[]>[]} answered */
export const decisions = (manifest, answered) =>
  Object.fromEntries(manifest.tasks.map((/** @type {any} */ task) =>
    [task.name, answered.map((one) => decision(task, one[task.name]))]));

/** Numbers in [0, 1) that the seed decides (mulberry32). @param {number} seed */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Batches without end: all examples in a new order, then again. @template T @param {T[]} examples @param {number} size @param {() => number} random @returns {Generator<T[]>} */
export function* shuffledBatches(examples, size, random) {
  for (;;) {
    const order = [...examples];
    for (let last = order.length - 1; last > 0; last--) {
      const other = Math.floor(random() * (last + 1));
      [order[last], order[other]] = [order[other], order[last]];
    }
    for (let start = 0; start < order.length; start += size) yield order.slice(start, start + size);
  }
}

/**
 * Learn from the examples; a lesson that diverges leaves the weights as they were before it.
 * @param {import("./learner.mjs").Learner} learner
 * @param {Example[]} examples at least one
 * @param {{steps: number, batch: number, settings: import("./learner.mjs").Settings, seed: number}} how
 * @param {(losses: Record<string, number>, ms: number) => Promise<boolean>} after is told of every step and says whether
 *   to go on
 * @throws {DivergedError}
 */
export async function learn(learner, examples, { steps, batch, settings, seed }, after) {
  const before = learner.state;
  const batches = shuffledBatches(examples, learner.bundle.batch ?? batch, randomNumbers(seed));
  try {
    for (let step = 0; step < steps; step++) {
      const next = batchOf(learner.bundle, batches.next().value);
      const started = performance.now();
      const losses = await learner.step(next, settings);
      if (!(await after(losses, performance.now() - started))) break;
    }
    if (!learner.isFinite()) throw new DivergedError("a weight is not finite");
  } catch (error) {
    learner.state = before;
    throw error;
  }
}
