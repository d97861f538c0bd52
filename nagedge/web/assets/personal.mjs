/**
 * Personal weights as one safetensors file: the state of the training step, named as its inputs (`params.…`,
 * `momentum.…`, `buffers.…`), with what it belongs to in the metadata.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 * @typedef {import("./bundle.mjs").Bundle} Bundle
 */

import { readSafetensors, writeSafetensors } from "./safetensors.mjs";

const FORMAT = "nagedge-personal-weights";

/** @param {Bundle} bundle @param {Map<string, Tensor>} state @param {number} steps that it has learnt */
export function packState(bundle, state, steps) {
  const { identity, manifest } = bundle;
  return writeSafetensors(state, { format: FORMAT, identity, model: manifest.model, steps: `${steps}` });
}

/**
 * @param {Bundle} bundle @param {Uint8Array} bytes
 * @returns {{state: Map<string, Tensor>, steps: number}}
 * @throws {Error} when they are damaged or of another model; its text says which
 */
export function unpackState(bundle, bytes) {
  const { tensors, metadata } = readSafetensors(bytes);
  if (metadata.format !== FORMAT) throw new Error("these are no personal weights of such a page");
  if (metadata.identity !== bundle.identity) {
    throw new Error(`these weights belong to another export of "${metadata.model}"`);
  }
  const state = new Map();
  for (const [name, expected] of bundle.state) {
    const found = tensors.get(name);
    if (found === undefined) throw new Error(`the weights lack ${name}`);
    if (found.dtype !== expected.dtype || `${found.shape}` !== `${expected.shape}`) {
      throw new Error(`${name} is ${found.dtype} [${found.shape}], expected ${expected.dtype} [${expected.shape}]`);
    }
    if (found.dtype.startsWith("float") && !found.data.every(Number.isFinite)) {
      throw new Error(`${name} holds numbers that are not finite`);
    }
    state.set(name, found);
  }
  const steps = Number(metadata.steps);
  return { state, steps: Number.isSafeInteger(steps) && steps >= 0 ? steps : 0 };
}
