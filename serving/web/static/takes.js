/**
 * Shows takes as cards, side by side, and reports which button of a card is pressed. Does not know what the buttons do.
 * @module
 */

import { contextOf, paintThumbnail } from "./painting.js";
import { clock, lengthOf, plural, settingsLine } from "./format.js";

/** @typedef {import("./format.js").Note} Note */
/**
 * @typedef {object} Seed  what is continued; the page calls it a beginning
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
 * @property {import("./api.js").Settings} settings with the random seed, as soon as the server has chosen it
 * @property {string} model
 * @property {Note[]} notes
 * @property {"generating"|"final"|"length"|"stopped"|"broken"} state
 */

const COLOURS = 6;
const FILES = { mid: "MIDI", mp3: "MP3", musicxml: "Score" };
const STATES = {
  generating: "being made",
  final: "ended by itself",
  length: "",
  stopped: "stopped",
  broken: "broke off",
};

/** The CSS variable of a take's colour. @param {Take|null} take */
export function colourOf(take) {
  return `--take-${((take?.number ?? 1) - 1) % COLOURS}`;
}

export class TakeList {
  /** @param {HTMLOListElement} list it dispatches an event "takeaction" with the detail {action, take, format} */
  constructor(list) {
    this.list = list;
    /** @type {Map<Take, {item: HTMLElement, canvas: HTMLCanvasElement, facts: HTMLElement, buttons: HTMLButtonElement[]}>} */
    this.cards = new Map();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.cards.forEach((_, take) => this.paint(take)));
  }

  dispatch(action, take, format) {
    this.list.dispatchEvent(new CustomEvent("takeaction", { detail: { action, take, format } }));
  }

  /** @param {Take} take */
  add(take) {
    const button = (text, label, onClick, className = "plain") => {
      const element = create("button", { type: "button", className, textContent: text });
      element.setAttribute("aria-label", label);
      element.addEventListener("click", onClick);
      return element;
    };
    const name = `take ${take.number}`;
    const canvas = create("canvas", {});
    canvas.setAttribute("aria-hidden", "true");
    const choose = create("button", { type: "button", className: "choose" });
    const title = create("span", { className: "title", textContent: `Take ${take.number}` });
    choose.append(title, canvas);
    choose.addEventListener("click", () => this.dispatch("choose", take));
    const facts = create("p", { className: "facts" });
    const files = Object.entries(FILES).map(([format, text]) =>
      button(text, `${text}: download ${name}`, () => this.dispatch("file", take, format)),
    );
    const link = button("Link", `Link to ${name}: copy`, () => this.dispatch("link", take));
    const settings = button("Same settings", `Same settings as for ${name}`, () => this.dispatch("settings", take));
    const remove = button("", `Remove ${name}`, () => this.dispatch("remove", take), "close");
    remove.append(icon("i-close"));
    const row = create("div", { className: "row" });
    row.append(...files, link, settings);
    const item = create("li", { className: "take" });
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

  /** Show what has changed in a take. @param {Take} take */
  update(take) {
    const card = this.cards.get(take);
    if (!card) return;
    const length = clock(lengthOf([...take.seed.notes, ...take.notes]));
    const parts = [plural(take.notes.length, "note"), STATES[take.state], `after ${take.seed.title}`, length];
    card.facts.textContent = `${parts.filter(Boolean).join(" · ")} · ${settingsLine(take.settings)}`;
    card.choose.setAttribute("aria-label", `Take ${take.number}, ${parts.filter(Boolean).join(", ")}: show it`);
    for (const button of card.buttons) button.disabled = take.state === "generating" || !take.notes.length;
    this.paint(take);
  }

  /** Mark the take that the roll shows. @param {Take|null} chosen */
  highlight(chosen) {
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
    const [seedColour, takeColour] = ["--seed", colourOf(take)].map((name) => style.getPropertyValue(name).trim());
    const seed = take.seed.notes.length;
    const context = contextOf(card.canvas);
    if (!context) return; // the browser has not laid it out yet
    const { clientWidth: width, clientHeight: height } = card.canvas;
    paintThumbnail(context, width, height, notes, lengthOf(notes), low, high, (index) => (index < seed ? seedColour : takeColour));
  }
}

/** @param {string} tag @param {object} properties */
export function create(tag, properties) {
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
