// Run by test_web_training.py: the page's learner in Node, on the files and batches that Python wrote.
// Arguments: the module of onnxruntime-web, its WebAssembly, and the folder.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { readBundle } from "../../nagedge/web/assets/bundle.mjs";
import { Learner } from "../../nagedge/web/assets/learner.mjs";
import { readSafetensors, writeSafetensors } from "../../nagedge/web/assets/safetensors.mjs";

const [module, wasm, folder] = process.argv.slice(2);
const read = (name) => new Uint8Array(readFileSync(join(folder, name)));
const { steps, settings } = JSON.parse(new TextDecoder().decode(read("task.json")));

const ort = await import(pathToFileURL(module));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(wasm);
const learner = await Learner.open(ort, await readBundle(async (name) => read(name)));

function batch(step) {
  const { tensors } = readSafetensors(read(`batch-${step}.safetensors`));
  const of = (prefix) => Object.fromEntries([...tensors].filter(([name]) => name.startsWith(prefix))
    .map(([name, value]) => [name.slice(prefix.length), value]));
  return { inputs: of("input."), targets: of("target."), sampleWeight: tensors.get("sample_weight") };
}

const losses = [];
for (let step = 0; step < steps; step++) {
  losses.push(await learner.step(batch(step), settings));
  writeFileSync(join(folder, `state-${step}.safetensors`), writeSafetensors(learner.state));
}
const { inputs } = batch(0);
const before = await learner.predict(inputs, "original");
await learner.refresh();
const after = await learner.predict(inputs);
for (const [name, outputs] of Object.entries({ before, after })) {
  writeFileSync(join(folder, `${name}.safetensors`), writeSafetensors(new Map(Object.entries(outputs))));
}
writeFileSync(join(folder, "result.json"), JSON.stringify({ losses, version: ort.env.versions }));
