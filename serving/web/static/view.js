/**
 * The page's state (a seed, perhaps a take) and what shows and plays it: player, roll, list of takes, messages. Does not
 * know where seeds and takes come from.
 * @module
 */

import { Problem } from "./api.js";
import { Player } from "./player.js";
import { Roll } from "./roll.js";
import { TakeList, colourOf, create } from "./takes.js";
import { clock, lengthOf, noteName, plural, summary } from "./format.js";

/** @typedef {import("./takes.js").Seed} Seed */
/** @typedef {import("./takes.js").Take} Take */

const TABLE_ROWS = 1000; // at most
/** @type {Seed} */
export const NOTHING = { kind: "nothing", name: "", title: "nothing", bytes: null, notes: [] };

export const byId = (id) => document.getElementById(id);

/** @type {{seed: Seed, take: Take|null, takes: Take[], takeCount: number, generation: AbortController|null}} */
export const state = { seed: NOTHING, take: null, takes: [], takeCount: 0, generation: null };

export const player = new Player((event, detail) => (event === "problem" ? showError(detail) : showPlayer()));
export const roll = new Roll(byId("roll"), byId("overview-canvas"), (seconds) => seek(seconds));
export const takeList = new TakeList(byId("takes"));

/** The notes of the seed and of the take that is shown. */
export function shownNotes() {
  return state.take ? [...state.seed.notes, ...state.take.notes] : state.seed.notes;
}

/** Give seed and take to the player, the roll, the table and the list of takes. */
export function show() {
  const all = shownNotes();
  const growing = state.take?.state === "generating";
  const length = lengthOf(all);
  player.load({ notes: all, growing, length });
  roll.show({ notes: all, seed: state.seed.notes.length, colour: colourOf(state.take), length, growing });
  const parts = [];
  if (state.seed.notes.length) parts.push(`the beginning: ${summary(state.seed.notes)}`);
  if (state.take) parts.push(`take ${state.take.number}: ${summary(state.take.notes)}`);
  byId("roll").setAttribute("aria-label", `Piano roll. ${parts.join("; ") || "Nothing yet"}.`);
  byId("length").textContent = clock(length);
  if (byId("table").open) showTable();
  takeList.highlight(state.take);
  showPlayer();
}

export function showPlayer() {
  const { position } = player;
  const length = player.music.length;
  const button = byId("play");
  button.setAttribute("aria-label", player.playing ? "Pause" : "Play");
  button.querySelector("use").setAttribute("href", player.playing ? "#i-pause" : "#i-play");
  button.disabled = !length && !player.music.growing;
  byId("now").textContent = clock(position);
  const overview = byId("overview");
  overview.setAttribute("aria-valuemax", length.toFixed(1));
  overview.setAttribute("aria-valuenow", position.toFixed(1));
  overview.setAttribute("aria-valuetext", `${clock(position)} of ${clock(length)}`);
  byId("continue").disabled = Boolean(state.generation) || !player.music.notes.some((note) => note.start < position);
  byId("continue").textContent = `Continue from ${clock(position)}`;
  roll.setPosition(position, player.playing);
  if (player.playing && !showPlayer.frame) {
    showPlayer.frame = requestAnimationFrame(() => {
      showPlayer.frame = undefined;
      showPlayer();
    });
  }
}

export function seek(seconds) {
  player.seek(seconds);
  roll.scrollTo(player.position);
}

export function showTable() {
  const body = byId("table-body");
  const table = create("table", {});
  const head = table.createTHead().insertRow();
  for (const title of ["Second", "Note", "Lasts", "Loudness", "Part"]) head.append(create("th", { scope: "col", textContent: title }));
  const rows = table.createTBody();
  const all = shownNotes();
  for (const [index, note] of all.slice(0, TABLE_ROWS).entries()) {
    const row = rows.insertRow();
    const part = index < state.seed.notes.length ? "beginning" : `take ${state.take.number}`;
    for (const text of [note.start.toFixed(2), noteName(note.pitch), (note.end - note.start).toFixed(2), note.velocity, part]) {
      row.insertCell().textContent = String(text);
    }
  }
  const rest = all.length - TABLE_ROWS;
  body.replaceChildren(table, ...(rest > 0 ? [create("p", { textContent: `… and ${plural(rest, "note")} more.` })] : []));
}

// Messages

export function showStatus(text) {
  byId("status").textContent = text;
}

/** Show an error message; without a text, hide the last one. */
export function showError(text) {
  byId("message").hidden = !text;
  byId("message").textContent = text ?? "";
}

/** Show an error; one that is not a Problem is a bug, and goes to the console, too. @param {Error} error */
export function reportError(error) {
  if (!(error instanceof Problem)) console.error(error);
  showError(error.message);
  showStatus("");
}

/** Stop the take that is being generated. */
export function stop() {
  state.generation?.abort();
}
