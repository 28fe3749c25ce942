/**
 * A piano to play with mouse, fingers, letters or arrow keys. Tells which key went down and up; knows nothing of sound.
 * @module
 */

import { spokenName } from "./words.js";

const BLACK = new Set([1, 3, 6, 8, 10]);
const LETTERS = "awsedftgyhujkolp;'"; // the places of keys on a piano: C, C sharp, D …
const CODES = [
  ..."KeyA KeyW KeyS KeyE KeyD KeyF KeyT KeyG KeyY KeyH KeyU KeyJ KeyK KeyO KeyL KeyP Semicolon Quote".split(" "),
];
const [LOWEST, HIGHEST] = [24, 108]; // C1 and C8
const NARROWEST = 33; // pixels of a white key: a finger's width
const [FEWEST, MOST] = [8, 29]; // white keys
const WHITE = [0, 2, 4, 5, 7, 9, 11];
const TOUCH = 76; // the velocity of what cannot be struck harder
const STRUCK = 400; // milliseconds of a key that nobody holds
const [SOFTEST, LOUDEST] = [45, 105];

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
    this.held = new Map(); // what holds it (a pointer, a letter): pitch
    this.focused = 60;
    this.listen();
    new ResizeObserver(() => this.build()).observe(element);
  }

  /** Take the focus. */
  take() {
    this.build();
    this.focus(this.focused);
  }

  /** @param {number} octaves */
  shift(octaves) {
    this.low += 12 * octaves;
    this.letGo();
    this.whites = 0;
    this.build();
  }

  /** As many keys as are wide enough for a finger. */
  build() {
    const width = this.element.clientWidth;
    const whites = Math.max(FEWEST, Math.min(MOST, Math.floor(width / NARROWEST)));
    if (!width || whites === this.whites) return;
    const focused = this.element.contains(document.activeElement);
    this.whites = whites;
    const reach = 12 * Math.floor((whites - 1) / 7) + WHITE[(whites - 1) % 7];
    while (this.low + reach > HIGHEST) this.low -= 12;
    while (this.low < LOWEST) this.low += 12;
    this.keys = new Map();
    let white = 0;
    for (let pitch = this.low; pitch <= this.low + reach; pitch++) {
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
    this.focused = Math.min(this.low + reach, Math.max(this.low, this.focused));
    this.keys.get(this.focused).tabIndex = 0;
    if (focused) this.keys.get(this.focused).focus();
  }

  listen() {
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
      this.press("click", pitch, TOUCH);
      setTimeout(() => this.release("click"), STRUCK);
    });
    element.addEventListener("focusout", (event) => {
      if (!element.contains(event.relatedTarget)) this.letGo();
    });
  }

  /** @param {KeyboardEvent} event */
  keyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 12, ArrowDown: -12 };
    const place = CODES.indexOf(event.code);
    if (event.code in moves) this.focus(this.focused + moves[event.code]);
    else if (event.code === "Enter" || event.code === "Space") this.press(event.code, this.focused, TOUCH);
    else if (event.code === "KeyZ" || event.code === "KeyX") this.shift(event.code === "KeyZ" ? -1 : 1);
    else if (place >= 0) this.press(event.code, this.low + place, TOUCH);
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
    if (this.held.has(holder)) return; // a letter that repeats
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

  letGo() {
    for (const holder of [...this.held.keys()]) if (typeof holder === "string") this.release(holder);
  }
}
