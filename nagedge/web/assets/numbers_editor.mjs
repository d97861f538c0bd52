/**
 * Numbers: a field each while there are few, and a text that takes a pasted row or many of them; token ids are whole.
 *
 * @typedef {import("./editors.mjs").Editor} Editor
 */

import { h, short, words } from "./dom.mjs";
import { normal, parseNumbers, problemWith } from "./numbers.mjs";
import { prepare, unprepare } from "./preprocessing.mjs";
import { sizeOf, tensor } from "./tensors.mjs";

const MOST_FIELDS = 32;

/**
 * @param {any} entry of the manifest's inputs @param {any[]} steps @param {string[]} columns their names; may be empty
 * @param {() => void} changed @returns {Editor}
 */
export function numbersEditor(entry, steps, columns, changed) {
  const shape = entry.shape.slice(1);
  const count = sizeOf(shape);
  const integer = !entry.dtype.startsWith("float");
  const mayMiss = steps.some(({ step }) => step === "fill_missing");
  const expected = { integer, low: entry.low, high: entry.high, count, mayMiss };
  const range = integer && entry.high > entry.low ? `, whole, ${entry.low} to ${entry.high}` : integer ? ", whole" : "";
  const many = count > MOST_FIELDS || shape.length > 1;
  const unit = entry.unit === "" ? "" : ` (${entry.unit})`;

  const problem = h("p", { class: "problem", role: "alert" });
  const pasteProblem = many ? problem : h("p", { class: "problem", role: "alert" });
  const text = h("textarea", { rows: 4, spellcheck: false, placeholder: `${count} numbers${range}`, inputmode: "text" });
  text.addEventListener("input", () => {
    if (!many) spread();
    changed();
  });
  const fields = many ? [] : Array.from({ length: count }, (_, index) =>
    h("input", { type: "text", inputmode: integer ? "numeric" : "decimal", autocomplete: "off", oninput: changed }));

  /** Put a pasted row into the fields. */
  function spread() {
    const values = entered(text.value, pasteProblem);
    if (values !== null && problemWith(values, expected) === "") show(values);
  }

  /** @param {string} written @param {HTMLElement} where to say what is wrong with it */
  function entered(written, where) {
    try {
      const values = parseNumbers(written);
      where.textContent = written.trim() === "" ? "" : problemWith(values, expected);
      return values;
    } catch (error) {
      where.textContent = /** @type {Error} */ (error).message;
      return null;
    }
  }

  /** @param {number[]} values */
  function show(values) {
    const written = values.map((value) => (Number.isNaN(value) ? "" : `${value}`));
    if (many) text.value = written.join(", ");
    else fields.forEach((field, index) => (field.value = written[index]));
  }

  /** @returns {number[]|null} */
  function values() {
    const written = many ? text.value : fields.map((field) => field.value.trim().replace(",", ".")).join(";");
    if (written.replaceAll(";", "").trim() === "") {
      problem.textContent = "";
      return null;
    }
    const found = entered(written, problem);
    return found === null || problem.textContent !== "" ? null : found;
  }

  /** Numbers like those that the model was trained on. */
  function sample() {
    const drawn = Array.from({ length: count }, () => integer
      ? entry.low + Math.floor(Math.random() * (entry.high - entry.low + 1))
      : entry.mean + entry.std * normal(Math.random));
    const raw = integer ? drawn : Array.from(unprepare(tensor("float32", [1, ...shape], drawn), steps).data, Number);
    show(integer ? raw : raw.map((value) => Number(value.toPrecision(4))));
    changed();
  }

  function clear() {
    text.value = "";
    fields.forEach((field) => (field.value = ""));
    problem.textContent = pasteProblem.textContent = "";
    changed();
  }

  const label = (/** @type {number} */ index) => `${words(columns[index] ?? `${entry.name} ${index + 1}`)}${unit}`;
  const element = h("div", { class: "editor" },
    many
      ? h("label", { class: "field wide" }, `${words(entry.name)}${unit}, shape ${shape.join(" × ")}`, text)
      : h("div", { class: "fields" }, ...fields.map((field, index) => h("label", { class: "field" }, label(index), field))),
    many ? null : h("details", {}, h("summary", {}, "Paste a row"), h("label", { class: "field wide" },
      "A row of a CSV file, with or without its heading", text), pasteProblem),
    problem,
    h("div", { class: "row tools" }, h("button", { type: "button", onclick: sample }, "Random"),
      h("button", { type: "button", onclick: clear }, "Clear")));

  return {
    element,
    clear,
    read() {
      const found = values();
      if (found === null) return null;
      const { dtype, data } = prepare(tensor(integer ? entry.dtype : "float32", [1, ...shape], found), steps);
      return tensor(steps.length > 0 ? dtype : entry.dtype, shape, data);
    },
    picture: () => "",
    text: () => (values() ?? []).slice(0, 4).map(short).join(", ") + (count > 4 ? " …" : ""),
  };
}
