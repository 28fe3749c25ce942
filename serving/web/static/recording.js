/**
 * Records what is played on the page's keyboard, as a seed. Does not know how keys are drawn or how sound is synthesised.
 * @module
 */

import { lengthOf } from "./format.js";
import { Keyboard } from "./keyboard.js";
import * as midi from "./midi.js";
import { setSeed } from "./seeds.js";
import { byId, player, roll, show, showError, showStatus, state } from "./view.js";

const MAX_PAUSE = 2; // seconds: a longer pause is recorded as this one
const REDRAW = 60; // milliseconds between two pictures of notes that are held

const keyboard = new Keyboard(byId("piano"), keyDown, keyUp);
/** startedAt and lastEvent in seconds of performance.now(); both maps by pitch: notes that are held, functions that end a sound. */
const recording = { startedAt: 0, lastEvent: 0, held: new Map(), releases: new Map(), timer: 0 };

/** Begin a new recording. */
export function chooseOwn() {
  showError();
  setSeed({ kind: "own", name: "what was played.mid", title: "your own hands", bytes: null, notes: [] }, "own");
  showStatus("Play on the keyboard below.");
  recording.held.clear();
  byId("own-panel").scrollIntoView({ block: "nearest" });
  keyboard.takeFocus(); // so that letters play at once
}

function keyDown(pitch, velocity) {
  recording.releases.get(pitch)?.();
  recording.releases.set(pitch, player.playKey(pitch, velocity));
  if (state.seed.kind !== "own" || state.take) return; // played, but not recorded
  const now = performance.now() / 1000;
  if (!state.seed.notes.length) recording.startedAt = recording.lastEvent = now;
  recording.startedAt += Math.max(0, now - recording.lastEvent - MAX_PAUSE);
  recording.lastEvent = now;
  const start = Math.round((now - recording.startedAt) * 1000) / 1000;
  const note = { pitch, velocity, start, end: start + 0.1 };
  recording.held.set(pitch, note);
  recording.timer ||= setInterval(extendHeldNotes, REDRAW);
  setNotes([...state.seed.notes, note]);
}

/** Let notes that are held end now, so that one sees them grow; stop the timer when none is held. */
function extendHeldNotes() {
  const now = performance.now() / 1000 - recording.startedAt;
  for (const note of recording.held.values()) note.end = Math.max(note.end, now);
  if (recording.held.size && state.seed.kind === "own" && !state.take) {
    show();
  } else {
    clearInterval(recording.timer);
    recording.timer = 0;
  }
}

function keyUp(pitch) {
  recording.releases.get(pitch)?.();
  recording.releases.delete(pitch);
  const note = recording.held.get(pitch);
  recording.held.delete(pitch);
  if (!note || state.seed.kind !== "own" || state.take || !state.seed.notes.includes(note)) return;
  recording.lastEvent = performance.now() / 1000;
  note.end = Math.max(note.start + 0.05, Math.round((recording.lastEvent - recording.startedAt) * 1000) / 1000);
  setNotes([...state.seed.notes]);
}

/** @param {import("./format.js").Note[]} notes */
function setNotes(notes) {
  state.seed = { ...state.seed, notes, bytes: midi.write(notes) };
  show();
  roll.scrollTo(lengthOf(notes));
}

export function addListeners() {
  byId("own").addEventListener("click", chooseOwn);
  byId("own-again").addEventListener("click", chooseOwn);
  byId("lower").addEventListener("click", () => keyboard.shift(-1));
  byId("higher").addEventListener("click", () => keyboard.shift(1));
}
