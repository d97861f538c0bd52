/**
 * Prediction and training steps of a bundle on ONNX Runtime. No document is needed: it runs in Node as well.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 * @typedef {import("./bundle.mjs").Bundle} Bundle
 * @typedef {{inputs: Record<string, Tensor>, targets: Record<string, Tensor>, sampleWeight: Tensor}} Batch
 * @typedef {{lr: number, momentum: number, weight_decay: number}} Settings
 */

import { withParameters } from "./onnx_parameters.mjs";
import { tensor } from "./tensors.mjs";

/** A training step gave a loss that is not finite; the state is the one before it. */
export class DivergedError extends Error {}

export class Learner {
  /**
   * @param {any} ort the module onnxruntime-web @param {Bundle} bundle
   * @param {{original: any, step: any}} sessions
   */
  constructor(ort, bundle, { original, step }) {
    this.ort = ort;
    this.bundle = bundle;
    /** Inference with the parameters as exported. */
    this.original = original;
    /** Inference with the parameters of the last `refresh`. */
    this.personal = original;
    this.trainStep = step;
    /** What the training step changes. A step replaces the map and its tensors, so that whoever kept them has the old ones. */
    this.state = bundle.state;
    /** The end of the last call of the runtime: calls wait for each other, so that none uses a session that is released. */
    this.turn = Promise.resolve();
  }

  /** @template T @param {() => Promise<T>} work @returns {Promise<T>} */
  exclusively(work) {
    const done = this.turn.then(work);
    this.turn = /** @type {Promise<any>} */ (done.catch(() => undefined));
    return done;
  }

  /** @param {any} ort @param {Bundle} bundle */
  static async open(ort, bundle) {
    const original = await ort.InferenceSession.create(bundle.infer);
    // A step's planned block would lie beside what its first run took, and a page's memory never shrinks.
    const step = await ort.InferenceSession.create(bundle.trainStep, { enableMemPattern: false });
    return new Learner(ort, bundle, { original, step });
  }

  /**
   * @param {Record<string, Tensor>} inputs by name, `[n, ...]`, prepared
   * @param {"original"|"personal"} [which] whose parameters
   * @returns {Promise<Record<string, Tensor>>} raw outputs by task
   */
  predict(inputs, which = "personal") {
    return this.exclusively(async () => {
      const session = this[which];
      const outputs = await session.run(this.feeds(inputs, session.inputNames));
      return Object.fromEntries(Object.entries(outputs).map(([name, output]) => [name, fromOrt(output)]));
    });
  }

  /**
   * Run one step.
   * @param {Batch} batch @param {Settings} settings
   * @returns {Promise<Record<string, number>>} `loss` and `loss.<task>`, before the step
   * @throws {DivergedError}
   */
  async step({ inputs, targets, sampleWeight }, settings) {
    const scalars = Object.entries(settings).map(([name, value]) => [name, tensor("float32", [], [value])]);
    const feeds = this.feeds({
      ...inputs,
      ...Object.fromEntries(Object.entries(targets).map(([task, target]) => [`target.${task}`, target])),
      sample_weight: sampleWeight,
      ...Object.fromEntries(scalars),
      ...Object.fromEntries(this.state),
    }, this.trainStep.inputNames);
    const outputs = await this.exclusively(() => this.trainStep.run(feeds));
    const losses = Object.fromEntries(
      Object.entries(outputs).filter(([name]) => name.startsWith("loss")).map(([name, loss]) => [name, loss.data[0]]));
    for (const [name, loss] of Object.entries(losses)) {
      if (!Number.isFinite(loss)) throw new DivergedError(`${name} is ${loss}`);
    }
    this.state = new Map([...this.state.keys()].map((name) => [name, fromOrt(outputs[`next.${name}`])]));
    return losses;
  }

  /** Say whether every number of the state is finite: the losses of a step are those before it. */
  isFinite() {
    return [...this.state.values()].every(({ dtype, data }) => !dtype.startsWith("float") || data.every(Number.isFinite));
  }

  /** Let `personal` predict with the parameters of the present state. */
  refresh() {
    return this.exclusively(async () => {
      const { ort, bundle, personal: old } = this;
      if (this.state === bundle.state) {
        this.personal = this.original;
      } else {
        const learnt = [...this.state].filter(([name]) => !name.startsWith("momentum."));
        const named = new Map(learnt.map(([name, value]) => [name.slice(name.indexOf(".") + 1), value]));
        // The runtime packs constant weights when it makes a session, so that new ones need a new session.
        this.personal = await ort.InferenceSession.create(withParameters(bundle.infer, named));
      }
      if (old !== this.original) await old.release();
    });
  }

  /** @param {Record<string, Tensor>} tensors @param {readonly string[]} names of a graph, which may not use all inputs */
  feeds(tensors, names) {
    return Object.fromEntries(Object.entries(tensors).filter(([name]) => names.includes(name)).map(
      ([name, { dtype, data, shape }]) => [name, new this.ort.Tensor(dtype, data, shape)]));
  }
}

/** @param {any} value of ONNX Runtime, whose types have numpy's names @returns {Tensor} */
const fromOrt = (value) => ({ dtype: value.type, shape: [...value.dims], data: value.data });
