/**
 * Writes notes as a Standard MIDI File with ticks of 1 ms, as the server does. Does not read files: POST /notes does.
 * @module
 */

/** @typedef {import("./format.js").Note} Note */

const TICKS_PER_QUARTER = 500;
const HEADER = [...ascii("MThd"), 0, 0, 0, 6, 0, 0, 0, 1, TICKS_PER_QUARTER >> 8, TICKS_PER_QUARTER & 255];
const TEMPO = [0, 0xff, 0x51, 3, 0x07, 0xa1, 0x20]; // 500,000 microseconds a quarter: a tick is a millisecond
const END = [0, 0xff, 0x2f, 0];
const NOTE_ON = 0x90;
const NOTE_OFF = 0x80;

/** @param {Note[]} notes sorted by start @returns {Uint8Array} */
export function write(notes) {
  const track = [...TEMPO];
  let tick = 0;
  for (const event of events(notes)) {
    track.push(...variableLength(event.tick - tick), event.kind, event.pitch, event.velocity);
    tick = event.tick;
  }
  track.push(...END);
  const size = [24, 16, 8, 0].map((shift) => (track.length >> shift) & 255);
  return Uint8Array.from([...HEADER, ...ascii("MTrk"), ...size, ...track]);
}

/** The notes that begin before a position; they keep their ends. @param {Note[]} notes @param {number} position seconds */
export function notesBefore(notes, position) {
  return notes.filter((note) => note.start < position);
}

/** Note-on and note-off events in order. A note ends before the next one of its pitch begins: MIDI allows no overlap. */
function events(notes) {
  const all = [];
  const nextOnsets = new Map(); // pitch: tick of its next note-on
  for (const note of [...notes].reverse()) {
    const on = Math.round(note.start * 1000);
    const nextOnset = nextOnsets.get(note.pitch) ?? Infinity;
    const off = Math.max(on + 1, Math.min(Math.round(note.end * 1000), nextOnset > on ? nextOnset : Infinity));
    nextOnsets.set(note.pitch, on);
    all.push({ tick: on, kind: NOTE_ON, pitch: note.pitch, velocity: Math.max(1, note.velocity) });
    all.push({ tick: off, kind: NOTE_OFF, pitch: note.pitch, velocity: 64 });
  }
  return all.sort((a, b) => a.tick - b.tick || a.kind - b.kind || a.pitch - b.pitch);
}

/** A number as MIDI's variable-length quantity: seven bits a byte, the highest first. */
function variableLength(value) {
  const bytes = [value & 127];
  while ((value >>= 7)) bytes.unshift((value & 127) | 128);
  return bytes;
}

function ascii(text) {
  return [...text].map((letter) => letter.charCodeAt(0));
}
