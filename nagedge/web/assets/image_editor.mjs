/**
 * An image to draw with finger, mouse or arrow keys, or to take from a file or a camera.
 *
 * @typedef {import("./editors.mjs").Editor} Editor
 */

import { h } from "./dom.mjs";
import { imageRange, planar, preparedImage, shrink } from "./pixels.mjs";

const PAD = 336;
const PEN = 0.085;
const LARGEST = 8e6;
const INKS = ["#000000", "#ffffff", "#d83a3a", "#2f8f4e", "#2f6fd0", "#e3b02a"];

/** @param {any} entry of the manifest's inputs @param {any[]} steps @param {() => void} changed @returns {Editor} */
export function imageEditor(entry, steps, changed) {
  const [, channels, height, width] = entry.shape;
  const { white, dark } = imageRange(entry, steps);
  const block = Math.max(1, Math.round(PAD / Math.max(height, width)));
  const paper = dark ? "#000000" : "#ffffff";
  let ink = dark ? "#ffffff" : "#000000";

  /** @type {{ink: string, points: [number, number][]}[]} */
  let strokes = [];
  /** @type {ImageBitmap|null} */
  let photo = null;
  let inverted = false;
  let cursor = { x: (width * block) / 2, y: (height * block) / 2, down: false };

  const pad = h("canvas", {
    class: "pad", width: width * block, height: height * block, tabIndex: 0, role: "application",
    "aria-label": `Drawing of ${entry.name}. Draw with finger or mouse, or with the arrow keys: space puts the pen down and up.`,
  });
  const context = pad.getContext("2d", { willReadFrequently: true });

  function paint() {
    context.fillStyle = paper;
    context.fillRect(0, 0, pad.width, pad.height);
    if (photo !== null) {
      context.drawImage(photo, 0, 0, pad.width, pad.height);
      if (inverted) {
        context.globalCompositeOperation = "difference";
        context.fillStyle = "#ffffff";
        context.fillRect(0, 0, pad.width, pad.height);
        context.globalCompositeOperation = "source-over";
      }
    }
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = Math.max(block, PEN * Math.min(pad.width, pad.height));
    for (const { ink: colour, points } of strokes) {
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(...points[0]);
      for (const point of points.length > 1 ? points : [points[0]]) context.lineTo(...point);
      context.stroke();
    }
    pad.parentElement?.classList.toggle("empty", isEmpty());
  }

  const isEmpty = () => strokes.length === 0 && photo === null;
  const pixels = () => context.getImageData(0, 0, pad.width, pad.height);

  /** The photograph itself where nothing is drawn on it, else what the pad shows. */
  function image() {
    if (photo === null || strokes.length > 0) return shrink(planar(pixels(), channels), block);
    const canvas = new OffscreenCanvas(photo.width, photo.height);
    const whole = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    whole.drawImage(photo, 0, 0);
    return planar(whole.getImageData(0, 0, photo.width, photo.height), channels, inverted);
  }

  function update() {
    paint();
    changed();
  }

  /** @param {PointerEvent|{clientX: number, clientY: number}} event @returns {[number, number]} */
  function position(event) {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * pad.width, ((event.clientY - box.top) / box.height) * pad.height];
  }

  pad.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    strokes = [...strokes, { ink, points: [position(event)] }];
    update();
  });
  pad.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    strokes[strokes.length - 1].points.push(...(passed.length > 0 ? passed : [event]).map(position));
    update();
  });

  /** @type {Record<string, [number, number]>} */
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const arrow = ARROWS[event.key];
    if (arrow === undefined && event.key !== " ") return;
    event.preventDefault();
    if (arrow === undefined) {
      cursor = { ...cursor, down: !cursor.down };
      if (cursor.down) strokes = [...strokes, { ink, points: [[cursor.x, cursor.y]] }];
    } else {
      const limit = (/** @type {number} */ value, /** @type {number} */ most) => Math.min(Math.max(value, 0), most);
      cursor.x = limit(cursor.x + arrow[0] * block, pad.width);
      cursor.y = limit(cursor.y + arrow[1] * block, pad.height);
      if (cursor.down) strokes[strokes.length - 1].points.push([cursor.x, cursor.y]);
    }
    update();
    context.strokeStyle = "#2f6fd0";
    context.lineWidth = 2;
    context.strokeRect(cursor.x - block, cursor.y - block, 2 * block, 2 * block);
  });
  pad.addEventListener("blur", () => {
    cursor.down = false;
    paint();
  });

  const problem = h("p", { class: "problem", role: "alert" });
  const file = h("input", { type: "file", accept: "image/*", hidden: true, "aria-label": `Image file for ${entry.name}` });
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    file.value = "";
    if (chosen === undefined) return;
    try {
      photo = await decode(chosen);
      strokes = [];
      problem.textContent = "";
      invert.hidden = false;
      update();
    } catch {
      problem.textContent = `${chosen.name} is no image that this browser can read.`;
    }
  });
  const invert = h("button", {
    type: "button", hidden: true, "aria-pressed": "false", onclick() {
      inverted = !inverted;
      invert.setAttribute("aria-pressed", `${inverted}`);
      update();
    },
  }, "Invert");

  function clear() {
    strokes = [];
    photo = null;
    inverted = false;
    invert.hidden = true;
    invert.setAttribute("aria-pressed", "false");
    cursor.down = false;
    update();
  }

  const undo = h("button", {
    type: "button", onclick() {
      strokes = strokes.slice(0, -1);
      update();
    },
  }, "Undo");
  const element = h("div", { class: "editor image" },
    h("div", { class: "frame empty" }, pad, h("span", { class: "invitation", "aria-hidden": "true" }, "Draw here")),
    channels === 3 ? palette() : null,
    h("div", { class: "row tools" }, undo, h("button", { type: "button", onclick: clear }, "Clear"),
      h("button", { type: "button", onclick: () => file.click() }, "Photo"), invert, file),
    problem);

  function palette() {
    const swatches = INKS.map((colour) => {
      const swatch = h("button", {
        type: "button", class: "swatch", "aria-label": `Ink ${colour}`, "aria-pressed": `${colour === ink}`, onclick() {
          ink = colour;
          for (const other of swatches) other.setAttribute("aria-pressed", `${other === swatch}`);
        },
      });
      swatch.style.background = colour;
      return swatch;
    });
    return h("div", { class: "row", role: "group", "aria-label": "Ink" }, ...swatches);
  }

  paint();
  return {
    element,
    clear,
    read: () => (isEmpty() ? null : preparedImage(image(), entry, steps, white)),
    picture() {
      const small = h("canvas", { width: 96, height: Math.round((96 * height) / width) });
      small.getContext("2d").drawImage(pad, 0, 0, small.width, small.height);
      return small.toDataURL("image/png");
    },
    text: () => "",
  };
}

/** @param {File} file @returns {Promise<ImageBitmap>} of at most 8 megapixels, its bytes otherwise as they are */
async function decode(file) {
  /** @type {ImageBitmapOptions} */
  const plain = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, plain);
  const share = Math.sqrt(LARGEST / (bitmap.width * bitmap.height));
  if (share >= 1) return bitmap;
  return createImageBitmap(file, { ...plain, resizeWidth: Math.round(bitmap.width * share), resizeQuality: "high" });
}
