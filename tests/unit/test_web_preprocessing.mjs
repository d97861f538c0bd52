// Run by test_web_preprocessing.py with the file of examples.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { prepare, standardise, unstandardise } from "../../nagedge/web/assets/preprocessing.mjs";
import { tensor } from "../../nagedge/web/assets/tensors.mjs";

const { cases, targets } = JSON.parse(readFileSync(process.argv[2], "utf-8"));

for (const { name, steps, dtype, shape, input, output_dtype, output_shape, output } of cases) {
  test(name, () => {
    const y = prepare(tensor(dtype, shape, input.map((value) => value ?? NaN)), steps);
    assert.equal(y.dtype, output_dtype);
    assert.deepEqual(y.shape, output_shape);
    assert.deepEqual(Array.from(y.data, Number), output); // to the last bit
  });
}

for (const { name, mean, std, target, learnt, in_unit } of targets) {
  test(name, () => {
    assert.deepEqual(target.map((row) => standardise(row, { mean, std })), learnt);
    assert.deepEqual(learnt.map((row) => unstandardise(row, { mean, std })), in_unit);
  });
}
