/**
 * What a piano roll is made of, drawn with a pen on a canvas. Knows nothing of time passing or of who points where.
 * @module
 */

import { clock, noteName } from "./words.js";

/** @typedef {import("./words.js").Note} Note */

export const KEYS = 46; // pixels
export const RULER = 22;
const BLACK = new Set([1, 3, 6, 8, 10]);

/** Lanes of black keys, and a line below each C. */
export function paintLanes(pen, view, width, row, y) {
  for (let pitch = view.low; pitch <= view.high; pitch++) {
    if (BLACK.has(pitch % 12)) {
      pen.fillStyle = view.colour("--roll-lane");
      pen.fillRect(KEYS, y(pitch), width - KEYS, row);
    }
    if (pitch % 12 === 0) {
      pen.fillStyle = view.colour("--roll-line");
      pen.fillRect(KEYS, Math.round(y(pitch) + row) - 0.5, width - KEYS, 1);
    }
  }
}

/** Time, and a line for every so many seconds. */
export function paintRuler(pen, view, width, height, x) {
  pen.fillStyle = view.colour("--roll-ruler");
  pen.fillRect(0, 0, width, RULER);
  const step = [1, 2, 5, 10, 20, 30, 60].find((seconds) => (seconds / view.span) * view.width > 64) ?? 120;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  for (let second = Math.ceil(view.from / step) * step; second <= view.from + view.span; second += step) {
    pen.fillStyle = view.colour("--roll-line");
    pen.fillRect(Math.round(x(second)), RULER, 1, height);
    pen.fillStyle = view.colour("--quiet");
    pen.fillText(clock(second), x(second) + 4, RULER / 2);
  }
}

/** Where the beginning ends. */
export function paintSeam(pen, view, at, height) {
  pen.strokeStyle = view.colour("--quiet");
  pen.setLineDash([3, 4]);
  pen.beginPath();
  pen.moveTo(at - 1.5, RULER);
  pen.lineTo(at - 1.5, height);
  pen.stroke();
  pen.setLineDash([]);
}

/** The playhead's handle. */
export function paintHead(pen, view, at) {
  if (at < KEYS) return;
  pen.fillStyle = view.colour("--playhead");
  pen.beginPath();
  pen.moveTo(at - 6, RULER - 8);
  pen.lineTo(at + 6, RULER - 8);
  pen.lineTo(at, RULER);
  pen.fill();
}

/** The keys; those that sound in the colour of what sounds. */
export function paintKeys(pen, view, row, y, sounding) {
  const bottom = y(view.low) + row;
  pen.fillStyle = view.colour("--white-key");
  pen.fillRect(0, RULER, KEYS - 1, bottom - RULER);
  for (let pitch = view.low; pitch <= view.high; pitch++) {
    const black = BLACK.has(pitch % 12);
    if (!black && sounding.has(pitch)) {
      pen.fillStyle = sounding.get(pitch);
      pen.fillRect(0, y(pitch) - row * 0.25, KEYS - 1, row * 1.5);
    }
    if (!black && (pitch % 12 === 0 || pitch % 12 === 5)) {
      pen.fillStyle = view.colour("--key-line");
      pen.fillRect(0, Math.round(y(pitch) + row) - 0.5, KEYS - 1, 1);
    }
  }
  for (let pitch = view.low; pitch <= view.high; pitch++) {
    if (!BLACK.has(pitch % 12)) continue;
    pen.fillStyle = view.colour("--key-line");
    pen.fillRect(0, Math.round(y(pitch) + row / 2) - 0.5, KEYS - 1, 1);
    pen.fillStyle = sounding.get(pitch) ?? view.colour("--black-key");
    pen.fillRect(0, y(pitch), KEYS * 0.6, row);
  }
  pen.fillStyle = view.colour("--key-line");
  pen.fillRect(KEYS - 1, RULER, 1, bottom - RULER);
  pen.fillStyle = view.colour("--key-text");
  pen.font = "600 9px system-ui, sans-serif";
  pen.textBaseline = "alphabetic";
  pen.textAlign = "right";
  for (let pitch = Math.ceil(view.low / 12) * 12; pitch <= view.high; pitch += 12) {
    pen.fillText(noteName(pitch), KEYS - 5, y(pitch) + row - 1);
  }
  pen.textAlign = "left";
}

/**
 * A whole piece, small.
 * @param {CanvasRenderingContext2D} pen @param {number} width @param {number} height of what it draws on
 * @param {Note[]} notes @param {number} seconds @param {number} low @param {number} high
 * @param {(at: number) => string} colourOf
 */
export function paintSmall(pen, width, height, notes, seconds, low, high, colourOf) {
  pen.clearRect(0, 0, width, height);
  const tall = Math.max(1.5, (height - 4) / (high - low + 1));
  for (const [at, note] of notes.entries()) {
    pen.globalAlpha = 0.4 + 0.6 * Math.min(1, note.velocity / 110);
    pen.fillStyle = colourOf(at);
    const left = (note.start / seconds) * width;
    const top = 2 + ((high - note.pitch) / (high - low + 1)) * (height - 4);
    pen.fillRect(left, top, Math.max(1, ((note.end - note.start) / seconds) * width), tall);
  }
  pen.globalAlpha = 1;
}

/** A pen in CSS pixels on a canvas as sharp as the screen; null where it is not shown. */
export function penOf(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return null;
  const sharp = Math.min(3, devicePixelRatio || 1);
  const [wide, tall] = [Math.round(width * sharp), Math.round(height * sharp)];
  if (canvas.width !== wide || canvas.height !== tall) [canvas.width, canvas.height] = [wide, tall];
  const pen = canvas.getContext("2d");
  pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  return pen;
}
