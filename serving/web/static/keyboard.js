/**
 * A piano keyboard for mouse, fingers, letters or arrow keys. Reports which key goes down and up; does not know sound.
 * @module
 */

import { spokenName } from "./format.js";

const BLACK = new Set([1, 3, 6, 8, 10]);
const LETTERS = "awsedftgyhujkolp;'"; // they lie as the keys C, C sharp, D … of a piano do
const CODES = [
  ..."KeyA KeyW KeyS KeyE KeyD KeyF KeyT KeyG KeyY KeyH KeyU KeyJ KeyK KeyO KeyL KeyP Semicolon Quote".split(" "),
];
const [LOWEST, HIGHEST] = [24, 108]; // C1 and C8
const MIN_KEY_WIDTH = 33; // pixels of a white key: a finger's width
const [MIN_KEYS, MAX_KEYS] = [8, 29]; // white keys
const WHITE = [0, 2, 4, 5, 7, 9, 11];
const KEY_VELOCITY = 76; // of keys that are played by letters or by a screen reader
const CLICK_DURATION = 400; // milliseconds: a screen reader's click has no end
const [SOFTEST, LOUDEST] = [45, 105]; // velocities

export class Keyboard {
  /**
   * @param {HTMLElement} element
   * @param {(pitch: number, velocity: number) => void} down
   * @param {(pitch: number) => void} up
   */
  constructor(element, down, up) {
    this.element = element;
    this.down = down;
    this.up = up;
    this.low = 48; // C3
    this.held = new Map(); // what holds a key down (a pointer's id, a letter's code): its pitch
    this.focused = 60;
    this.addListeners();
    new ResizeObserver(() => this.build()).observe(element);
  }

  takeFocus() {
    this.build();
    this.focus(this.focused);
  }

  /** @param {number} octaves */
  shift(octaves) {
    this.low += 12 * octaves;
    this.releaseAll();
    this.whites = 0; // so that `build` builds
    this.build();
  }

  /** Build as many keys as fit, each wide enough for a finger. */
  build() {
    const width = this.element.clientWidth;
    const whites = Math.max(MIN_KEYS, Math.min(MAX_KEYS, Math.floor(width / MIN_KEY_WIDTH)));
    if (!width || whites === this.whites) return;
    const focused = this.element.contains(document.activeElement);
    this.whites = whites;
    const range = 12 * Math.floor((whites - 1) / 7) + WHITE[(whites - 1) % 7];
    while (this.low + range > HIGHEST) this.low -= 12;
    while (this.low < LOWEST) this.low += 12;
    this.keys = new Map();
    let white = 0;
    for (let pitch = this.low; pitch <= this.low + range; pitch++) {
      const black = BLACK.has(pitch % 12);
      const key = document.createElement("button");
      key.type = "button";
      key.tabIndex = -1;
      key.className = black ? "key black" : "key white";
      key.dataset.pitch = String(pitch);
      key.setAttribute("aria-label", spokenName(pitch));
      key.style.left = `${((black ? white - 0.31 : white) / whites) * 100}%`;
      key.style.width = `${((black ? 0.62 : 1) / whites) * 100}%`;
      const letter = LETTERS[pitch - this.low];
      if (letter && matchMedia("(hover: hover)").matches) key.textContent = letter.toUpperCase();
      else if (pitch % 12 === 0) key.textContent = `C${pitch / 12 - 1}`;
      if (!black) white++;
      this.keys.set(pitch, key);
    }
    this.element.replaceChildren(...this.keys.values());
    this.focused = Math.min(this.low + range, Math.max(this.low, this.focused));
    this.keys.get(this.focused).tabIndex = 0;
    if (focused) this.keys.get(this.focused).focus();
  }

  addListeners() {
    const { element } = this;
    const pitchAt = (event) => {
      const key = document.elementFromPoint(event.clientX, event.clientY)?.closest(".key");
      return key && element.contains(key) ? Number(key.dataset.pitch) : null;
    };
    const velocityAt = (event) => {
      const box = element.getBoundingClientRect();
      const depth = Math.min(1, Math.max(0, (event.clientY - box.top) / box.height)); // lower on a key is louder
      return Math.round(SOFTEST + (LOUDEST - SOFTEST) * depth);
    };
    element.addEventListener("pointerdown", (event) => {
      const pitch = pitchAt(event);
      if (pitch === null || event.button) return;
      event.preventDefault(); // no selection, no scrolling
      event.target.releasePointerCapture?.(event.pointerId);
      this.focus(pitch);
      this.press(event.pointerId, pitch, velocityAt(event));
    });
    element.addEventListener("pointermove", (event) => {
      if (!this.held.has(event.pointerId)) return;
      const pitch = pitchAt(event);
      if (pitch === this.held.get(event.pointerId)) return;
      this.release(event.pointerId);
      if (pitch !== null) this.press(event.pointerId, pitch, velocityAt(event));
    });
    for (const name of ["pointerup", "pointercancel"]) {
      window.addEventListener(name, (event) => this.release(event.pointerId));
    }
    element.addEventListener("keydown", (event) => this.keyDown(event));
    element.addEventListener("keyup", (event) => this.release(event.code));
    element.addEventListener("click", (event) => {
      if (event.detail || !event.target.dataset.pitch) return; // a screen reader's click has no count
      const pitch = Number(event.target.dataset.pitch);
      this.press("click", pitch, KEY_VELOCITY);
      setTimeout(() => this.release("click"), CLICK_DURATION);
    });
    element.addEventListener("focusout", (event) => {
      if (!element.contains(event.relatedTarget)) this.releaseAll();
    });
  }

  /** @param {KeyboardEvent} event */
  keyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 12, ArrowDown: -12 };
    const semitones = CODES.indexOf(event.code);
    if (event.code in moves) this.focus(this.focused + moves[event.code]);
    else if (event.code === "Enter" || event.code === "Space") this.press(event.code, this.focused, KEY_VELOCITY);
    else if (event.code === "KeyZ" || event.code === "KeyX") this.shift(event.code === "KeyZ" ? -1 : 1);
    else if (semitones >= 0) this.press(event.code, this.low + semitones, KEY_VELOCITY);
    else return;
    event.preventDefault();
  }

  focus(pitch) {
    if (!this.keys?.has(pitch)) return;
    this.keys.get(this.focused).tabIndex = -1;
    this.focused = pitch;
    this.keys.get(pitch).tabIndex = 0;
    this.keys.get(pitch).focus({ preventScroll: true });
  }

  press(holder, pitch, velocity) {
    if (this.held.has(holder)) return; // the browser repeats a letter that stays down
    this.held.set(holder, pitch);
    this.keys?.get(pitch)?.classList.add("down");
    this.down(pitch, velocity);
  }

  release(holder) {
    const pitch = this.held.get(holder);
    if (pitch === undefined) return;
    this.held.delete(holder);
    this.keys?.get(pitch)?.classList.remove("down");
    this.up(pitch);
  }

  /** Release the keys that letters hold; those under a pointer stay down. */
  releaseAll() {
    for (const holder of [...this.held.keys()]) if (typeof holder === "string") this.release(holder);
  }
}
