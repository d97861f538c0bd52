/** The page: puts the parts together, and keeps what they share. */

import * as ort from "onnxruntime-web";

import { panelFor } from "./answers.mjs";
import { readBundle } from "./bundle.mjs";
import { lossChart } from "./chart.mjs";
import { byId, h, short, words } from "./dom.mjs";
import { editorFor } from "./editors.mjs";
import { beforeAndAfter, tiles } from "./examples_view.mjs";
import { readPacked } from "./files.mjs";
import { DivergedError, Learner } from "./learner.mjs";
import { answers, decisions, learn } from "./lesson.mjs";
import { decision, quantile } from "./metrics.mjs";
import { packState, unpackState } from "./personal.mjs";
import { readSettings, settingsFields } from "./settings.mjs";
import { forget, load, save } from "./storage.mjs";

const SHOW_EVERY_MS = 60;
const SAVE_EVERY_MS = 3000;
const MOST_LOSSES = 2000;

const app = byId("app");

/** @param {string} text @param {boolean} [problem] */
function say(text, problem = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("problem", problem);
}

async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await readPacked("runtime.wasm");
  const bundle = await readBundle(readPacked);
  const learner = await Learner.open(ort, bundle);
  const { model, tasks } = bundle.manifest;
  byId("model").textContent = `· ${words(model)}`;
  byId("title").textContent = tasks.map((/** @type {any} */ { name }) => words(name)).join(", ");
  byId("about").textContent = `Computed by ONNX Runtime ${ort.env.versions.web ?? ""} in this browser. `
    + "What you put in and what the model learns from it never leave this device.";
  await run(learner);
  app.setAttribute("aria-busy", "false");
}

