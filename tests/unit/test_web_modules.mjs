// Run by test_web_modules.py with a folder of files that Python wrote.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { batchOf, learn, randomNumbers, shuffledBatches } from "../../nagedge/web/assets/lesson.mjs";
import { DivergedError } from "../../nagedge/web/assets/learner.mjs";
import { answer, decision, quantile, score, softmax } from "../../nagedge/web/assets/metrics.mjs";
import { parseNumbers, problemWith } from "../../nagedge/web/assets/numbers.mjs";
import { withParameters } from "../../nagedge/web/assets/onnx_parameters.mjs";
import { packState, unpackState } from "../../nagedge/web/assets/personal.mjs";
import { imageRange, preparedImage, shrink } from "../../nagedge/web/assets/pixels.mjs";
import { prepare, unprepare } from "../../nagedge/web/assets/preprocessing.mjs";
import { readSafetensors, writeSafetensors } from "../../nagedge/web/assets/safetensors.mjs";
import { row, stack, tensor } from "../../nagedge/web/assets/tensors.mjs";

const folder = process.argv[2];
const read = (name) => new Uint8Array(readFileSync(join(folder, name)));

test("safetensors that Python wrote are read, and read by Python", () => {
  const { tensors, metadata } = readSafetensors(read("python.safetensors"));
  assert.equal(metadata.who, "python");
  assert.deepEqual([...tensors.keys()].sort(), ["flags", "ids", "scalar", "weight"]); // not the bfloat16
  assert.deepEqual(tensors.get("weight"), tensor("float32", [2, 3], [0, 1, 2, 3, 4, 5]));
  assert.deepEqual(tensors.get("ids"), tensor("int64", [2], [-1, 2 ** 40]));
  assert.deepEqual(tensors.get("scalar").shape, []);
  writeFileSync(join(folder, "page.safetensors"), writeSafetensors(tensors, { who: "page" }));
});

test("damaged safetensors are refused", () => {
  const whole = read("python.safetensors");
  const refused = (bytes, text) => assert.throws(() => readSafetensors(bytes), text);
  refused(new Uint8Array(0), /no safetensors file/);
  refused(whole.slice(0, 5), /no safetensors file/);
  refused(whole.slice(0, 20), /truncated/);
  refused(whole.slice(0, -1), /outside of the file/);
  refused(Uint8Array.from(whole, (byte, at) => (at < 8 ? 255 : byte)), /no safetensors file/);
  refused(Uint8Array.from(whole, (byte, at) => (at === 8 ? 0 : byte)), /not JSON/);
  const header = (document) => {
    const text = new TextEncoder().encode(JSON.stringify(document));
    const bytes = new Uint8Array(8 + text.length + 16);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
    bytes.set(text, 8);
    return bytes;
  };
  refused(header({ a: { dtype: "F32", shape: [4], data_offsets: [0, 8] } }), /8 bytes, which does not fit/);
  refused(header({ a: { dtype: "F32", shape: [4], data_offsets: [-4, 12] } }), /malformed/);
  refused(header({ a: { dtype: "F32", shape: [0.5], data_offsets: [0, 2] } }), /malformed/);
  refused(header({ a: { dtype: "F32", shape: [4], data_offsets: [12, 4] } }), /outside|does not fit/);
  refused(header({ a: null }), /malformed/);
});

test("initializers get new values, whether raw or packed", () => {
  const weight = tensor("float32", [2, 3], [10, 11, 12, 13, 14, 15]);
  const bias = tensor("float32", [3], [-1, -2, -3]);
  const model = read("model.onnx");
  const kept = model.slice();
  const parameters = new Map(Object.entries({ weight, bias, other: tensor("float32", [1]) }));
  writeFileSync(join(folder, "changed.onnx"), withParameters(model, parameters));
  assert.deepEqual(model, kept);
  assert.throws(() => withParameters(model, new Map([["weight", bias]])), /holds 24 bytes for weight.*have 12/);
  assert.throws(() => withParameters(model.slice(0, -3), parameters), /no ONNX file, or it is truncated/);
  assert.throws(() => withParameters(Uint8Array.of(7, 7, 7), parameters), /no ONNX file/);
});

const bundle = {
  identity: "abc", batch: null,
  manifest: { model: "net", preprocessing: null, inputs: [{ name: "x" }], tasks: [
    { name: "kind", kind: "classification", size: 3, target: { dtype: "int64", shape: ["batch"] } },
    { name: "at", kind: "regression", size: 2, target: { dtype: "float32", shape: ["batch", 2] } },
  ] },
  state: new Map([["params.w", tensor("float32", [2], [1, 2])], ["momentum.w", tensor("float32", [2])]]),
};

