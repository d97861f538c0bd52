/** The page: puts the parts together. */

import * as ort from "onnxruntime-web";

import { panelFor } from "./answers.mjs";
import { readBundle } from "./bundle.mjs";
import { lossChart } from "./chart.mjs";
import { byId, h, short, words } from "./dom.mjs";
import { editorFor } from "./editors.mjs";
import { beforeAndAfter, tiles } from "./examples_view.mjs";
import { readPacked } from "./files.mjs";
import { DivergedError, Learner } from "./learner.mjs";
import { answers } from "./lesson.mjs";
import { decision, quantile } from "./metrics.mjs";
import { Session } from "./session.mjs";
import { readSettings, settingsFields } from "./settings.mjs";

const SHOW_EVERY_MS = 60;
const SAVE_EVERY_MS = 3000;

const app = byId("app");

/** @param {string} text @param {boolean} [problem] */
function say(text, problem = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("problem", problem);
}

/** @param {unknown} error */
const textOf = (error) => (error instanceof Error ? error.message : `${error}`);

async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await readPacked("runtime.wasm");
  const bundle = await readBundle(readPacked);
  const session = new Session(await Learner.open(ort, bundle));
  const { model, tasks } = bundle.manifest;
  byId("model").textContent = `· ${words(model)}`;
  byId("title").textContent = tasks.map((/** @type {any} */ { name }) => words(name)).join(", ");
  byId("about").textContent = `Computed by ONNX Runtime ${ort.env.versions.web ?? ""} in this browser. `
    + "What you put in and what the model learns from it never leave this device.";
  await run(session);
  app.setAttribute("aria-busy", "false");
}

