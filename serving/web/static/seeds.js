/**
 * Chooses the seed: one of the server's examples, a file, or nothing. Does not know how a seed is continued.
 * @module
 */

import * as api from "./api.js";
import { plural } from "./format.js";
import { NOTHING, byId, player, reportError, roll, show, showError, showStatus, state, stop } from "./view.js";

/** @typedef {import("./takes.js").Seed} Seed */

const MAX_BYTES = Number(byId("seed").dataset.bytes);
let latestRead = 0; // a file that is read only after the next one was chosen is ignored

/** Make this the seed, and show no take. @param {Seed} seed @param {string} choice the pressed button's id or example */
export function setSeed(seed, choice) {
  latestRead++;
  stop();
  player.pause();
  state.seed = seed;
  state.take = null;
  for (const button of byId("choices").querySelectorAll("[aria-pressed]")) {
    button.setAttribute("aria-pressed", String((button.dataset.example ?? button.id) === choice));
  }
  byId("file-choice").classList.toggle("chosen", choice === "file");
  byId("own-panel").hidden = choice !== "own";
  player.seek(0);
  show();
  roll.scrollTo(0);
}

/**
 * Read a MIDI or MusicXML file and make it the seed.
 * @param {Uint8Array|Promise<Uint8Array>} file @param {Omit<Seed, "bytes"|"notes">} description @param {string} choice
 * @returns {Promise<boolean>} whether it is the seed now
 */
export async function readSeed(file, description, choice) {
  const thisRead = ++latestRead;
  showStatus("Reading …");
  try {
    const bytes = await file;
    const contents = await api.readNotes(bytes);
    if (thisRead !== latestRead) return false;
    setSeed({ ...description, bytes, notes: contents.notes }, choice);
    showStatus(`${description.title}: ${contentsLine(contents)}.${damageLine(contents)}`);
    return true;
  } catch (error) {
    if (thisRead === latestRead) reportError(error);
    return false;
  }
}

/** What is in a file: "20 notes; 2 drum strokes left out". */
function contentsLine({ notes, drums, unheard_notes: unheard }) {
  const parts = [plural(notes.length, "note")];
  if (drums) parts.push(`${plural(drums, "drum stroke")} left out`);
  if (unheard) parts.push(`the model does not know the pitch of ${plural(unheard, "note")}, and continues the others`);
  return parts.join("; ");
}

/** What is damaged in a file, in a sentence, without the places in the file. */
function damageLine({ warnings = [] }) {
  if (!warnings.length) return "";
  const shown = warnings.slice(0, 3).map((warning) => warning.replace(/^(track [\d,]+, )?byte [\d,]+: /, ""));
  const more = warnings.length > shown.length ? `; and ${warnings.length - shown.length} more` : "";
  return ` The file is damaged or incomplete: ${shown.join("; ")}${more}.`;
}

/** @param {string} name @param {string} title */
export function chooseExample(name, title) {
  showError();
  return readSeed(api.example(name), { kind: "example", name, title }, name);
}

/** @param {File|undefined} file */
export async function chooseFile(file) {
  showError();
  if (!file) return;
  if (file.size > MAX_BYTES) {
    showError(`${file.name} is too large: ${(file.size / 2 ** 20).toFixed(1)} MB, and the server takes ${MAX_BYTES / 2 ** 20}.`);
    return;
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  await readSeed(bytes, { kind: "midi", name: file.name, title: file.name.replace(/\.(midi?|musicxml|mxl)$/i, "") }, "file");
}

export function chooseNothing() {
  showError();
  setSeed(NOTHING, "nothing");
  showStatus("A new piece will begin.");
}

/** The title that the page shows for one of the server's examples. @param {string} name */
export function exampleTitle(name) {
  return document.querySelector(`[data-example="${CSS.escape(name)}"] b`)?.textContent ?? name;
}
