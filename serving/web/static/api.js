/**
 * The server's replies → notes, files, and errors in plain words. Knows nothing of the page.
 * @module
 */

/** @typedef {import("./words.js").Note} Note */
/** @typedef {{notes: number, temperature: number, top_p: number, min_p: number, random_seed: number|null}} Settings */

const MIDI = "audio/midi";
const TECHNICAL = [400, 401, 415]; // whose details are for programmers: bytes of a file, names of headers
let key = ""; // of a server that needs one
const WORDS = {
  400: "This is not a MIDI file, or it is damaged.",
  401: "This server needs a valid key.",
  406: "This server cannot make that format.",
  413: "This file is too large.",
  415: "This is not a MIDI file.",
  422: "The server cannot do that.",
  429: "The server is busy.",
  500: "There was an error on the server.",
  502: "The model's answer could not be used.",
  503: "The model is not available.",
  504: "The model took too long.",
};

/** An error whose message is for the person at the page. */
export class Problem extends Error {
  /** @param {string} message @param {number} status 0: no answer at all @param {string} detail the server's own words */
  constructor(message, status = 0, detail = "") {
    super(detail ? `${message} ${sentence(detail)}` : message);
    this.status = status;
  }

  /** A reply that is no success. @param {Response} response */
  static async of(response) {
    const wait = response.headers.get("Retry-After");
    let detail = "";
    try {
      detail = (await response.json()).detail ?? "";
    } catch {
      // a proxy between us and the server may answer in its own way
    }
    if (TECHNICAL.includes(response.status)) detail = "";
    const again = wait ? ` Try again in ${wait} seconds.` : "";
    return new Problem(words(response.status), response.status, sentence(detail) + again);
  }
}

/** Read the notes of a MIDI file, as the model reads them. @param {Uint8Array} bytes @returns {Promise<{notes: Note[], drums: number}>} */
export async function readNotes(bytes) {
  return (await request("/notes", { method: "POST", body: bytes, headers: { "Content-Type": MIDI } })).json();
}

/** One of the server's own beginnings. @param {string} name @returns {Promise<Uint8Array>} */
export async function example(name) {
  return new Uint8Array(await (await request(`/examples/${encodeURIComponent(name)}.mid`)).arrayBuffer());
}

/** The model's name and version, "performance/1". @returns {Promise<string>} */
export async function model() {
  const { name, version } = await (await request("/model")).json();
  return `${name}/${version}`;
}

/**
 * Continue a seed, and pass on each note as soon as it is generated.
 * @param {Uint8Array|null} seed a MIDI file
 * @param {Settings} settings
 * @param {{opened: (model: string, randomSeed: number) => void, came: (notes: Note[]) => void, signal: AbortSignal}} listener
 * @returns {Promise<"final"|"length">} why it ended
 */
export async function generate(seed, settings, listener) {
  const response = await request(path(settings, "ndjson", false), { ...posted(seed), signal: listener.signal });
  let ended = null;
  let count = 0;
  for await (const lines of linesOf(response.body, () => broken(count))) {
    const notes = [];
    let problem = null;
    for (const line of lines) {
      if ("pitch" in line) notes.push(line); // first, as a note has an end, too
      else if ("error" in line) problem = new Problem(words(line.status), line.status, line.error);
      else if ("random_seed" in line) listener.opened(line.model, line.random_seed);
      else if ("end" in line) ended = line.end;
    }
    count += notes.length;
    if (notes.length) listener.came(notes); // also those that came with the error
    if (problem) throw problem;
  }
  if (ended === null) throw broken(count); // a server that stops closes the connection without a last line
  return ended;
}

/**
 * The same take again, as a file.
 * @returns {Promise<{blob: Blob, name: string, model: string}>}
 */
export async function file(seed, settings, format) {
  const response = await request(path(settings, format, true), posted(seed));
  const name = /filename="?([^";]+)/.exec(response.headers.get("Content-Disposition") ?? "");
  return {
    blob: await response.blob(),
    name: name ? name[1] : `cadenza.${format}`,
    model: response.headers.get("X-Model") ?? "",
  };
}

function path(settings, format, includeSeed) {
  const query = new URLSearchParams({ format, include_seed: String(includeSeed) });
  for (const [name, value] of Object.entries(settings)) if (value !== null) query.set(name, String(value));
  return `/generate?${query}`;
}

function posted(seed) {
  return seed ? { method: "POST", body: seed, headers: { "Content-Type": MIDI } } : { method: "POST" };
}

/** @returns {Promise<Response>} one that is a success; throws a Problem, or an AbortError for what we stopped ourselves */
async function request(url, options = {}) {
  for (;;) {
    const shown = key;
    let response;
    try {
      response = await fetch(url, shown ? { ...options, headers: { ...options.headers, "X-API-Key": shown } } : options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server does not answer. Is it still running, and are you still connected?");
    }
    if (response.ok) return response;
    if (response.status !== 401 || (key === shown && !askForKey(shown))) throw await Problem.of(response);
  }
}

/** Ask the person for the server's key, which is forgotten with the page. @returns {boolean} whether they entered one */
function askForKey(before) {
  const answer = window.prompt(before ? "This key is not valid. The key of this server:" : "This server needs a key:");
  if (answer && /^[!-~]+$/.test(answer.trim())) key = answer.trim(); // what a header may hold
  return key !== before;
}

/** The objects of an NDJSON body, those together that came together. */
async function* linesOf(body, problem) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // a TextDecoderStream would lose what it holds when the connection breaks
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = parts.pop();
      yield parts.filter(Boolean).map((part) => JSON.parse(part));
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw problem();
  } finally {
    reader.cancel().catch(() => {}); // where the listener stops early
  }
  if (rest.trim()) throw problem();
}

function broken(count) {
  return new Problem(
    count
      ? "The connection broke off before the end. What came is kept: you can continue from its end."
      : "The connection broke off before the first note.",
  );
}

function words(status) {
  return WORDS[status] ?? `The server answered with an error (${status}).`;
}

/** With a capital and a full stop. */
function sentence(text) {
  if (!text) return "";
  const capital = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
