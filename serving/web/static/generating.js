/**
 * Generates takes from a seed and settings, and chooses which take is shown. Does not know how takes are drawn or played.
 * @module
 */

import * as api from "./api.js";
import { clock, lengthOf, plural } from "./format.js";
import * as midi from "./midi.js";
import * as settings from "./settings.js";
import { updateAddress } from "./sharing.js";
import { byId, player, reportError, roll, show, showError, showStatus, shownNotes, state, stop, takeList } from "./view.js";

/** @typedef {import("./takes.js").Seed} Seed */
/** @typedef {import("./takes.js").Take} Take */

const ENDING = 20; // seconds
const LEAD_IN = 3; // seconds of the seed that are played before a take

/**
 * Generate a take, and show each note when it comes.
 * @param {Seed} seed @param {import("./api.js").Settings} values
 * @param {{aloud: boolean}} options aloud: play it at once, too
 */
export async function generate(seed, values, { aloud }) {
  showError();
  stop();
  const generation = new AbortController();
  /** @type {Take} */
  const take = { number: ++state.takeCount, seed, settings: { ...values }, model: "", notes: [], state: "generating" };
  state.generation = generation;
  state.seed = seed;
  state.take = take;
  state.takes.push(take);
  takeList.add(take);
  byId("takes-section").hidden = false;
  byId("generate").textContent = "Stop";
  byId("generate").classList.add("busy");
  player.pause();
  const from = Math.max(0, lastOnset(seed.notes) - LEAD_IN);
  player.music = { notes: seed.notes, growing: true, length: lengthOf(seed.notes) };
  player.seek(from);
  show();
  roll.scrollTo(player.position);
  showStatus(`Take ${take.number} is being made …`);
  if (aloud) player.play(from);
  try {
    take.state = await api.generate(seed.bytes, values, {
      signal: generation.signal,
      onStart: (model, randomSeed) => {
        take.model = model;
        take.settings.random_seed = randomSeed;
      },
      onNotes: (notes) => {
        take.notes.push(...notes);
        takeList.update(take);
        if (state.take === take) show();
      },
    });
  } catch (error) {
    take.state = error.name === "AbortError" ? "stopped" : "broken";
    take.settings.notes = take.notes.length; // a download or a link asks for these notes only
    if (take.state === "broken") reportError(error);
  }
  if (state.generation === generation) {
    state.generation = null;
    byId("generate").textContent = "Generate";
    byId("generate").classList.remove("busy");
  }
  takeList.update(take);
  if (!state.generation && (take.notes.length || take.state === "final")) showStatus(summaryOf(take));
  if (!take.notes.length) return remove(take);
  if (state.take === take) updateAddress(take);
  show();
}

/** Say in a sentence how a take ended. @param {Take} take */
function summaryOf(take) {
  const what = `${plural(take.notes.length, "note")}, ${clock(lengthOf([...take.seed.notes, ...take.notes]))} in all`;
  if (take.state === "stopped") return `Take ${take.number} was stopped: ${what}.`;
  if (take.state === "broken") return `Take ${take.number} broke off: ${what}.`;
  return take.notes.length ? `Take ${take.number} is ready: ${what}.` : "The model says: the piece ends here.";
}

function lastOnset(notes) {
  return notes.length ? notes[notes.length - 1].start : 0;
}

/** Generate what comes after the playhead. */
export function continueHere() {
  const values = settings.read();
  if (!values) return;
  const { position } = player;
  const all = shownNotes();
  const notes = midi.notesBefore(all, position);
  if (!notes.length) return;
  const wholeSeed = notes.length === all.length && !state.take;
  const title = `${state.take ? `take ${state.take.number}` : state.seed.title} up to ${clock(position)}`;
  const name = `cadenza-to-${clock(position).replace(":", "-")}.mid`;
  const seed = wholeSeed ? state.seed : { kind: "midi", name, title, bytes: midi.write(notes), notes };
  generate(seed, values, { aloud: true });
}

/** Generate an ending for all that is shown, some seconds long. */
export function bringToAnEnd() {
  const end = lengthOf(shownNotes());
  settings.fill({ seconds: Math.ceil(end + ENDING) });
  player.seek(end);
  continueHere();
}

/** Show another take. The position stays the same, so that takes can be compared. @param {Take} take */
export function choose(take) {
  const { position } = player;
  const otherSeed = state.seed !== take.seed;
  state.seed = take.seed;
  state.take = take;
  show();
  if (position > player.available) player.seek(player.available);
  if (otherSeed) roll.reveal(player.position);
  if (take.state !== "generating") updateAddress(take);
}

/** @param {Take} take */
export function remove(take) {
  if (take.state === "generating") stop();
  state.takes = state.takes.filter((other) => other !== take);
  takeList.remove(take);
  byId("takes-section").hidden = !state.takes.length;
  if (state.take === take) {
    player.pause();
    state.take = null;
  }
  show();
}
