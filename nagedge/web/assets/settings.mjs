/** How a lesson goes; the defaults are the bundle's. */

import { byId, h } from "./dom.mjs";

const STEPS = 50;
const BATCH = 16;

/** @param {any} training of the manifest @param {number|null} batch the only batch size there is @returns {HTMLElement[]} */
export function settingsFields(training, batch) {
  const field = (/** @type {string} */ id, /** @type {string} */ label, /** @type {number} */ value, disabled = false) =>
    h("label", { class: "field" }, label,
      h("input", { id: `setting-${id}`, type: "text", inputmode: "decimal", autocomplete: "off", value: `${value}`, disabled }));
  return [
    field("steps", "Steps a lesson", STEPS),
    field("batch", "Examples a step", batch ?? BATCH, batch !== null),
    field("lr", "Step size", training.lr),
    field("momentum", "Momentum", training.momentum),
    field("weight_decay", "Weight decay", training.weight_decay),
  ];
}

/**
 * @returns {{steps: number, batch: number, settings: {lr: number, momentum: number, weight_decay: number}}|null} null
 *   where a field cannot be used, which is marked
 */
export function readSettings() {
  const whole = (/** @type {number} */ value) => Number.isInteger(value) && value >= 1;
  const read = (/** @type {string} */ id, /** @type {(value: number) => boolean} */ fits) => {
    const field = byId(`setting-${id}`);
    const value = field.value.trim() === "" ? NaN : Number(field.value.replace(",", "."));
    field.setAttribute("aria-invalid", `${!fits(value)}`);
    return fits(value) ? value : null;
  };
  const steps = read("steps", whole);
  const batch = read("batch", whole);
  const lr = read("lr", (value) => Number.isFinite(value) && value > 0);
  const momentum = read("momentum", (value) => value >= 0 && value < 1);
  const decay = read("weight_decay", (value) => Number.isFinite(value) && value >= 0);
  if (steps === null || batch === null || lr === null || momentum === null || decay === null) return null;
  return { steps, batch, settings: { lr, momentum, weight_decay: decay } };
}
