/**
 * What the page needs of a bundle: docs/bundle-format.md is its contract.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 * @typedef {{name: string, kind: string, size: number, unit: string, loss: any, target: any}} Task
 * @typedef {{step: string, [key: string]: any}[]} Steps
 * @typedef {object} Bundle
 * @property {any} manifest
 * @property {string} identity  of the exported model: weights learnt from one are of no use to another
 * @property {number|null} batch  the only batch size that the artifacts take
 * @property {Uint8Array} infer @property {Uint8Array} trainStep  the ONNX models
 * @property {Map<string, Tensor>} state  what the training step changes, named as its inputs: `params.x`, `momentum.x`
 */

import { readSafetensors } from "./safetensors.mjs";
import { tensor } from "./tensors.mjs";

/**
 * @param {(name: string) => Promise<Uint8Array>} read one of the page's files
 * @returns {Promise<Bundle>}
 */
export async function readBundle(read) {
  const json = async (/** @type {string} */ name) => JSON.parse(new TextDecoder().decode(await read(name)));
  const { manifest, identity, batch } = await json("bundle.json");
  const params = readSafetensors(await read("params.safetensors")).tensors;
  const momentum = readSafetensors(await read("momentum.safetensors")).tensors;
  const state = new Map();
  const { parameters, buffers } = manifest.training;
  for (const name of parameters) state.set(`params.${name}`, required(params, name));
  for (const name of parameters) {
    const { dtype, shape } = required(params, name);
    state.set(`momentum.${name}`, momentum.get(name) ?? tensor(dtype, shape));
  }
  for (const name of buffers) state.set(`buffers.${name}`, required(params, name));
  return { manifest, identity, batch, infer: await read("infer.onnx"), trainStep: await read("train_step.onnx"), state };
}

/** @param {Map<string, Tensor>} tensors @param {string} name */
function required(tensors, name) {
  const found = tensors.get(name);
  if (found === undefined) throw new Error(`the bundle lacks the tensor ${name}: export it again`);
  return found;
}

/** Steps of the manifest for one input; other inputs pass unchanged. @param {any} manifest @param {string} input @returns {Steps} */
export function stepsFor(manifest, input) {
  return manifest.preprocessing?.input === input ? manifest.preprocessing.steps : [];
}

/** @param {any} manifest @param {string} task */
export const standardisationOf = (manifest, task) => manifest.preprocessing?.targets[task];

/** Names of a task's classes in label order; numbers when they have none. @param {any} manifest @param {Task} task @returns {string[]} */
export function classNames(manifest, task) {
  const names = manifest.preprocessing?.layout.classes[task.name];
  return names ?? Array.from({ length: task.size }, (_, index) => `${index}`);
}

/** Names of a task's labels or outputs: the columns that they come from, where these are known. @param {any} manifest @param {Task} task @returns {string[]} */
export function outputNames(manifest, task) {
  const columns = manifest.preprocessing?.layout.targets[task.name];
  if (Array.isArray(columns) && columns.length === task.size) return columns;
  return Array.from({ length: task.size }, (_, index) => `${task.name} ${index + 1}`);
}
