/**
 * Beginnings: one of the server's, a file, or nothing. Knows nothing of how one is continued.
 * @module
 */

import * as api from "./api.js";
import { NOTHING, by, complain, failed, player, roll, say, show, state, stop } from "./stage.js";
import { many } from "./words.js";

/** @typedef {import("./takes.js").Seed} Seed */

const LARGEST = Number(by("seed").dataset.bytes);
let asked = 0; // a beginning that comes after another one was asked for is not wanted any more

/** @param {Seed} seed @param {string} choice id or example that is pressed in the page */
export function begin(seed, choice) {
  asked++;
  stop();
  player.pause();
  state.seed = seed;
  state.take = null;
  for (const button of by("choices").querySelectorAll("[aria-pressed]")) {
    button.setAttribute("aria-pressed", String((button.dataset.example ?? button.id) === choice));
  }
  by("file-choice").classList.toggle("chosen", choice === "file");
  by("own-panel").hidden = choice !== "own";
  player.seek(0);
  show();
  roll.reveal(0);
}

/**
 * Let a MIDI file be the beginning; true where it is.
 * @param {Uint8Array|Promise<Uint8Array>} file @param {Omit<Seed, "bytes"|"notes">} facts @param {string} choice
 */
export async function read(file, facts, choice) {
  const mine = ++asked;
  say("Reading …");
  try {
    const bytes = await file;
    const { notes, drums } = await api.readNotes(bytes);
    if (mine !== asked) return false;
    begin({ ...facts, bytes, notes }, choice);
    say(`${facts.title}: ${many(notes.length, "note")}${drums ? `; ${many(drums, "drum stroke")} left out` : ""}.`);
    return true;
  } catch (error) {
    if (mine === asked) failed(error);
    return false;
  }
}

/** @param {string} name @param {string} title */
export function chooseExample(name, title) {
  complain();
  return read(api.example(name), { kind: "example", name, title }, name);
}

/** @param {File|undefined} file */
export async function chooseFile(file) {
  complain();
  if (!file) return;
  if (file.size > LARGEST) {
    complain(`${file.name} is too large: ${(file.size / 2 ** 20).toFixed(1)} MB, and the server takes ${LARGEST / 2 ** 20}.`);
    return;
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  await read(bytes, { kind: "midi", name: file.name, title: file.name.replace(/\.midi?$/i, "") }, "file");
}

export function chooseNothing() {
  complain();
  begin(NOTHING, "nothing");
  say("A new piece will begin.");
}

/** What the page calls one of the server's beginnings. @param {string} name */
export function titleOf(name) {
  return document.querySelector(`[data-example="${CSS.escape(name)}"] b`)?.textContent ?? name;
}
