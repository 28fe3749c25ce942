/**
 * Your own hands: what is played on the page's keyboard sounds, and becomes a beginning.
 * @module
 */

import { begin } from "./beginnings.js";
import { Keyboard } from "./keyboard.js";
import * as midi from "./midi.js";
import { by, complain, player, roll, say, show, state } from "./stage.js";
import { lengthOf } from "./words.js";

const LONGEST_PAUSE = 2; // seconds: a longer one counts as this

const keyboard = new Keyboard(by("piano"), keyDown, keyUp);
const own = { began: 0, last: 0, sounding: new Map(), release: new Map(), growing: 0 };

export function chooseOwn() {
  complain();
  begin({ kind: "own", name: "what was played.mid", title: "your own hands", bytes: null, notes: [] }, "own");
  say("Play on the keyboard below.");
  own.sounding.clear();
  by("own-panel").scrollIntoView({ block: "nearest" });
  keyboard.take(); // so that letters play at once
}

function keyDown(pitch, velocity) {
  own.release.get(pitch)?.();
  own.release.set(pitch, player.touch(pitch, velocity));
  if (state.seed.kind !== "own" || state.take) return; // only playing along
  const now = performance.now() / 1000;
  if (!state.seed.notes.length) own.began = own.last = now;
  own.began += Math.max(0, now - own.last - LONGEST_PAUSE);
  own.last = now;
  const start = Math.round((now - own.began) * 1000) / 1000;
  const note = { pitch, velocity, start, end: start + 0.1 };
  own.sounding.set(pitch, note);
  own.growing ||= setInterval(grow, 60);
  played([...state.seed.notes, note]);
}

/** What is held gets longer before one's eyes. */
function grow() {
  const now = performance.now() / 1000 - own.began;
  for (const note of own.sounding.values()) note.end = Math.max(note.end, now);
  if (own.sounding.size && state.seed.kind === "own" && !state.take) {
    show();
  } else {
    clearInterval(own.growing);
    own.growing = 0;
  }
}

function keyUp(pitch) {
  own.release.get(pitch)?.();
  own.release.delete(pitch);
  const note = own.sounding.get(pitch);
  own.sounding.delete(pitch);
  if (!note || state.seed.kind !== "own" || state.take || !state.seed.notes.includes(note)) return;
  own.last = performance.now() / 1000;
  note.end = Math.max(note.start + 0.05, Math.round((own.last - own.began) * 1000) / 1000);
  played([...state.seed.notes]);
}

/** @param {import("./words.js").Note[]} all */
function played(all) {
  state.seed = { ...state.seed, notes: all, bytes: midi.write(all) };
  show();
  roll.reveal(lengthOf(all));
}

/** The buttons around the keys. */
export function listen() {
  by("own").addEventListener("click", chooseOwn);
  by("own-again").addEventListener("click", chooseOwn);
  by("lower").addEventListener("click", () => keyboard.shift(-1));
  by("higher").addEventListener("click", () => keyboard.shift(1));
}
