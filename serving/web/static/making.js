/**
 * A beginning and settings → a take, which is seen and heard while it is made; and which take is on the stage.
 * @module
 */

import * as api from "./api.js";
import * as midi from "./midi.js";
import * as settings from "./settings.js";
import { remember } from "./sharing.js";
import { by, cards, complain, failed, notes, player, roll, say, show, state, stop } from "./stage.js";
import { clock, lengthOf, many } from "./words.js";

/** @typedef {import("./takes.js").Seed} Seed */
/** @typedef {import("./takes.js").Take} Take */

const RUN_UP = 3; // seconds of the beginning that are heard before a take

/** @param {Seed} seed @param {import("./api.js").Settings} how @param {{aloud: boolean}} options */
export async function generate(seed, how, { aloud }) {
  complain();
  stop();
  const making = new AbortController();
  /** @type {Take} */
  const take = { number: ++state.made, seed, settings: { ...how }, model: "", notes: [], state: "growing" };
  state.making = making;
  state.seed = seed;
  state.take = take;
  state.takes.push(take);
  cards.add(take);
  by("takes-section").hidden = false;
  by("generate").textContent = "Stop";
  by("generate").classList.add("busy");
  player.pause();
  const from = Math.max(0, lengthUpTo(seed.notes) - RUN_UP);
  player.music = { notes: seed.notes, growing: true, length: lengthOf(seed.notes) };
  player.seek(from);
  show();
  roll.reveal(player.position);
  say(`Take ${take.number} is being made …`);
  if (aloud) player.play(from);
  try {
    take.state = await api.generate(seed.bytes, how, {
      signal: making.signal,
      opened: (model, randomSeed) => {
        take.model = model;
        take.settings.random_seed = randomSeed;
      },
      came: (more) => {
        take.notes.push(...more);
        cards.update(take);
        if (state.take === take) show();
      },
    });
  } catch (error) {
    take.state = error.name === "AbortError" ? "stopped" : "broken";
    take.settings.notes = take.notes.length; // what there is of it can be made again
    if (take.state === "broken") failed(error);
  }
  if (state.making === making) {
    state.making = null;
    by("generate").textContent = "Generate";
    by("generate").classList.remove("busy");
  }
  cards.update(take);
  if (!state.making && (take.notes.length || take.state === "final")) say(finished(take));
  if (!take.notes.length) return remove(take);
  if (state.take === take) remember(take);
  show();
}

/** @param {Take} take */
function finished(take) {
  const what = `${many(take.notes.length, "note")}, ${clock(lengthOf([...take.seed.notes, ...take.notes]))} in all`;
  if (take.state === "stopped") return `Take ${take.number} was stopped: ${what}.`;
  if (take.state === "broken") return `Take ${take.number} broke off: ${what}.`;
  return take.notes.length ? `Take ${take.number} is ready: ${what}.` : "The model says: the piece ends here.";
}

function lengthUpTo(all) {
  return all.length ? all[all.length - 1].start : 0;
}

/** Generate what comes after the playhead. */
export function continueHere() {
  const how = settings.read();
  if (!how) return;
  const at = player.position;
  const all = notes();
  const kept = midi.before(all, at);
  if (!kept.length) return;
  const whole = kept.length === all.length && !state.take;
  const title = `${state.take ? `take ${state.take.number}` : state.seed.title} up to ${clock(at)}`;
  const name = `cadenza-to-${clock(at).replace(":", "-")}.mid`;
  const seed = whole ? state.seed : { kind: "midi", name, title, bytes: midi.write(kept), notes: kept };
  generate(seed, how, { aloud: true });
}

/** Show another take; the position stays, so that one can compare. @param {Take} take */
export function choose(take) {
  const at = player.position;
  const another = state.seed !== take.seed;
  state.seed = take.seed;
  state.take = take;
  show();
  if (at > player.known) player.seek(player.known);
  if (another) roll.reveal(player.position);
  if (take.state !== "growing") remember(take);
}

/** @param {Take} take */
export function remove(take) {
  if (take.state === "growing") stop();
  state.takes = state.takes.filter((other) => other !== take);
  cards.remove(take);
  by("takes-section").hidden = !state.takes.length;
  if (state.take === take) {
    player.pause();
    state.take = null;
  }
  show();
}