/** @param {Session} session */
async function run(session) {
  const question = askAndAnswer(session, buttons);
  let learning = false;
  byId("settings").replaceChildren(...settingsFields(session.learner.bundle.manifest.training, session.learner.bundle.batch));

  function buttons() {
    const { length } = session.examples;
    byId("keep").disabled = learning || !question.isAnswered();
    byId("learn").disabled = length === 0;
    byId("learn").textContent = learning ? "Stop" : length === 0 ? "Learn" : `Learn from ${length}`;
    byId("upload").disabled = byId("reset").disabled = learning;
  }

  /** Draw all that depends on the weights and the examples. */
  async function show() {
    await showProgress(session, async (index) => {
      session.examples = session.examples.filter((_, at) => at !== index);
      say("Removed.");
      await showAndSave();
    });
    buttons();
    await question.answer();
  }

  /** A browser that keeps nothing does not stop the page. */
  async function saved() {
    try {
      await session.save();
    } catch (error) {
      say(`This browser keeps nothing (${textOf(error)}): download your weights.`, true);
    }
  }

  async function showAndSave() {
    await show();
    await saved();
  }

  byId("keep").addEventListener("click", async () => {
    const example = question.take();
    if (example === null) return;
    session.examples = [...session.examples, example];
    const { length } = session.examples;
    say(length === 1 ? "Kept. Give some more, or let it learn." : `Kept: ${length} examples.`);
    await showAndSave();
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
    buttons();
    say("Learning …");
    const bar = byId("progress");
    [bar.hidden, bar.value, bar.max] = [false, 0, chosen.steps];
    let shown = performance.now();
    let kept = shown;
    try {
      const steps = await session.lesson(chosen, async () => {
        bar.value += 1;
        if (performance.now() - shown > SHOW_EVERY_MS) {
          await session.learner.refresh();
          await show();
          await nextFrame();
          shown = performance.now();
        }
        if (performance.now() - kept > SAVE_EVERY_MS) {
          await saved();
          kept = performance.now();
        }
        await nextTask();
        return learning;
      });
      say(`Learnt ${steps} steps.`);
    } catch (error) {
      const [what, remedy] = error instanceof DivergedError
        ? ["Diverged", "try a smaller step size in the settings"] : ["Failed", "try again"];
      say(`${what}: ${textOf(error)}. The weights are as before; ${remedy}.`, true);
    } finally {
      learning = false;
      bar.hidden = true;
      await showAndSave();
    }
  });

  byId("download").addEventListener("click", () => {
    const file = new Blob([/** @type {any} */ (session.weights())], { type: "application/octet-stream" });
    const address = URL.createObjectURL(file);
    const name = session.learner.bundle.manifest.model.replace(/[^\w-]+/g, "-");
    h("a", { href: address, download: `${name}-personal.safetensors` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    say("Your weights were given to the browser to save.");
  });

  byId("upload").addEventListener("click", () => byId("upload-file").click());
  byId("upload-file").addEventListener("change", async () => {
    const [file] = byId("upload-file").files;
    if (file === undefined) return;
    try {
      await session.useWeights(new Uint8Array(await file.arrayBuffer()));
      say(`Weights loaded: ${session.steps} steps learnt.`);
      await showAndSave();
    } catch (error) {
      say(`${file.name} was not loaded: ${textOf(error)}.`, true);
    }
    byId("upload-file").value = "";
  });

  byId("reset").addEventListener("click", async () => {
    if (!confirm("Forget all examples and all that was learnt from them?")) return;
    await session.reset();
    question.forget();
    await show();
    say("Forgotten: the model is as it was exported.");
  });

  try {
    await session.restore();
    if (session.steps > 0) say(`Welcome back: ${session.steps} steps learnt so far.`);
  } catch (error) {
    say(`What this browser kept cannot be used (${textOf(error)}).`, true);
  }
  await show();
}

/**
 * The person's input, the model's answers to it, and the person's corrections.
 * @param {Session} session @param {() => void} changed is called when an answer or a correction is another
 */
function askAndAnswer({ learner }, changed) {
  const { manifest } = learner.bundle;
  /** @type {[any, import("./editors.mjs").Editor][]} */
  const editors = manifest.inputs.map((/** @type {any} */ entry) => [entry, editorFor(manifest, entry, () => answer())]);
  /** @type {[any, import("./answers.mjs").Panel][]} */
  const panels = manifest.tasks.map((/** @type {any} */ task) => [task, panelFor(manifest, task, changed)]);
  byId("inputs").replaceChildren(...editors.map(([entry, editor]) => editors.length === 1 ? editor.element
    : h("div", { class: "input" }, h("h3", {}, words(entry.name)), editor.element)));
  byId("answers").replaceChildren(...panels.map(([, panel]) => panel.element));

  /** @type {Record<string, number[]>|null} */
  let answered = null;
  let answering = false;
  let stale = false;

  /** Answer the input as it is now; while one answer is computed, the next waits for the newest input. */
  async function answer() {
    stale = true;
    if (answering) return;
    answering = true;
    try {
      while (stale) {
        stale = false;
        const inputs = read();
        answered = inputs === null ? null : (await answers(learner, [{ inputs }]))[0];
        for (const [task, panel] of panels) panel.show(answered === null ? null : answered[task.name]);
        byId("answers-hint").hidden = answered !== null;
        changed();
      }
    } catch (error) {
      say(`No prediction: ${textOf(error)}`, true);
    } finally {
      answering = false;
    }
  }

  /** @returns {Record<string, import("./tensors.mjs").Tensor>|null} */
  function read() {
    const tensors = editors.map(([entry, editor]) => [entry.name, editor.read()]);
    return tensors.some(([, value]) => value === null) ? null : Object.fromEntries(tensors);
  }

  /** An example of the input, the answers and the corrections; null where one of them is missing. */
  function example() {
    const [inputs, said] = [read(), answered];
    if (inputs === null || said === null) return null;
    const targets = Object.fromEntries(panels.map(
      ([task, panel]) => [task.name, panel.corrected() ?? decision(task, said[task.name])]));
    const picture = editors.map(([, editor]) => editor.picture()).find((address) => address !== "") ?? "";
    const text = editors.map(([, editor]) => editor.text()).filter((words) => words !== "").join("; ");
    return { inputs, targets, picture, text };
  }

  const forget = () => panels.forEach(([, panel]) => panel.reset());
  return {
    answer,
    forget,
    isAnswered: () => answered !== null && panels.every(([, panel]) => !(panel.corrected() ?? []).some(Number.isNaN)),
    /** The example, and everything is ready for the next. */
    take() {
      const taken = example();
      if (taken === null) return null;
      forget();
      for (const [, editor] of editors) editor.clear();
      return taken;
    },
  };
}

/** @param {Session} session @param {(index: number) => void} remove an example */
async function showProgress(session, remove) {
  const { examples, losses, times, steps } = session;
  const { manifest } = session.learner.bundle;
  const { before, now } = await session.decisions();
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
  say(textOf(error), true);
});
