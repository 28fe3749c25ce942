/**
 * What is on the stage: a beginning, perhaps a take, and everybody who shows or plays them. Knows nothing of where they
 * come from.
 * @module
 */

import { Problem } from "./api.js";
import { Player } from "./player.js";
import { Roll } from "./roll.js";
import { Cards, colourOf, make } from "./takes.js";
import { clock, lengthOf, many, noteName, summary } from "./words.js";

/** @typedef {import("./takes.js").Seed} Seed */
/** @typedef {import("./takes.js").Take} Take */

const ROWS = 1000; // of the table
/** @type {Seed} */
export const NOTHING = { kind: "nothing", name: "", title: "nothing", bytes: null, notes: [] };

export const by = (id) => document.getElementById(id);

/** @type {{seed: Seed, take: Take|null, takes: Take[], made: number, making: AbortController|null}} */
export const state = { seed: NOTHING, take: null, takes: [], made: 0, making: null };

export const player = new Player((what, detail) => (what === "problem" ? complain(detail) : showPlayer()));
export const roll = new Roll(by("roll"), by("overview-canvas"), (seconds) => seek(seconds));
export const cards = new Cards(by("takes"));

export function notes() {
  return state.take ? [...state.seed.notes, ...state.take.notes] : state.seed.notes;
}

/** Show seed and take everywhere, and let the player know. */
export function show() {
  const all = notes();
  const growing = state.take?.state === "growing";
  const length = lengthOf(all);
  player.load({ notes: all, growing, length });
  roll.show({ notes: all, seed: state.seed.notes.length, colour: colourOf(state.take), length, growing });
  const parts = [];
  if (state.seed.notes.length) parts.push(`the beginning: ${summary(state.seed.notes)}`);
  if (state.take) parts.push(`take ${state.take.number}: ${summary(state.take.notes)}`);
  by("roll").setAttribute("aria-label", `Piano roll. ${parts.join("; ") || "Nothing yet"}.`);
  by("length").textContent = clock(length);
  if (by("table").open) showTable();
  cards.mark(state.take);
  showPlayer();
}

export function showPlayer() {
  const at = player.position;
  const length = player.music.length;
  const button = by("play");
  button.setAttribute("aria-label", player.playing ? "Pause" : "Play");
  button.querySelector("use").setAttribute("href", player.playing ? "#i-pause" : "#i-play");
  button.disabled = !length && !player.music.growing;
  by("now").textContent = clock(at);
  const overview = by("overview");
  overview.setAttribute("aria-valuemax", length.toFixed(1));
  overview.setAttribute("aria-valuenow", at.toFixed(1));
  overview.setAttribute("aria-valuetext", `${clock(at)} of ${clock(length)}`);
  by("continue").disabled = Boolean(state.making) || !player.music.notes.some((note) => note.start < at);
  by("continue").textContent = `Continue from ${clock(at)}`;
  roll.at(at, player.playing);
  if (player.playing && !showPlayer.frame) {
    showPlayer.frame = requestAnimationFrame(() => {
      showPlayer.frame = undefined;
      showPlayer();
    });
  }
}

export function seek(seconds) {
  player.seek(seconds);
  roll.reveal(player.position);
}

export function showTable() {
  const body = by("table-body");
  const table = make("table", {});
  const head = table.createTHead().insertRow();
  for (const title of ["Second", "Note", "Lasts", "Loudness", "Part"]) head.append(make("th", { scope: "col", textContent: title }));
  const rows = table.createTBody();
  const all = notes();
  for (const [at, note] of all.slice(0, ROWS).entries()) {
    const row = rows.insertRow();
    const part = at < state.seed.notes.length ? "beginning" : `take ${state.take.number}`;
    for (const text of [note.start.toFixed(2), noteName(note.pitch), (note.end - note.start).toFixed(2), note.velocity, part]) {
      row.insertCell().textContent = String(text);
    }
  }
  const rest = all.length - ROWS;
  body.replaceChildren(table, ...(rest > 0 ? [make("p", { textContent: `… and ${many(rest, "note")} more.` })] : []));
}

// What we say

export function say(text) {
  by("status").textContent = text;
}

/** Say what went wrong; nothing: all is well. */
export function complain(text) {
  by("message").hidden = !text;
  by("message").textContent = text ?? "";
}

/** What went wrong, in words; what nobody foresaw goes to the console, too. @param {Error} error */
export function failed(error) {
  if (!(error instanceof Problem)) console.error(error);
  complain(error.message);
  say("");
}

/** Let what is being made end here. */
export function stop() {
  state.making?.abort();
}