test("personal weights come back, and only where they belong", () => {
  const state = new Map([["params.w", tensor("float32", [2], [3, 4])], ["momentum.w", tensor("float32", [2], [5, 6])]]);
  const packed = packState(bundle, state, 7);
  assert.deepEqual(unpackState(bundle, packed), { state, steps: 7 });
  const refused = (bytes, text, other = bundle) => assert.throws(() => unpackState(other, bytes), text);
  refused(packed, /another export of "net"/, { ...bundle, identity: "other" });
  refused(writeSafetensors(state), /no personal weights/);
  refused(packState(bundle, new Map([["params.w", state.get("params.w")]]), 1), /lack momentum.w/);
  refused(packState(bundle, new Map([...state, ["momentum.w", tensor("float32", [1])]]), 1), /expected float32 \[2\]/);
  refused(packState(bundle, new Map([...state, ["params.w", tensor("float32", [2], [1, NaN])]]), 1), /not finite/);
  refused(packed.slice(0, -1), /truncated/);
});

test("batches hold the examples, and are filled up with weight 0 where their size is fixed", () => {
  const example = (value) => ({ inputs: { x: tensor("float32", [2], [value, -value]) }, targets: { kind: [value], at: [value, 0.5] } });
  const free = batchOf(bundle, [example(1), example(2)]);
  assert.deepEqual(free.inputs.x, tensor("float32", [2, 2], [1, -1, 2, -2]));
  assert.deepEqual(free.targets.kind, tensor("int64", [2], [1, 2]));
  assert.deepEqual(free.targets.at, tensor("float32", [2, 2], [1, 0.5, 2, 0.5]));
  assert.deepEqual([...free.sampleWeight.data], [1, 1]);
  const fixed = batchOf({ ...bundle, batch: 3 }, [example(1), example(2)]);
  assert.deepEqual([...fixed.targets.kind.data], [1n, 2n, 1n]);
  assert.deepEqual([...fixed.sampleWeight.data], [1, 1, 0]);
});

test("every example comes once an epoch, in an order that the seed decides", () => {
  const epochs = (seed) => {
    const batches = shuffledBatches([0, 1, 2, 3, 4], 2, randomNumbers(seed));
    return Array.from({ length: 6 }, () => batches.next().value);
  };
  assert.deepEqual(epochs(1).slice(0, 3).flat().sort(), [0, 1, 2, 3, 4]);
  assert.deepEqual(epochs(1).slice(3).flat().sort(), [0, 1, 2, 3, 4]);
  assert.deepEqual(epochs(1), epochs(1));
  assert.notDeepEqual(epochs(1), epochs(2));
});

test("a lesson that diverges leaves the weights as they were", async () => {
  const learner = {
    bundle, state: bundle.state, isFinite: () => true,
    async step() {
      if (this.steps === 2) throw new DivergedError("loss is NaN");
      this.steps = (this.steps ?? 0) + 1;
      this.state = new Map();
    },
  };
  const examples = [{ inputs: { x: tensor("float32", [2]) }, targets: { kind: [0], at: [0, 0] } }];
  const how = { steps: 5, batch: 4, settings: {}, seed: 0 };
  await assert.rejects(learn(learner, examples, how, async () => true), /loss is NaN/);
  assert.equal(learner.state, bundle.state);
  await learn({ ...learner, steps: 0 }, examples, how, async () => false); // stopped after the first step
  await assert.rejects(learn({ ...learner, steps: -9, isFinite: () => false }, examples, how, async () => true), /not finite/);
});

test("answers, decisions and scores", () => {
  const [kind, at] = bundle.manifest.tasks;
  const standardised = { preprocessing: { targets: { at: { mean: [10, 20], std: [2, 4] } } } };
  assert.deepEqual(softmax([1000, 1000]), [0.5, 0.5]);
  assert.deepEqual(decision(kind, answer(bundle.manifest, kind, [-1, 3, 2])), [1]);
  assert.deepEqual(answer(standardised, at, [1, -1]), [12, 16]);
  const tags = { kind: "multilabel" };
  assert.deepEqual(decision(tags, answer(bundle.manifest, tags, [0, 2, -2])), [0, 1, 0]); // as Python: logit > 0
  assert.deepEqual(score(kind, [[1], [2]], [[1], [0]]), { right: 1, of: 2 });
  assert.deepEqual(score(tags, [[1, 0], [1, 1]], [[1, 1], [1, 1]]), { right: 3, of: 4 });
  assert.deepEqual(score(at, [[1, 2]], [[2, 4]]), { off: 1.5 });
  const times = [5, 1, 4, 2, 3, 6, 7, 8, 9, 10];
  assert.deepEqual([quantile(times, 0.5), quantile(times, 0.9), quantile([3], 0.9)], [5, 9, 3]);
});

