/**
 * What the model says of the input, and what the person says instead.
 *
 * @typedef {import("./bundle.mjs").Task} Task
 * @typedef {object} Panel  of one task
 * @property {HTMLElement} element
 * @property {(shown: number[]|null) => void} show  an answer as `answer` gives it, or none
 * @property {() => number[]|null} corrected  a target in the task's unit; null where nothing was corrected
 * @property {() => void} reset  forget the correction
 */

import { classNames, outputNames } from "./bundle.mjs";
import { h, short, words } from "./dom.mjs";
import { decision } from "./metrics.mjs";

const MOST_ROWS = 12;
const SHOWN_ROWS = 5;
const SHORT_NAME = 3;

const percent = (/** @type {number} */ share) => `${Math.round(100 * share)} %`;

/** @param {any} manifest @param {Task} task @param {() => void} changed @returns {Panel} */
export function panelFor(manifest, task, changed) {
  if (task.kind === "classification") return choice(manifest, task, changed);
  return task.kind === "regression" ? values(manifest, task, changed) : labels(manifest, task, changed);
}

/** @param {Task} task @param {...(Node|string|null)} children */
const group = (task, ...children) =>
  h("fieldset", { class: "task", "data-task": task.name }, h("legend", {}, words(task.name)), ...children);

/**
 * Bars that are radio buttons; of many classes the likeliest, and a list of all.
 * @param {any} manifest @param {Task} task @param {() => void} changed @returns {Panel}
 */
function choice(manifest, task, changed) {
  const names = classNames(manifest, task);
  const many = names.length > MOST_ROWS;
  const tiles = !many && names.every((name) => name.length <= SHORT_NAME);
  /** @type {number|null} */
  let chosen = null;
  /** @type {number[]|null} */
  let current = null;

  const options = names.map((name, index) => {
    const radio = h("input", { type: "radio", name: `task-${task.name}`, value: `${index}`, disabled: true });
    const share = h("span", { class: "share" });
    const bar = h("span", { class: "fill", "aria-hidden": "true" });
    // A click and not a change: choosing what the model says already is a confirmation
    radio.addEventListener("click", () => choose(index));
    radio.addEventListener("change", () => choose(index));
    return { radio, share, bar, element: h("label", { class: "option" }, radio, bar, h("span", { class: "name" }, name), share) };
  });
  const list = h("div", { class: tiles ? "options tiles-of-five" : "options rows", role: "radiogroup", "aria-label": words(task.name) });
  const select = h("select", { disabled: true, "aria-label": `All classes of ${words(task.name)}` },
    h("option", { value: "" }, "Another …"), ...names.map((name, index) => h("option", { value: `${index}` }, name)));
  select.addEventListener("change", () => select.value !== "" && choose(Number(select.value)));
  const verdict = h("p", { class: "verdict" });

  /** @param {number} index */
  function choose(index) {
    chosen = index;
    draw();
    changed();
  }

  function draw() {
    const said = current === null ? null : decision(task, current)[0];
    const label = chosen ?? said;
    const order = names.map((_, index) => index);
    if (many && current !== null) {
      const likely = /** @type {number[]} */ (current);
      order.sort((a, b) => likely[b] - likely[a]);
      order.splice(SHOWN_ROWS);
      if (chosen !== null && !order.includes(chosen)) order.push(chosen);
    } else if (many) order.splice(SHOWN_ROWS);
    const shown = order.map((index) => options[index].element);
    if (shown.length !== list.children.length || shown.some((element, at) => element !== list.children[at])) {
      list.replaceChildren(...shown);
    }
    options.forEach(({ radio, share, bar, element }, index) => {
      radio.disabled = current === null;
      radio.checked = index === label;
      share.textContent = current === null ? "" : percent(current[index]);
      bar.style.setProperty("--share", `${current === null ? 0 : current[index]}`);
      element.classList.toggle("said", index === said);
      element.classList.toggle("chosen", chosen !== null && index === chosen && chosen !== said);
    });
    select.disabled = current === null;
    select.value = "";
    verdict.textContent = said === null || current === null ? ""
      : chosen === null || chosen === said ? `${names[said]}, ${percent(current[said])} sure`
        : `You say ${names[chosen]}, the model says ${names[said]}`;
  }

  draw();
  return {
    element: group(task, list, many ? select : null, verdict),
    show(shown) {
      current = shown;
      draw();
    },
    corrected: () => (chosen === null ? null : [chosen]),
    reset() {
      chosen = null;
      draw();
    },
  };
}