/** @param {Learner} learner */
async function run(learner) {
  const { bundle } = learner;
  const { manifest, identity } = bundle;
  /** @type {import("./lesson.mjs").Example[]} */
  let examples = [];
  /** @type {Record<string, number>[]} */
  let losses = [];
  /** @type {number[]} */
  let times = [];
  let steps = 0;
  let learning = false;
  /** What the exported model says of the examples. @type {{of: any, said: import("./examples_view.mjs").Decisions}} */
  let asExported = { of: null, said: {} };

  // The person's input and the model's answers to it.
  const editors = manifest.inputs.map((/** @type {any} */ entry) => [entry, editorFor(manifest, entry, () => predict())]);
  const panels = manifest.tasks.map((/** @type {any} */ task) => [task, panelFor(manifest, task, () => buttons())]);
  byId("inputs").replaceChildren(...editors.map(([entry, editor]) => editors.length === 1 ? editor.element
    : h("div", { class: "input" }, h("h3", {}, words(entry.name)), editor.element)));
  byId("answers").replaceChildren(...panels.map(([, panel]) => panel.element));
  byId("settings").replaceChildren(...settingsFields(manifest.training, bundle.batch));

  /** @type {Record<string, number[]>|null} */
  let answered = null;
  let predicting = false;
  let stale = false;

  /** Answer the input as it is now; while one answer is computed, the next waits for the newest input. */
  async function predict() {
    stale = true;
    if (predicting) return;
    predicting = true;
    try {
      while (stale) {
        stale = false;
        const inputs = readInputs();
        answered = inputs === null ? null : (await answers(learner, [{ inputs }]))[0];
        for (const [task, panel] of panels) panel.show(answered === null ? null : answered[task.name]);
        byId("answers-hint").hidden = answered !== null;
        buttons();
      }
    } catch (error) {
      say(`No prediction: ${/** @type {Error} */ (error).message}`, true);
    } finally {
      predicting = false;
    }
  }

  function readInputs() {
    const read = editors.map(([entry, editor]) => [entry.name, editor.read()]);
    return read.some(([, value]) => value === null) ? null : Object.fromEntries(read);
  }

  function buttons() {
    const valid = panels.every(([, panel]) => !(panel.corrected() ?? []).some(Number.isNaN));
    byId("keep").disabled = answered === null || !valid || learning;
    byId("learn").disabled = examples.length === 0;
    byId("learn").textContent = learning ? "Stop" : examples.length === 0 ? "Learn" : `Learn from ${examples.length}`;
    byId("upload").disabled = byId("reset").disabled = learning;
  }

  byId("keep").addEventListener("click", async () => {
    const inputs = readInputs();
    if (answered === null || inputs === null) return;
    const said = answered;
    const targets = Object.fromEntries(panels.map(
      ([task, panel]) => [task.name, panel.corrected() ?? decision(task, said[task.name])]));
    const shown = editors.map(([, editor]) => editor);
    examples = [...examples, {
      inputs, targets, picture: shown.map((editor) => editor.picture()).find((picture) => picture !== "") ?? "",
      text: shown.map((editor) => editor.text()).filter((text) => text !== "").join("; "),
    }];
    for (const [, panel] of panels) panel.reset();
    for (const [, editor] of editors) editor.clear();
    say(examples.length === 1 ? "Kept. Give some more, or let it learn." : `Kept: ${examples.length} examples.`);
    await show();
    await keep();
  });

  byId("learn").addEventListener("click", async () => {
    if (learning) {
      learning = false;
      return;
    }
    const chosen = readSettings();
    if (chosen === null) {
      say("The settings are not numbers that can be used.", true);
      return;
    }
    learning = true;
    app.classList.add("learning");
    buttons();
    const kept = { losses, steps };
    const bar = byId("progress");
    [bar.hidden, bar.value, bar.max] = [false, 0, chosen.steps];
    let shown = performance.now();
    let saved = shown;
    say("Learning …");
    try {
      await learn(learner, examples, { ...chosen, seed: steps }, async (loss, ms) => {
        losses = [...losses, loss].slice(-MOST_LOSSES);
        times = [...times, ms].slice(-MOST_LOSSES);
        steps += 1;
        bar.value += 1;
        const now = performance.now();
        if (now - shown > SHOW_EVERY_MS) {
          await learner.refresh();
          await show();
          await nextFrame();
          shown = performance.now();
        }
        if (now - saved > SAVE_EVERY_MS) {
          await keep();
          saved = performance.now();
        }
        await nextTask();
        return learning;
      });
      say(`Learnt ${steps - kept.steps} steps.`);
    } catch (error) {
      ({ losses, steps } = kept);
      const diverged = error instanceof DivergedError;
      say(`${diverged ? "Diverged" : "Failed"}: ${/** @type {Error} */ (error).message}. The weights are as before; `
        + (diverged ? "try a smaller step size in the settings." : "try again."), true);
    } finally {
      learning = false;
      bar.hidden = true;
      app.classList.remove("learning");
      await learner.refresh();
      await show();
      await keep();
    }
  });

  /** Draw all that depends on the weights and the examples. */
  async function show() {
    const now = decisions(manifest, await answers(learner, examples));
    if (asExported.of !== examples) {
      asExported = { of: examples, said: decisions(manifest, await answers(learner, examples, "original")) };
    }
    const before = asExported.said;
    byId("examples").replaceChildren(...tiles(manifest, examples, before, now, remove));
    byId("examples-hint").textContent = examples.length > 0 ? ""
      : "Correct what is wrong and keep it. What you leave as it is counts as right.";
    byId("before-after").replaceChildren(...beforeAndAfter(manifest, examples, before, now));
    byId("chart").replaceChildren(lossChart(losses));
    byId("timing").replaceChildren(...(times.length === 0 ? [] : [
      h("dt", {}, "step, p50"), h("dd", {}, `${short(quantile(times, 0.5))} ms`),
      h("dt", {}, "p90"), h("dd", {}, `${short(quantile(times, 0.9))} ms`),
      h("dt", {}, "steps timed"), h("dd", {}, `${times.length}`),
    ]));
    byId("steps-learnt").hidden = steps === 0;
    byId("steps-learnt").textContent = `${steps} steps learnt`;
    buttons();
    await predict();
  }

  /** @param {number} index of an example */
  async function remove(index) {
    examples = examples.filter((_, at) => at !== index);
    say("Removed.");
    await show();
    await keep();
  }

  /** Keep everything in the browser; a page that cannot goes on without. */
  async function keep() {
    try {
      await save({ identity, weights: packState(bundle, learner.state, steps), examples, losses });
      document.body.dataset.saved = `${steps}`;
    } catch (error) {
      say(`This browser keeps nothing (${/** @type {Error} */ (error).message}): download your weights.`, true);
    }
  }

  async function restore() {
    try {
      const kept = await load(identity);
      if (kept === undefined) return;
      ({ examples, losses } = kept);
      const unpacked = unpackState(bundle, kept.weights);
      if (unpacked.steps > 0) learner.state = unpacked.state;
      steps = unpacked.steps;
      await learner.refresh();
      if (steps > 0) say(`Welcome back: ${steps} steps learnt so far.`);
    } catch (error) {
      say(`What this browser kept cannot be used (${/** @type {Error} */ (error).message}).`, true);
    }
  }

  byId("download").addEventListener("click", () => {
    const file = new Blob([packState(bundle, learner.state, steps)], { type: "application/octet-stream" });
    const address = URL.createObjectURL(file);
    h("a", { href: address, download: `${manifest.model.replace(/[^\w-]+/g, "-")}-personal.safetensors` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    say("Your weights were given to the browser to save.");
  });

  byId("upload").addEventListener("click", () => byId("upload-file").click());
  byId("upload-file").addEventListener("change", async () => {
    const [file] = byId("upload-file").files;
    if (file === undefined) return;
    try {
      const unpacked = unpackState(bundle, new Uint8Array(await file.arrayBuffer()));
      learner.state = unpacked.state;
      [steps, losses, times] = [unpacked.steps, [], []];
      await learner.refresh();
      await show();
      await keep();
      say(`Weights loaded: ${steps} steps learnt.`);
    } catch (error) {
      say(`${file.name} was not loaded: ${/** @type {Error} */ (error).message}.`, true);
    }
    byId("upload-file").value = "";
  });

  byId("reset").addEventListener("click", async () => {
    if (!confirm("Forget all examples and all that was learnt from them?")) return;
    learner.state = bundle.state;
    [examples, losses, times, steps] = [[], [], [], 0];
    for (const [, panel] of panels) panel.reset();
    await learner.refresh();
    await show();
    try {
      await forget(identity);
    } catch {
      // a browser that keeps nothing has nothing to forget
    }
    say("Forgotten: the model is as it was exported.");
  });

  await restore();
  await show();
}

/** Wait until the browser has drawn; a tab in the background draws nothing and is not waited for. */
const nextFrame = () => Promise.race([
  new Promise((resolve) => requestAnimationFrame(resolve)),
  new Promise((resolve) => setTimeout(resolve, 100)),
]);

/** Let the browser take input between steps. */
const nextTask = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = resolve;
  port2.postMessage(null);
});

start().catch((error) => {
  app.setAttribute("aria-busy", "false");
  byId("title").textContent = "This page cannot start";
  say(error.message, true);
});
