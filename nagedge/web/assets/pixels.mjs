/**
 * From pixels to what a model takes. No document is needed.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 */

import { prepare, resize, unprepare } from "./preprocessing.mjs";
import { tensor } from "./tensors.mjs";

const INSANE = 20;

/**
 * The image that a canvas holds, as the data reader of NagEdge gives one.
 * @param {{data: Uint8ClampedArray, width: number, height: number}} rgba
 * @param {number} channels 1 (ITU-R 601 luma, rounded as Pillow rounds it) or 3; transparency is ignored
 * @param {boolean} [invert] light for dark
 * @returns {Tensor} uint8 `[1, channels, height, width]`
 */
export function planar({ data, width, height }, channels, invert = false) {
  const size = width * height;
  const image = tensor("uint8", [1, channels, height, width]);
  const flip = invert ? 255 : 0;
  for (let at = 0; at < size; at++) {
    const [red, green, blue] = [data[4 * at], data[4 * at + 1], data[4 * at + 2]];
    if (channels === 1) {
      image.data[at] = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) ^ flip;
    } else {
      image.data[at] = red ^ flip;
      image.data[size + at] = green ^ flip;
      image.data[2 * size + at] = blue ^ flip;
    }
  }
  return image;
}

/**
 * Means over blocks of `block` by `block` pixels, each rounded: a drawing in the model's resolution.
 * @param {Tensor} image uint8 `[1, channels, h, w]` @param {number} block
 */
export function shrink(image, block) {
  const [, channels, h, w] = image.shape;
  const [height, width] = [h / block, w / block];
  const small = tensor("uint8", [1, channels, height, width]);
  for (let at = 0; at < small.data.length; at++) {
    const top = Math.floor(at / width) * block; // over all channels: planes follow each other
    const left = (at % width) * block;
    let sum = 0;
    for (let y = top; y < top + block; y++) {
      for (let x = left; x < left + block; x++) sum += Number(image.data[y * w + x]);
    }
    small.data[at] = Math.round(sum / block ** 2);
  }
  return small;
}

/**
 * What is known of an image input: the raw value of white, and whether images are mostly dark.
 *
 * A manifest says what is done to raw values, not their range. It is 0 to 255, as of image files, unless 255 would be
 * far outside of what the model was trained on: then 0 to 1.
 * @param {any} entry of the manifest's inputs @param {any[]} steps
 * @returns {{white: number, dark: boolean}}
 */
export function imageRange({ shape, mean, std }, steps) {
  const of = (/** @type {number} */ value) => tensor("float32", [1, shape[1], 1, 1], Array(shape[1]).fill(value));
  const local = steps.filter(({ step }) => step !== "resize");
  const brightest = Math.max(...Array.from(prepare(of(255), local).data, Number).map(Math.abs));
  const white = brightest <= Math.abs(mean) + INSANE * std ? 255 : 1;
  const usual = Array.from(unprepare(of(mean), local).data, Number);
  return { white, dark: usual.reduce((a, b) => a + b, 0) / usual.length < 0.5 * white };
}

/**
 * @param {Tensor} image uint8 `[1, channels, h, w]`, of any size
 * @param {any} entry of the manifest's inputs @param {any[]} steps @param {number} white raw value of white
 * @returns {Tensor} float32 `[channels, height, width]`, as the model takes it
 */
export function preparedImage(image, { shape }, steps, white) {
  const [height, width] = shape.slice(2);
  const fits = image.shape[2] === height && image.shape[3] === width;
  const sized = fits || steps.some(({ step }) => step === "resize") ? image : resize(image, height, width);
  const raw = white === 255 ? sized : prepare(sized, [{ step: "scale", factor: 1 / 255 }]);
  const { dtype, shape: given, data } = prepare(raw, steps);
  return { dtype, shape: given.slice(1), data };
}
