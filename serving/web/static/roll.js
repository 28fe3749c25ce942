/**
 * Notes → a piano roll on a canvas, keys at its left, and a small overview of the whole. Knows nothing of how notes
 * sound or are made; it is told a position, and tells where somebody pointed.
 * @module
 */

import { KEYS, RULER, paintHead, paintKeys, paintLanes, paintRuler, paintSeam, paintSmall, penOf } from "./painting.js";

/** @typedef {import("./words.js").Note} Note */
/**
 * @typedef {object} Picture  what is drawn
 * @property {Note[]} notes sorted by start
 * @property {number} seed how many of them, from the first on, were given
 * @property {string} colour of the others: the name of a CSS variable
 * @property {number} length seconds
 * @property {boolean} growing
 */

const LOWEST = 21;
const HIGHEST = 108;
const FEWEST = 40; // semitones shown at least
const NARROWEST = 4; // seconds shown at least
const WIDEST = 240;
export const SHORTEST = 8; // seconds of the overview

export class Roll {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLCanvasElement} overview
   * @param {(seconds: number) => void} pointed
   */
  constructor(canvas, overview, pointed) {
    this.canvas = canvas;
    this.overview = overview;
    /** @type {Picture} */
    this.picture = { notes: [], seed: 0, colour: "--take-0", length: 0, growing: false };
    this.from = 0; // seconds at the left edge
    this.seconds = 0; // shown; 0: as many as suit the width
    this.follow = true;
    this.position = 0;
    this.small = document.createElement("canvas"); // the overview without what moves over it
    this.version = 0; // of what is on it
    this.low = 41;
    this.high = 88;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.listen(pointed);
    this.colours();
    new ResizeObserver(() => this.draw()).observe(canvas);
    new ResizeObserver(() => this.draw()).observe(overview);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours();
      this.draw();
    });
  }

  /** @param {Picture} picture */
  show(picture) {
    const another = picture.notes[0] !== this.picture.notes[0];
    this.picture = picture;
    this.version++;
    let low = 48;
    let high = 84;
    for (const note of picture.notes) {
      low = Math.min(low, note.pitch - 2);
      high = Math.max(high, note.pitch + 2);
    }
    if (!another) [low, high] = [Math.min(low, this.low), Math.max(high, this.high)];
    while (high - low < FEWEST) [low, high] = [low - 1, high + 1];
    this.low = Math.max(LOWEST - 1, low);
    this.high = Math.min(HIGHEST + 1, high);
    this.draw();
  }

  /** @param {number} position seconds @param {boolean} moving it is being played */
  at(position, moving) {
    this.position = position;
    if (this.follow && moving) this.keepUp();
    this.draw();
  }

  /** Bring a position into view. @param {number} position */
  reveal(position) {
    this.follow = true;
    if (position < this.from || position > this.from + this.span * 0.85) this.from = position - this.span * 0.3;
    this.clamp();
    this.draw();
  }

  /** @param {number} factor above 1: more seconds */
  zoom(factor, around = this.position) {
    const place = (around - this.from) / this.span;
    const held = place >= 0 && place <= 1 ? place : 0.3;
    this.seconds = Math.min(WIDEST, Math.max(NARROWEST, this.span * factor));
    this.from = around - held * this.span;
    this.clamp();
    this.draw();
  }

  get width() {
    return Math.max(1, this.canvas.clientWidth - KEYS);
  }

  get span() {
    return this.seconds || Math.min(24, Math.max(7, this.width / 48));
  }

  keepUp() {
    const place = (this.position - this.from) / this.span;
    if (this.calm.matches) {
      if (place > 0.95 || place < 0) this.from = this.position - this.span * 0.05;
    } else {
      const aim = this.position - this.span * 0.35;
      this.from += (aim - this.from) * (place > 0.95 || place < 0 ? 1 : 0.12);
    }
    this.clamp();
  }

  clamp() {
    const end = Math.max(this.picture.length, this.position);
    this.from = Math.max(0, Math.min(this.from, end - this.span * 0.6));
  }

  listen(pointed) {
    const { canvas } = this;
    let drag = null;
    const timeAt = (event) => this.from + ((event.offsetX - KEYS) / this.width) * this.span;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      drag = { x: event.offsetX, from: this.from, far: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const moved = event.offsetX - drag.x;
      drag.far ||= Math.abs(moved) > 6;
      if (!drag.far) return;
      this.follow = false;
      this.from = drag.from - (moved / this.width) * this.span;
      this.clamp();
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.far && event.offsetX > KEYS) pointed(Math.max(0, timeAt(event)));
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener(
      "wheel",
      (event) => {
        const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
        if (!event.ctrlKey && !event.metaKey && !sideways) return; // the page scrolls
        event.preventDefault();
        if (sideways) {
          this.follow = false;
          this.from += ((event.deltaX || event.deltaY) / this.width) * this.span;
          this.clamp();
          this.draw();
        } else {
          this.zoom(1.0015 ** event.deltaY, timeAt(event));
        }
      },
      { passive: false },
    );
  }

  colours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => style.getPropertyValue(name).trim();
    this.version++;
  }

  /** Draw with the next frame; many wishes are one. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.paint();
      this.paintOverview();
    });
  }

  paint() {
    const pen = penOf(this.canvas);
    if (!pen) return;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const row = (height - RULER) / (this.high - this.low + 1);
    const x = (seconds) => KEYS + ((seconds - this.from) / this.span) * this.width;
    const y = (pitch) => RULER + (this.high - pitch) * row;
    pen.fillStyle = this.colour("--roll");
    pen.fillRect(0, 0, width, height);
    paintLanes(pen, this, width, row, y);
    paintRuler(pen, this, width, height, x);

    pen.save();
    pen.beginPath();
    pen.rect(KEYS, RULER, width - KEYS, height - RULER);
    pen.clip();
    const { notes, seed, colour } = this.picture;
    const sounding = new Map(); // pitch: colour
    const given = this.colour("--seed");
    const made = this.colour(colour);
    if (seed && seed < notes.length) paintSeam(pen, this, x(notes[seed].start), height);
    const last = this.from + this.span;
    for (let at = 0; at < notes.length; at++) {
      const note = notes[at];
      if (note.start > last) break;
      if (note.end < this.from) continue;
      const ink = at < seed ? given : made;
      const on = this.position >= note.start && this.position < note.end;
      if (on) sounding.set(note.pitch, ink);
      const left = x(note.start);
      const wide = Math.max(2.5, x(note.end) - left - 1);
      const tall = Math.max(2, row - 1);
      pen.globalAlpha = on ? 1 : 0.32 + 0.68 * Math.min(1, note.velocity / 110);
      pen.fillStyle = ink;
      pen.beginPath();
      pen.roundRect(left, y(note.pitch) + (row - tall) / 2, wide, tall, Math.min(3, tall / 2));
      pen.fill();
      if (on) {
        pen.strokeStyle = this.colour("--ink");
        pen.lineWidth = 1;
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
    pen.fillStyle = this.colour("--playhead");
    pen.fillRect(x(this.position) - 0.75, RULER, 1.5, height);
    pen.restore();
    paintHead(pen, this, x(this.position));
    paintKeys(pen, this, row, y, sounding);
  }

  paintOverview() {
    const { notes, seed, colour, length } = this.picture;
    const whole = Math.max(length, SHORTEST);
    const pen = penOf(this.overview);
    if (!pen) return;
    const { clientWidth: width, clientHeight: height } = this.overview;
    const kept = `${this.overview.width} ${this.overview.height} ${this.version}`;
    if (this.kept !== kept) {
      const [given, made] = [this.colour("--seed"), this.colour(colour)];
      [this.small.width, this.small.height] = [this.overview.width, this.overview.height];
      const inner = this.small.getContext("2d");
      inner.setTransform(pen.getTransform());
      paintSmall(inner, width, height, notes, whole, this.low, this.high, (at) => (at < seed ? given : made));
      this.kept = kept;
    }
    pen.clearRect(0, 0, width, height);
    pen.drawImage(this.small, 0, 0, width, height);
    const scale = width / whole;
    pen.globalAlpha = 0.14;
    pen.fillStyle = this.colour("--ink");
    pen.fillRect(this.from * scale, 0, Math.min(this.span, whole - this.from) * scale, height);
    pen.globalAlpha = 1;
    pen.fillStyle = this.colour("--playhead");
    pen.fillRect(Math.min(width - 2, this.position * scale), 0, 2, height);
  }
}