test("numbers as people paste them", () => {
  assert.deepEqual(parseNumbers("1, 2.5,-3e2"), [1, 2.5, -300]);
  assert.deepEqual(parseNumbers("1,5;2;,25"), [1.5, 2, 0.25]);
  assert.deepEqual(parseNumbers(" 1\t2 \r\n 3\t4\n"), [1, 2, 3, 4]);
  assert.deepEqual(parseNumbers("a,b,c\n1,,3"), [1, NaN, 3]);
  assert.deepEqual(parseNumbers('"x";"y"\n"1";"2"'), [1, 2]);
  assert.deepEqual(parseNumbers("1   2 3"), [1, 2, 3]);
  assert.throws(() => parseNumbers("1, two"), /"two" is no number/);
  assert.throws(() => parseNumbers("1\nInfinity"), /"Infinity" is no number/);
  const expected = { integer: true, low: 0, high: 9, count: 2, mayMiss: false };
  assert.equal(problemWith([1, 9], expected), "");
  assert.equal(problemWith([1], expected), "1 of 2 numbers");
  assert.equal(problemWith([1, 10], expected), "10 is no whole number from 0 to 9");
  assert.equal(problemWith([1, 0.5], expected), "0.5 is no whole number from 0 to 9");
  assert.equal(problemWith([1, NaN], { ...expected, integer: false }), "number 2 is missing");
  assert.equal(problemWith([1, NaN], { ...expected, integer: false, mayMiss: true }), "");
  assert.equal(problemWith([-5, 7], { ...expected, low: 0, high: 0 }), ""); // a range that is not known
});

test("drawings and photographs in the model's resolution", () => {
  const image = tensor("uint8", [1, 2, 2, 4], [0, 10, 20, 30, 40, 50, 60, 71, 1, 1, 1, 1, 2, 2, 2, 2]);
  assert.deepEqual(shrink(image, 2), tensor("uint8", [1, 2, 1, 2], [25, 45, 2, 2]));
  const bytes = [{ step: "scale", factor: 1 / 255 }, { step: "normalise", mean: [0.13], std: [0.31] }];
  const entry = { shape: ["batch", 1, 2, 2], mean: 0, std: 1 };
  assert.deepEqual(imageRange(entry, bytes), { white: 255, dark: true });
  assert.deepEqual(imageRange(entry, [bytes[1]]), { white: 1, dark: true });
  assert.deepEqual(imageRange(entry, [{ ...bytes[1], mean: [0.9] }]), { white: 1, dark: false });
  assert.deepEqual(imageRange({ ...entry, mean: 100, std: 70 }, []), { white: 255, dark: true });
  const gray = tensor("uint8", [1, 1, 4, 4], Array(16).fill(255));
  assert.deepEqual(preparedImage(gray, entry, [], 1), tensor("float32", [1, 2, 2], [1, 1, 1, 1]));
  assert.deepEqual(preparedImage(gray, entry, [{ step: "resize", height: 2, width: 2 }], 255),
    tensor("float32", [1, 2, 2], [255, 255, 255, 255]));
});

test("raw values that preprocessing turns into given ones", () => {
  const steps = [{ step: "scale", factor: 0.5 }, { step: "normalise", mean: [1, 2], std: [4, 8] }];
  const wanted = tensor("float32", [1, 2], [0.5, -0.25]);
  assert.deepEqual(prepare(unprepare(wanted, steps), steps), wanted);
});

test("what does not fit is refused", () => {
  assert.throws(() => tensor("float32", [2], [1]), /1 values for shape/);
  assert.throws(() => tensor("complex64", [1]), /no browser type for dtype complex64/);
  assert.throws(() => prepare(tensor("float32", [1, 2]), [{ step: "fourier" }]), /unknown preprocessing step "fourier"/);
  assert.throws(() => prepare(tensor("float32", [1, 2]), [{ step: "normalise", mean: [1, 2, 3], std: [1] }]), /3 values for axis 1/);
  assert.throws(() => prepare(tensor("float32", [1, 2]), [{ step: "resize", height: 2, width: 2 }]), /cannot resize/);
  assert.deepEqual(row(stack([tensor("int64", [2], [1, 2]), tensor("int64", [2], [3, 4])]), 1), [3, 4]);
});
