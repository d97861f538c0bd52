/**
 * The preprocessing that a manifest declares, with the same float32 results as nagedge/data/preprocessing.py.
 *
 * Every operation is rounded to float32 by itself: one rounding of a double result is the float32 operation, because a
 * double has more than twice its digits. Storing into a Float32Array rounds; where two operations follow each other,
 * Math.fround rounds between them.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 */

import { sizeOf, tensor } from "./tensors.mjs";

const fround = Math.fround;

/** Which of the `values` belongs to each entry of axis 1. @param {number[]} values @param {number[]} shape */
function overAxis1(values, shape) {
  const single = values.map(fround);
  if (single.length === 1) return () => single[0];
  if (shape[1] !== single.length) {
    throw new Error(`preprocessing has ${single.length} values for axis 1, the input has shape [${shape}]`);
  }
  const inner = sizeOf(shape.slice(2));
  return (/** @type {number} */ index) => single[Math.floor(index / inner) % single.length];
}

/** @param {Tensor} x @param {(value: number, index: number) => number} change @returns {Tensor} */
function each(x, change) {
  const y = tensor("float32", x.shape);
  for (let index = 0; index < y.data.length; index++) y.data[index] = change(Number(x.data[index]), index);
  return y;
}

/**
 * Bilinear, half-pixel centres, edges clamped, no antialiasing, rows first and then columns: nagedge/data/resize.py.
 * @param {Tensor} x `[n, channels, h, w]` @param {number} height @param {number} width
 * @returns {Tensor} float32 `[n, channels, height, width]`
 */
export function resize(x, height, width) {
  if (x.shape.length !== 4) throw new Error(`cannot resize an input of shape [${x.shape}]`);
  const [n, channels, h, w] = x.shape;
  const rows = positions(h, height);
  const columns = positions(w, width);
  const y = tensor("float32", [n, channels, height, width]);
  let at = 0;
  for (let plane = 0; plane < n * channels; plane++) {
    for (const top of rows) {
      const low = (plane * h + top.low) * w;
      const high = (plane * h + top.high) * w;
      const between = (/** @type {number} */ column) =>
        mix(Number(x.data[low + column]), Number(x.data[high + column]), top.weight);
      for (const left of columns) y.data[at++] = mix(between(left.low), between(left.high), left.weight);
    }
  }
  return y;
}

/** @param {number} length @param {number} size */
function positions(length, size) {
  return Array.from({ length: size }, (_, index) => {
    if (length === size) return { low: index, high: index, weight: 0 };
    const position = Math.max(((index + 0.5) * length) / size - 0.5, 0);
    const low = Math.floor(position);
    return { low, high: Math.min(low + 1, length - 1), weight: fround(position - low) };
  });
}

/** @param {number} below @param {number} above @param {number} weight */
const mix = (below, above, weight) => fround(below + fround(fround(above - below) * weight));

/** @type {Record<string, (x: Tensor, step: any) => Tensor>} */
const STEPS = {
  fill_missing(x, step) {
    const value = overAxis1(step.value, x.shape);
    return each(x, (old, index) => (Number.isNaN(old) ? value(index) : old));
  },
  resize: (x, step) => resize(x, step.height, step.width),
  scale(x, step) {
    const factor = fround(step.factor);
    return each(x, (old) => old * factor);
  },
  normalise(x, step) {
    const mean = overAxis1(step.mean, x.shape);
    const std = overAxis1(step.std, x.shape);
    return each(x, (old, index) => fround(old - mean(index)) / std(index));
  },
};

/**
 * @param {Tensor} x raw values `[n, ...]` @param {any[]} steps of the manifest
 * @returns {Tensor} what the model takes: float32, or `x` itself when it is int64 and there is no step
 */
export function prepare(x, steps) {
  if (steps.length === 0 && x.dtype === "int64") return x;
  // A photograph is resized from its bytes; a float32 copy of it would be four times as large.
  const start = x.dtype === "uint8" && steps[0]?.step === "resize" ? x : each(x, (value) => value);
  return steps.reduce((y, step) => {
    const apply = STEPS[step.step];
    if (apply === undefined) throw new Error(`unknown preprocessing step "${step.step}": use a newer page`);
    return apply(y, step);
  }, start);
}

/**
 * Raw values that `prepare` would turn into `x`; the inverse of filling is nothing, that of a resize does not exist.
 * @param {Tensor} x `[n, ...]` @param {any[]} steps @returns {Tensor}
 */
export function unprepare(x, steps) {
  return [...steps].reverse().reduce((y, step) => {
    if (step.step === "scale") return each(y, (value) => value / step.factor);
    if (step.step !== "normalise") return y;
    const mean = overAxis1(step.mean, y.shape);
    const std = overAxis1(step.std, y.shape);
    return each(y, (value, index) => value * std(index) + mean(index));
  }, x);
}

/**
 * The target that the model learns, from one in the task's unit: `(target - mean) / std`.
 * @param {number[]} target one entry an output @param {{mean: number[], std: number[]}} [standardise]
 */
export function standardise(target, standardise) {
  if (standardise === undefined) return target.map(fround);
  const { mean, std } = standardise;
  return target.map((value, index) =>
    fround(fround(fround(value) - fround(entry(mean, index))) / fround(entry(std, index))));
}

/**
 * The value in the task's unit, from a model's output: `output * std + mean`.
 * @param {number[]} output @param {{mean: number[], std: number[]}} [standardise]
 */
export function unstandardise(output, standardise) {
  if (standardise === undefined) return output;
  const { mean, std } = standardise;
  return output.map((value, index) =>
    fround(fround(fround(value) * fround(entry(std, index))) + fround(entry(mean, index))));
}

/** @param {number[]} values @param {number} index */
const entry = (values, index) => values[values.length === 1 ? 0 : index];
