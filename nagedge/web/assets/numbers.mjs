/**
 * Numbers as people write and paste them.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 */

/**
 * The last row of pasted text: a row of a CSV file, with or without its heading, or numbers between blanks.
 * Decimal commas are taken for decimal commas where semicolons or tabs separate.
 * @param {string} text @returns {number[]} NaN for an empty cell
 * @throws {Error} naming what is no number
 */
export function parseNumbers(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  const rows = lines.length > 1 && cells(lines[0]).some((cell) => !isNumber(cell)) ? lines.slice(1) : lines;
  return rows.flatMap(cells).map((cell) => {
    if (!isNumber(cell)) throw new Error(`"${cell.slice(0, 20)}" is no number`);
    return /^(|nan|na|null)$/i.test(cell) ? NaN : Number(cell.replace(",", "."));
  });
}

/** @param {string} line */
function cells(line) {
  const separator = /[;\t]/.test(line) ? /[;\t]/ : line.includes(",") ? "," : /\s+/;
  return (separator instanceof RegExp && separator.source === "\\s+" ? line.trim() : line).split(separator)
    .map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
}

/** @param {string} cell */
const isNumber = (cell) => /^(|nan|na|null)$/i.test(cell) || /^[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?$/i.test(cell);

/**
 * @param {number[]} values @param {{integer: boolean, low: number, high: number, count: number, mayMiss: boolean}} expected
 * @returns {string} what is wrong with them, or ""
 */
export function problemWith(values, { integer, low, high, count, mayMiss }) {
  if (values.length !== count) return `${values.length} of ${count} numbers`;
  const missing = values.findIndex(Number.isNaN);
  if (missing >= 0 && (integer || !mayMiss)) return `number ${missing + 1} is missing`;
  if (!integer) return "";
  const wrong = values.find((value) => !Number.isInteger(value) || (high > low && (value < low || value > high)));
  if (wrong === undefined) return "";
  return high > low ? `${wrong} is no whole number from ${low} to ${high}` : `${wrong} is no whole number`;
}

/** A sample of the standard normal distribution (Box and Muller). @param {() => number} random */
export const normal = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
