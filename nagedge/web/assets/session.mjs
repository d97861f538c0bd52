/**
 * What a person and the model did so far: examples, weights, losses and times. It is kept by the browser; nothing here
 * needs a document.
 *
 * @typedef {import("./lesson.mjs").Example} Example
 * @typedef {import("./examples_view.mjs").Decisions} Decisions
 */

import { answers, decisions, learn } from "./lesson.mjs";
import { packState, unpackState } from "./personal.mjs";
import { forget, load, save } from "./storage.mjs";

const MOST_KEPT = 2000;

export class Session {
  /** @param {import("./learner.mjs").Learner} learner */
  constructor(learner) {
    this.learner = learner;
    /** @type {Example[]} */
    this.examples = [];
    /** One entry a step, the newest last. @type {Record<string, number>[]} */
    this.losses = [];
    /** Milliseconds of the steps since the page was opened. @type {number[]} */
    this.times = [];
    /** Steps that the weights have learnt. */
    this.steps = 0;
    /** What the exported model says of the examples. @type {{of: Example[]|null, said: Decisions}} */
    this.asExported = { of: null, said: {} };
  }

  /** What the exported model and the present one say of the examples. @returns {Promise<{before: Decisions, now: Decisions}>} */
  async decisions() {
    const { examples, learner } = this;
    const { manifest } = learner.bundle;
    if (this.asExported.of !== examples) {
      this.asExported = { of: examples, said: decisions(manifest, await answers(learner, examples, "original")) };
    }
    return { before: this.asExported.said, now: decisions(manifest, await answers(learner, examples)) };
  }

  /**
   * @param {{steps: number, batch: number, settings: import("./learner.mjs").Settings}} how
   * @param {() => Promise<boolean>} after is called after every step and says whether to go on
   * @returns {Promise<number>} the steps that were learnt
   * @throws {Error} and then weights, losses and steps are those before the lesson
   */
  async lesson(how, after) {
    const { losses, steps } = this;
    try {
      await learn(this.learner, this.examples, { ...how, seed: steps }, async (loss, ms) => {
        this.losses = [...this.losses, loss].slice(-MOST_KEPT);
        this.times = [...this.times, ms].slice(-MOST_KEPT);
        this.steps += 1;
        return after();
      });
    } catch (error) {
      [this.losses, this.steps] = [losses, steps];
      throw error;
    } finally {
      await this.learner.refresh();
    }
    return this.steps - steps;
  }

  /** The personal weights as a file. */
  weights() {
    return packState(this.learner.bundle, this.learner.state, this.steps);
  }

  /** Go on from personal weights. @param {Uint8Array} file @throws {Error} and then nothing has changed */
  async useWeights(file) {
    const { state, steps } = unpackState(this.learner.bundle, file);
    this.learner.state = state;
    [this.steps, this.losses, this.times] = [steps, [], []];
    await this.learner.refresh();
  }

  /** Let the browser keep everything. @throws {Error} when it cannot */
  async save() {
    const { examples, losses, learner } = this;
    await save({ identity: learner.bundle.identity, weights: this.weights(), examples, losses });
  }

  /** Go on from what the browser kept, if it kept something. @throws {Error} when that cannot be used */
  async restore() {
    const kept = await load(this.learner.bundle.identity);
    if (kept === undefined) return;
    const { state, steps } = unpackState(this.learner.bundle, kept.weights);
    if (steps > 0) this.learner.state = state;
    [this.steps, this.examples, this.losses] = [steps, kept.examples, kept.losses];
    await this.learner.refresh();
  }

  /** Forget everything, in the browser too. */
  async reset() {
    this.learner.state = this.learner.bundle.state;
    [this.examples, this.losses, this.times, this.steps] = [[], [], [], 0];
    await this.learner.refresh();
    await forget(this.learner.bundle.identity).catch(() => undefined); // a browser that keeps nothing has nothing to forget
  }
}
