/**
 * Turns numbers and notes into text for people. Does not know where the text is shown.
 * @module
 */

/** @typedef {{pitch: number, start: number, end: number, velocity: number}} Note  seconds; MIDI numbers */

const LETTERS = ["C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B"];
const SPOKEN = ["C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B"];

/** Minutes and seconds: 61.4 is "1:01". @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** "B♭3". @param {number} pitch */
export function noteName(pitch) {
  return LETTERS[pitch % 12] + (Math.floor(pitch / 12) - 1);
}

/** "B flat 3", for a screen reader. @param {number} pitch */
export function spokenName(pitch) {
  return `${SPOKEN[pitch % 12]} ${Math.floor(pitch / 12) - 1}`;
}

/** "1 note", "2 notes". @param {number} count @param {string} noun */
export function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** The end of the note that ends last, in seconds. @param {Note[]} notes */
export function lengthOf(notes) {
  return notes.reduce((longest, note) => Math.max(longest, note.end), 0);
}

/** "3 notes from 0:00 to 0:02, between C 4 and G 4". @param {Note[]} notes */
export function summary(notes) {
  if (!notes.length) return "no notes";
  const pitches = notes.map((note) => note.pitch);
  const low = pitches.reduce((a, b) => Math.min(a, b));
  const high = pitches.reduce((a, b) => Math.max(a, b));
  return `${plural(notes.length, "note")} from ${clock(notes[0].start)} to ${clock(lengthOf(notes))}, between ${spokenName(low)} and ${spokenName(high)}`;
}

/** The settings of a take, without those that have no effect. @param {import("./api.js").Settings} settings */
export function settingsLine(settings) {
  const parts = [`temperature ${settings.temperature}`];
  if (settings.top_p !== 1) parts.push(`top-p ${settings.top_p}`);
  if (settings.min_p !== 0) parts.push(`min-p ${settings.min_p}`);
  if (settings.style !== null) parts.push(settings.style);
  if (settings.density !== null) parts.push(`${settings.density} notes a second`);
  if (settings.loudness !== null) parts.push(`velocity ${settings.loudness}`);
  if (settings.seconds !== null) parts.push(`to end at ${clock(settings.seconds)}`);
  if (settings.random_seed !== null) parts.push(`random seed ${settings.random_seed}`);
  return parts.join(" · ");
}