/**
 * Yes or no, once or for every label.
 * @param {any} manifest @param {Task} task @param {() => void} changed @returns {Panel}
 */
function labels(manifest, task, changed) {
  const names = task.kind === "binary" ? [words(task.name)] : outputNames(manifest, task).map(words);
  /** @type {(number|null)[]} */
  let chosen = names.map(() => null);
  /** @type {number[]|null} */
  let current = null;
  const rows = names.map((name, index) => {
    const toggle = h("button", { type: "button", role: "switch", class: "switch", disabled: true, "aria-label": name,
      onclick() {
        chosen[index] = toggle.getAttribute("aria-checked") === "true" ? 0 : 1;
        draw();
        changed();
      } });
    const share = h("span", { class: "share" });
    const bar = h("span", { class: "fill", "aria-hidden": "true" });
    return { toggle, share, bar, element: h("div", { class: "option label" }, bar, h("span", { class: "name" }, name), share, toggle) };
  });

  function draw() {
    const said = current === null ? null : decision(task, current);
    rows.forEach(({ toggle, share, bar, element }, index) => {
      const label = chosen[index] ?? said?.[index] ?? 0;
      toggle.disabled = current === null;
      toggle.setAttribute("aria-checked", `${label === 1}`);
      toggle.textContent = label === 1 ? "yes" : "no";
      share.textContent = current === null ? "" : percent(current[index]);
      bar.style.setProperty("--share", `${current === null ? 0 : current[index]}`);
      element.classList.toggle("chosen", said !== null && chosen[index] !== null && chosen[index] !== said[index]);
    });
  }

  draw();
  return {
    element: group(task, h("div", { class: "options rows" }, ...rows.map(({ element }) => element))),
    show(shown) {
      current = shown;
      draw();
    },
    corrected() {
      if (current === null || chosen.every((label) => label === null)) return null;
      return decision(task, current).map((label, index) => chosen[index] ?? label);
    },
    reset() {
      chosen = names.map(() => null);
      draw();
    },
  };
}

/**
 * Values with their unit, each with a field for the right one.
 * @param {any} manifest @param {Task} task @param {() => void} changed @returns {Panel}
 */
function values(manifest, task, changed) {
  const names = task.size === 1 ? [""] : outputNames(manifest, task).map(words);
  /** @type {number[]|null} */
  let current = null;
  const rows = names.map((name) => {
    const value = h("output", { class: "value" });
    const field = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", disabled: true, placeholder: "correct it",
      "aria-label": `Right value of ${words(task.name)} ${name}${task.unit === "" ? "" : `, in ${task.unit}`}`, oninput() {
        field.setAttribute("aria-invalid", `${Number.isNaN(entered(field))}`);
        changed();
      } });
    return { value, field, element: h("div", { class: "value-row" }, name === "" ? null : h("span", { class: "name" }, name),
      h("span", { class: "reading" }, value, h("span", { class: "unit" }, task.unit)), field) };
  });

  /** NaN for what is no number, null for nothing. @param {HTMLInputElement} field @returns {number|null} */
  function entered(field) {
    const text = field.value.trim().replace(",", ".");
    return text === "" ? null : Number.isFinite(Number(text)) ? Number(text) : NaN;
  }

  return {
    element: group(task, ...rows.map(({ element }) => element)),
    show(shown) {
      current = shown;
      rows.forEach(({ value, field }, index) => {
        value.textContent = shown === null ? "–" : short(shown[index]);
        field.disabled = shown === null;
      });
    },
    corrected() {
      const right = rows.map(({ field }) => entered(field));
      if (current === null || right.every((value) => value === null)) return null;
      return right.map((value, index) => value ?? /** @type {number[]} */ (current)[index]);
    },
    reset() {
      for (const { field } of rows) {
        field.value = "";
        field.removeAttribute("aria-invalid");
      }
    },
  };
}
