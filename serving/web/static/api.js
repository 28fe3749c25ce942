/**
 * Calls the server, and turns its replies into notes, files and errors for people. Does not know the page.
 * @module
 */

/** @typedef {import("./format.js").Note} Note */
/**
 * @typedef {object} Settings  null: not asked
 * @property {number|null} notes  null where `seconds` says how long the piece is
 * @property {number} temperature
 * @property {number} top_p
 * @property {number} min_p
 * @property {number|null} random_seed
 * @property {string|null} style
 * @property {number|null} density
 * @property {number|null} loudness
 * @property {number|null} seconds
 */
/** @typedef {{styles: string[], density: number[], loudness: number[]}} Controls  what can be asked of a model */

const MIDI = "audio/midi";
const HIDDEN_DETAILS = [400, 401, 415]; // statuses whose details are for programmers: bytes of a file, names of headers
let apiKey = ""; // as the person typed it
const MESSAGES = {
  400: "This is neither a MIDI nor a MusicXML file, or it is damaged.",
  401: "This server needs a valid key.",
  406: "This server cannot make that format.",
  413: "This file is too large.",
  415: "This server does not read such files.",
  422: "The server cannot do that.",
  429: "The server is busy.",
  500: "There was an error on the server.",
  502: "The model's answer could not be used.",
  503: "The model is not available.",
  504: "The model took too long.",
};

/** An error whose message is for the person at the page. */
export class Problem extends Error {
  /** @param {string} message @param {number} status 0: no reply at all @param {string} detail the server's own text */
  constructor(message, status = 0, detail = "") {
    super(detail ? `${message} ${sentence(detail)}` : message);
    this.status = status;
  }

  /** Turn a reply that is an error into a Problem. @param {Response} response */
  static async from(response) {
    const seconds = response.headers.get("Retry-After");
    let detail = "";
    try {
      detail = (await response.json()).detail ?? "";
    } catch {
      // the error may come from a proxy, whose body is no JSON
    }
    if (HIDDEN_DETAILS.includes(response.status)) detail = "";
    const retry = seconds ? ` Try again in ${seconds} seconds.` : "";
    return new Problem(messageFor(response.status), response.status, sentence(detail) + retry);
  }
}

/**
 * Read the notes of a MIDI or MusicXML file. The model does not read drums, which are left out, nor `unheard_notes` of the notes.
 * @param {Uint8Array} bytes
 * @returns {Promise<{notes: Note[], drums: number, unheard_notes?: number, warnings?: string[]}>}
 */
export async function readNotes(bytes) {
  return (await request("/notes", { method: "POST", body: bytes, headers: { "Content-Type": MIDI } })).json();
}

/** Fetch one of the server's examples, as MIDI. @param {string} name @returns {Promise<Uint8Array>} */
export async function example(name) {
  return new Uint8Array(await (await request(`/examples/${encodeURIComponent(name)}.mid`)).arrayBuffer());
}

/** Fetch the model's name and version, such as "performance/1". @returns {Promise<{name: string, controls?: Controls}>} */
export async function model() {
  const { name, version, card } = await (await request("/model")).json();
  return { name: `${name}/${version}`, controls: card.controls };
}

/**
 * Continue a seed; call `onNotes` with new notes as soon as they come.
 * @param {Uint8Array|null} seed a MIDI file
 * @param {Settings} settings
 * @param {{onStart: (model: string, randomSeed: number) => void, onNotes: (notes: Note[]) => void, signal: AbortSignal}} callbacks
 * @returns {Promise<"final"|"length">} why it ended
 */
export async function generate(seed, settings, { onStart, onNotes, signal }) {
  const response = await request(path(settings, "ndjson", false), { ...postOptions(seed), signal });
  let end = null;
  let count = 0;
  for await (const lines of linesOf(response.body, () => brokenConnection(count))) {
    const notes = [];
    let problem = null;
    for (const line of lines) {
      if ("pitch" in line) notes.push(line); // first: notes have the key "end", too
      else if ("error" in line) problem = new Problem(messageFor(line.status), line.status, line.error);
      else if ("random_seed" in line) onStart(line.model, line.random_seed);
      else if ("end" in line) end = line.end;
    }
    count += notes.length;
    if (notes.length) onNotes(notes); // also those that came with the error
    if (problem) throw problem;
  }
  if (end === null) throw brokenConnection(count); // a server that stops closes the connection without a last line
  return end;
}

/**
 * Generate the same take again, as a file.
 * @returns {Promise<{blob: Blob, name: string, model: string}>}
 */
export async function file(seed, settings, format) {
  const response = await request(path(settings, format, true), postOptions(seed));
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

function postOptions(seed) {
  return seed ? { method: "POST", body: seed, headers: { "Content-Type": MIDI } } : { method: "POST" };
}

/**
 * Fetch, and ask for an API key where the server wants one. Throw an AbortError where `options.signal` stopped it, and
 * a Problem for every other failure.
 * @returns {Promise<Response>} a success
 */
async function request(url, options = {}) {
  for (;;) {
    const sentKey = apiKey;
    let response;
    try {
      response = await fetch(url, sentKey ? { ...options, headers: { ...options.headers, "X-API-Key": sentKey } } : options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server does not answer. Is it still running, and are you still connected?");
    }
    if (response.ok) return response;
    if (response.status !== 401 || (apiKey === sentKey && !askForKey(sentKey))) throw await Problem.from(response);
  }
}

/** Ask the person for the server's key; it is never stored. @returns {boolean} whether they entered another one */
function askForKey(sentKey) {
  const answer = window.prompt(sentKey ? "This key is not valid. The key of this server:" : "This server needs a key:");
  if (answer && /^[!-~]+$/.test(answer.trim())) apiKey = answer.trim(); // what a header may hold
  return apiKey !== sentKey;
}

/** Yield the objects of an NDJSON body: an array for each piece of it that arrives. */
async function* linesOf(body, makeProblem) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // a TextDecoderStream would lose its last bytes when the connection breaks
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
    throw makeProblem();
  } finally {
    reader.cancel().catch(() => {}); // where the caller stops early
  }
  if (rest.trim()) throw makeProblem();
}

function brokenConnection(count) {
  return new Problem(
    count
      ? "The connection broke off before the end. What came is kept: you can continue from its end."
      : "The connection broke off before the first note.",
  );
}

function messageFor(status) {
  return MESSAGES[status] ?? `The server answered with an error (${status}).`;
}

/** Add a capital and a full stop. */
function sentence(text) {
  if (!text) return "";
  const capital = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
