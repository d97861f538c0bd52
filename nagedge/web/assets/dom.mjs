/** Elements in one call. Text is always text: nothing in a manifest can become markup. */

/**
 * @param {string} tag @param {Record<string, any>} [properties] of the element; `class`, `aria-*`, `role`, `for` and
 *   `data-*` are attributes, `on…` are listeners
 * @param {...(Node|string|null)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (/^(class|role|for|aria-.*|data-.*|inputmode)$/.test(name)) element.setAttribute(name, value);
    else /** @type {any} */ (element)[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} tag @param {Record<string, string|number>} [attributes] @param {...(Node|string)} children */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, `${value}`);
  element.append(...children);
  return element;
}

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/** Words for a name in a manifest: `stroke_mass` is "stroke mass". @param {string} name */
export const words = (name) => name.replaceAll("_", " ");

/** A short number: three significant digits, without an exponent where one can do without. @param {number} value */
export function short(value) {
  const size = Math.abs(value);
  const plain = value === 0 || !Number.isFinite(value) ? `${value}`
    : size >= 1e6 || size < 1e-4 ? value.toExponential(1)
      : size >= 100 ? value.toFixed(0) : `${Number(value.toPrecision(3))}`;
  return plain.replace("-", "\u2212");
}
