/**
 * Paints the parts of a piano roll on a canvas. Does not know when to paint, and handles no events.
 * @module
 */

import { clock, noteName } from "./format.js";

/** @typedef {import("./format.js").Note} Note */

export const KEYS = 46; // pixels: the width of the keys
export const RULER = 22; // pixels: the height of the ruler
const BLACK = new Set([1, 3, 6, 8, 10]);

/** Paint a lane for each black key, and a line below each C. */
export function paintLanes(context, view, width, row, y) {
  for (let pitch = view.low; pitch <= view.high; pitch++) {
    if (BLACK.has(pitch % 12)) {
      context.fillStyle = view.colour("--roll-lane");
      context.fillRect(KEYS, y(pitch), width - KEYS, row);
    }
    if (pitch % 12 === 0) {
      context.fillStyle = view.colour("--roll-line");
      context.fillRect(KEYS, Math.round(y(pitch) + row) - 0.5, width - KEYS, 1);
    }
  }
}

/** Paint the ruler: seconds as text, each with a line. */
export function paintRuler(context, view, width, height, x) {
  context.fillStyle = view.colour("--roll-ruler");
  context.fillRect(0, 0, width, RULER);
  const step = [1, 2, 5, 10, 20, 30, 60].find((seconds) => (seconds / view.span) * view.width > 64) ?? 120;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (let second = Math.ceil(view.from / step) * step; second <= view.from + view.span; second += step) {
    context.fillStyle = view.colour("--roll-line");
    context.fillRect(Math.round(x(second)), RULER, 1, height);
    context.fillStyle = view.colour("--muted");
    context.fillText(clock(second), x(second) + 4, RULER / 2);
  }
}

/** Paint a dashed line between seed and take. */
export function paintBoundary(context, view, x, height) {
  context.strokeStyle = view.colour("--muted");
  context.setLineDash([3, 4]);
  context.beginPath();
  context.moveTo(x - 1.5, RULER);
  context.lineTo(x - 1.5, height);
  context.stroke();
  context.setLineDash([]);
}

/** Paint the handle of the playhead. */
export function paintPlayhead(context, view, x) {
  if (x < KEYS) return;
  context.fillStyle = view.colour("--playhead");
  context.beginPath();
  context.moveTo(x - 6, RULER - 8);
  context.lineTo(x + 6, RULER - 8);
  context.lineTo(x, RULER);
  context.fill();
}

/** Paint the keys; those that sound have the colour of their notes. @param {Map<number, string>} sounding pitch: colour */
export function paintKeys(context, view, row, y, sounding) {
  const bottom = y(view.low) + row;
  context.fillStyle = view.colour("--white-key");
  context.fillRect(0, RULER, KEYS - 1, bottom - RULER);
  for (let pitch = view.low; pitch <= view.high; pitch++) {
    const black = BLACK.has(pitch % 12);
    if (!black && sounding.has(pitch)) {
      context.fillStyle = sounding.get(pitch);
      context.fillRect(0, y(pitch) - row * 0.25, KEYS - 1, row * 1.5);
    }
    if (!black && (pitch % 12 === 0 || pitch % 12 === 5)) {
      context.fillStyle = view.colour("--key-line");
      context.fillRect(0, Math.round(y(pitch) + row) - 0.5, KEYS - 1, 1);
    }
  }
  for (let pitch = view.low; pitch <= view.high; pitch++) {
    if (!BLACK.has(pitch % 12)) continue;
    context.fillStyle = view.colour("--key-line");
    context.fillRect(0, Math.round(y(pitch) + row / 2) - 0.5, KEYS - 1, 1);
    context.fillStyle = sounding.get(pitch) ?? view.colour("--black-key");
    context.fillRect(0, y(pitch), KEYS * 0.6, row);
  }
  context.fillStyle = view.colour("--key-line");
  context.fillRect(KEYS - 1, RULER, 1, bottom - RULER);
  context.fillStyle = view.colour("--key-text");
  context.font = "600 9px system-ui, sans-serif";
  context.textBaseline = "alphabetic";
  context.textAlign = "right";
  for (let pitch = Math.ceil(view.low / 12) * 12; pitch <= view.high; pitch += 12) {
    context.fillText(noteName(pitch), KEYS - 5, y(pitch) + row - 1);
  }
  context.textAlign = "left";
}

/**
 * Paint a whole piece in a small area.
 * @param {CanvasRenderingContext2D} context @param {number} width @param {number} height of the area, in pixels
 * @param {Note[]} notes @param {number} seconds @param {number} low @param {number} high pitches
 * @param {(index: number) => string} colourOf a note
 */
export function paintThumbnail(context, width, height, notes, seconds, low, high, colourOf) {
  context.clearRect(0, 0, width, height);
  const noteHeight = Math.max(1.5, (height - 4) / (high - low + 1));
  for (const [index, note] of notes.entries()) {
    context.globalAlpha = 0.4 + 0.6 * Math.min(1, note.velocity / 110);
    context.fillStyle = colourOf(index);
    const left = (note.start / seconds) * width;
    const top = 2 + ((high - note.pitch) / (high - low + 1)) * (height - 4);
    context.fillRect(left, top, Math.max(1, ((note.end - note.start) / seconds) * width), noteHeight);
  }
  context.globalAlpha = 1;
}

/** The 2D context of a canvas that has the screen's resolution, in CSS pixels; null where the canvas is not shown. */
export function contextOf(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return null;
  const ratio = Math.min(3, devicePixelRatio || 1);
  const [columns, rows] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
