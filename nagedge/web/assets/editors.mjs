/**
 * One editor an input, chosen by the input's shape.
 *
 * @typedef {object} Editor
 * @property {HTMLElement} element
 * @property {() => import("./tensors.mjs").Tensor|null} read  the prepared input without the batch axis; null while it is
 *   empty or wrong, which the editor says itself
 * @property {() => void} clear
 * @property {() => string} picture  a `data:` address, or ""
 * @property {() => string} text  the input in a few words, or ""
 */

import { stepsFor } from "./bundle.mjs";
import { imageEditor } from "./image_editor.mjs";
import { numbersEditor } from "./numbers_editor.mjs";

/** @param {any} entry of the manifest's inputs */
const isImage = ({ dtype, shape }) =>
  dtype === "float32" && shape.length === 4 && (shape[1] === 1 || shape[1] === 3) && shape[2] > 1 && shape[3] > 1;

/** @param {any} manifest @param {any} entry of its inputs @param {() => void} changed @returns {Editor} */
export function editorFor(manifest, entry, changed) {
  const steps = stepsFor(manifest, entry.name);
  if (isImage(entry)) return imageEditor(entry, steps, changed);
  const columns = manifest.preprocessing?.input === entry.name ? manifest.preprocessing.layout.columns : [];
  return numbersEditor(entry, steps, columns, changed);
}
