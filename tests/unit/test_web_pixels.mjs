// Run by test_web_preprocessing.py with the pixels of an image and what Pillow reads.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { planar } from "../../nagedge/web/assets/pixels.mjs";

const { rgba, width, height, image } = JSON.parse(readFileSync(process.argv[2], "utf-8"));

test("planar", () => {
  const { shape, data } = planar({ data: Uint8ClampedArray.from(rgba), width, height }, image.length);
  assert.deepEqual(shape, [1, image.length, height, width]);
  assert.deepEqual(Array.from(data), image.flat(3));
});
