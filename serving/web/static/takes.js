/**
 * Takes → a card each, side by side. Tells what somebody wants of one; knows nothing of how that is done.
 * @module
 */

import { paintSmall, penOf } from "./painting.js";
import { clock, lengthOf, many, settingsLine } from "./words.js";

/** @typedef {import("./words.js").Note} Note */
/**
 * @typedef {object} Seed  a beginning
 * @property {"example"|"midi"|"own"|"nothing"} kind
 * @property {string} name of the example or the file
 * @property {string} title for people
 * @property {Uint8Array|null} bytes a MIDI file; null: nothing
 * @property {Note[]} notes
 */
/**
 * @typedef {object} Take
 * @property {number} number
 * @property {Seed} seed
 * @property {import("./api.js").Settings} settings with its random seed, once the server has told it
 * @property {string} model
 * @property {Note[]} notes
 * @property {"growing"|"final"|"length"|"stopped"|"broken"} state
 */

const COLOURS = 6;
const FILES = { mid: "MIDI", mp3: "MP3", musicxml: "Score" };
const STATES = {
  growing: "being made",
  final: "ended by itself",
  length: "",
  stopped: "stopped",
  broken: "broke off",
};

/** The CSS variable of a take's colour. @param {Take|null} take */
export function colourOf(take) {
  return `--take-${((take?.number ?? 1) - 1) % COLOURS}`;
}

export class Cards {
  /** @param {HTMLOListElement} list it tells of a wish by an event "wanted": {what, take, format} */
  constructor(list) {
    this.list = list;
    /** @type {Map<Take, {item: HTMLElement, canvas: HTMLCanvasElement, facts: HTMLElement, buttons: HTMLButtonElement[]}>} */
    this.cards = new Map();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.cards.forEach((_, take) => this.paint(take)));
  }

  wish(what, take, format) {
    this.list.dispatchEvent(new CustomEvent("wanted", { detail: { what, take, format } }));
  }

  /** @param {Take} take */
  add(take) {
    const button = (text, label, act, kind = "plain") => {
      const made = make("button", { type: "button", className: kind, textContent: text });
      made.setAttribute("aria-label", label);
      made.addEventListener("click", act);
      return made;
    };
    const name = `take ${take.number}`;
    const canvas = make("canvas", {});
    canvas.setAttribute("aria-hidden", "true");
    const choose = make("button", { type: "button", className: "choose" });
    const title = make("span", { className: "title", textContent: `Take ${take.number}` });
    choose.append(title, canvas);
    choose.addEventListener("click", () => this.wish("choose", take));
    const facts = make("p", { className: "facts" });
    const files = Object.entries(FILES).map(([format, text]) =>
      button(text, `${text}: download ${name}`, () => this.wish("file", take, format)),
    );
    const link = button("Link", `Link to ${name}: copy`, () => this.wish("link", take));
    const settings = button("Same settings", `Same settings as for ${name}`, () => this.wish("settings", take));
    const remove = button("", `Remove ${name}`, () => this.wish("remove", take), "close");
    remove.append(icon("i-close"));
    const row = make("div", { className: "row" });
    row.append(...files, link, settings);
    const item = make("li", { className: "take" });
    item.style.setProperty("--own", `var(${colourOf(take)})`);
    item.append(choose, remove, facts, row);
    this.list.prepend(item);
    this.cards.set(take, { item, canvas, facts, choose, buttons: [...files, link] });
    new ResizeObserver(() => this.paint(take)).observe(canvas);
    this.update(take);
  }

  /** @param {Take} take */
  remove(take) {
    this.cards.get(take)?.item.remove();
    this.cards.delete(take);
  }

  /** Something about a take has changed. @param {Take} take */
  update(take) {
    const card = this.cards.get(take);
    if (!card) return;
    const length = clock(lengthOf([...take.seed.notes, ...take.notes]));
    const parts = [many(take.notes.length, "note"), STATES[take.state], `after ${take.seed.title}`, length];
    card.facts.textContent = `${parts.filter(Boolean).join(" · ")} · ${settingsLine(take.settings)}`;
    card.choose.setAttribute("aria-label", `Take ${take.number}, ${parts.filter(Boolean).join(", ")}: show it`);
    for (const button of card.buttons) button.disabled = take.state === "growing" || !take.notes.length;
    this.paint(take);
  }

  /** Show which one is on the roll. @param {Take|null} chosen */
  mark(chosen) {
    for (const [take, { item, choose }] of this.cards) {
      item.classList.toggle("chosen", take === chosen);
      choose.setAttribute("aria-pressed", String(take === chosen));
    }
  }

  paint(take) {
    const card = this.cards.get(take);
    if (!card) return;
    const notes = [...take.seed.notes, ...take.notes];
    if (!notes.length) return;
    const pitches = notes.map((note) => note.pitch);
    const low = pitches.reduce((a, b) => Math.min(a, b));
    const high = pitches.reduce((a, b) => Math.max(a, b));
    const style = getComputedStyle(document.documentElement);
    const [given, made] = ["--seed", colourOf(take)].map((name) => style.getPropertyValue(name).trim());
    const seed = take.seed.notes.length;
    const pen = penOf(card.canvas);
    if (!pen) return; // not laid out yet
    const { clientWidth: width, clientHeight: height } = card.canvas;
    paintSmall(pen, width, height, notes, lengthOf(notes), low, high, (at) => (at < seed ? given : made));
  }
}

/** @param {string} tag @param {object} properties */
export function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

/** @param {string} id of a symbol in the page */
export function icon(id) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#${id}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}
