/**
 * Draws notes as a piano roll on a canvas, with keys at its left, and a small overview of the whole. It is given a position,
 * and calls back with the position that somebody clicks. Does not know how notes sound or are generated.
 * @module
 */

import * as painting from "./painting.js";

/** @typedef {import("./format.js").Note} Note */
/**
 * @typedef {object} Picture  what is drawn
 * @property {Note[]} notes sorted by start
 * @property {number} seed how many of them, from the first on, are the seed's
 * @property {string} colour of the others: the name of a CSS variable
 * @property {number} length seconds
 * @property {boolean} growing
 */

const { KEYS, RULER } = painting;
const LOWEST = 21; // pitches of a piano
const HIGHEST = 108;
const MIN_SEMITONES = 40; // shown at least
const [MIN_SECONDS, MAX_SECONDS] = [4, 240]; // shown at least and at most
export const MIN_OVERVIEW = 8; // seconds in the overview at least

export class Roll {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLCanvasElement} overview
   * @param {(seconds: number) => void} onSeek
   */
  constructor(canvas, overview, onSeek) {
    this.canvas = canvas;
    this.overview = overview;
    /** @type {Picture} */
    this.picture = { notes: [], seed: 0, colour: "--take-0", length: 0, growing: false };
    this.from = 0; // seconds at the left edge
    this.seconds = 0; // shown; 0: so many that the notes are wide enough
    this.follow = true;
    this.position = 0;
    this.thumbnail = document.createElement("canvas"); // the overview without the playhead
    this.version = 0; // counts changes of the picture and of its colours
    this.low = 41;
    this.high = 88;
    this.reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
    this.addListeners(onSeek);
    this.readColours();
    new ResizeObserver(() => this.draw()).observe(canvas);
    new ResizeObserver(() => this.draw()).observe(overview);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.readColours();
      this.draw();
    });
  }

  /** @param {Picture} picture */
  show(picture) {
    const otherPiece = picture.notes[0] !== this.picture.notes[0];
    this.picture = picture;
    this.version++;
    let low = 48;
    let high = 84;
    for (const note of picture.notes) {
      low = Math.min(low, note.pitch - 2);
      high = Math.max(high, note.pitch + 2);
    }
    if (!otherPiece) [low, high] = [Math.min(low, this.low), Math.max(high, this.high)];
    while (high - low < MIN_SEMITONES) [low, high] = [low - 1, high + 1];
    this.low = Math.max(LOWEST - 1, low);
    this.high = Math.min(HIGHEST + 1, high);
    this.draw();
  }

  /** @param {number} position seconds @param {boolean} moving it is being played */
  setPosition(position, moving) {
    this.position = position;
    if (this.follow && moving) this.followPlayhead();
    this.draw();
  }

  /** Scroll where a position is not in view. @param {number} position seconds */
  scrollTo(position) {
    this.follow = true;
    if (position < this.from || position > this.from + this.span * 0.85) this.from = position - this.span * 0.3;
    this.clamp();
    this.draw();
  }

  /** @param {number} factor above 1: more seconds */
  zoom(factor, around = this.position) {
    const place = (around - this.from) / this.span; // it stays the same where it is in view
    const fixed = place >= 0 && place <= 1 ? place : 0.3;
    this.seconds = Math.min(MAX_SECONDS, Math.max(MIN_SECONDS, this.span * factor));
    this.from = around - fixed * this.span;
    this.clamp();
    this.draw();
  }

  /** Pixels of the roll without its keys. */
  get width() {
    return Math.max(1, this.canvas.clientWidth - KEYS);
  }

  /** Seconds in view. */
  get span() {
    return this.seconds || Math.min(24, Math.max(7, this.width / 48));
  }

  followPlayhead() {
    const place = (this.position - this.from) / this.span;
    if (this.reducedMotion.matches) {
      if (place > 0.95 || place < 0) this.from = this.position - this.span * 0.05;
    } else {
      const target = this.position - this.span * 0.35;
      this.from += (target - this.from) * (place > 0.95 || place < 0 ? 1 : 0.12);
    }
    this.clamp();
  }

  /** Keep music in view: neither before its beginning nor far behind its end. */
  clamp() {
    const end = Math.max(this.picture.length, this.position);
    this.from = Math.max(0, Math.min(this.from, end - this.span * 0.6));
  }

  addListeners(onSeek) {
    const { canvas } = this;
    let drag = null;
    const timeAt = (event) => this.from + ((event.offsetX - KEYS) / this.width) * this.span;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      drag = { x: event.offsetX, from: this.from, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const pixels = event.offsetX - drag.x;
      drag.moved ||= Math.abs(pixels) > 6;
      if (!drag.moved) return;
      this.follow = false;
      this.from = drag.from - (pixels / this.width) * this.span;
      this.clamp();
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved && event.offsetX > KEYS) onSeek(Math.max(0, timeAt(event)));
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener(
      "wheel",
      (event) => {
        const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
        if (!event.ctrlKey && !event.metaKey && !sideways) return; // let the page scroll
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

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => style.getPropertyValue(name).trim();
    this.version++;
  }

  /** Draw with the browser's next frame, once however often this is called. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.paint();
      this.paintOverview();
    });
  }

  paint() {
    const context = painting.contextOf(this.canvas);
    if (!context) return;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const row = (height - RULER) / (this.high - this.low + 1);
    const x = (seconds) => KEYS + ((seconds - this.from) / this.span) * this.width;
    const y = (pitch) => RULER + (this.high - pitch) * row;
    context.fillStyle = this.colour("--roll");
    context.fillRect(0, 0, width, height);
    painting.paintLanes(context, this, width, row, y);
    painting.paintRuler(context, this, width, height, x);

    context.save();
    context.beginPath();
    context.rect(KEYS, RULER, width - KEYS, height - RULER);
    context.clip();
    const { notes, seed, colour } = this.picture;
    const sounding = new Map(); // pitch: colour
    const seedColour = this.colour("--seed");
    const takeColour = this.colour(colour);
    if (seed && seed < notes.length) painting.paintBoundary(context, this, x(notes[seed].start), height);
    const last = this.from + this.span;
    for (let index = 0; index < notes.length; index++) {
      const note = notes[index];
      if (note.start > last) break;
      if (note.end < this.from) continue;
      const noteColour = index < seed ? seedColour : takeColour;
      const isSounding = this.position >= note.start && this.position < note.end;
      if (isSounding) sounding.set(note.pitch, noteColour);
      const left = x(note.start);
      const noteWidth = Math.max(2.5, x(note.end) - left - 1);
      const noteHeight = Math.max(2, row - 1);
      context.globalAlpha = isSounding ? 1 : 0.32 + 0.68 * Math.min(1, note.velocity / 110);
      context.fillStyle = noteColour;
      context.beginPath();
      context.roundRect(left, y(note.pitch) + (row - noteHeight) / 2, noteWidth, noteHeight, Math.min(3, noteHeight / 2));
      context.fill();
      if (isSounding) {
        context.strokeStyle = this.colour("--text");
        context.lineWidth = 1;
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    context.fillStyle = this.colour("--playhead");
    context.fillRect(x(this.position) - 0.75, RULER, 1.5, height);
    context.restore();
    painting.paintPlayhead(context, this, x(this.position));
    painting.paintKeys(context, this, row, y, sounding);
  }

  paintOverview() {
    const { notes, seed, colour, length } = this.picture;
    const seconds = Math.max(length, MIN_OVERVIEW);
    const context = painting.contextOf(this.overview);
    if (!context) return;
    const { clientWidth: width, clientHeight: height } = this.overview;
    const wanted = `${this.overview.width} ${this.overview.height} ${this.version}`;
    if (this.painted !== wanted) {
      const [seedColour, takeColour] = [this.colour("--seed"), this.colour(colour)];
      const colourOf = (index) => (index < seed ? seedColour : takeColour);
      [this.thumbnail.width, this.thumbnail.height] = [this.overview.width, this.overview.height];
      const thumbnail = this.thumbnail.getContext("2d");
      thumbnail.setTransform(context.getTransform());
      painting.paintThumbnail(thumbnail, width, height, notes, seconds, this.low, this.high, colourOf);
      this.painted = wanted;
    }
    context.clearRect(0, 0, width, height);
    context.drawImage(this.thumbnail, 0, 0, width, height);
    const scale = width / seconds;
    context.globalAlpha = 0.14;
    context.fillStyle = this.colour("--text");
    context.fillRect(this.from * scale, 0, Math.min(this.span, seconds - this.from) * scale, height);
    context.globalAlpha = 1;
    context.fillStyle = this.colour("--playhead");
    context.fillRect(Math.min(width - 2, this.position * scale), 0, 2, height);
  }
}
