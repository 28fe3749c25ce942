/**
 * A take → a file, or a link that makes it again. Knows nothing of how it came about.
 * @module
 */

import * as api from "./api.js";
import * as link from "./link.js";
import { by, complain, failed, say, state } from "./stage.js";
import { make } from "./takes.js";

/** @typedef {import("./takes.js").Take} Take */

/** @param {Take} take @param {string} format */
export async function download(take, format) {
  say(`Take ${take.number} is being made as ${format} …`);
  try {
    const { blob, name, model } = await api.file(take.seed.bytes, { ...take.settings, notes: asked(take) }, format);
    const href = URL.createObjectURL(blob);
    make("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
    say(`Take ${take.number}: ${name}.`);
    if (model && take.model && model !== take.model) {
      complain(`${name} was made by ${model}, and what you heard by ${take.model}: it may differ.`);
    }
  } catch (error) {
    failed(error);
  }
}

/** How many notes to ask for, to have a take again: one that ended by itself does so again. @param {Take} take */
function asked(take) {
  return Math.max(1, take.settings.notes);
}

/** @param {Take} take */
export async function copyLink(take) {
  const { url, whole } = await link.write(take.seed, { ...take.settings, notes: asked(take) }, take.model);
  const missing = whole ? "" : ` The beginning is too long for a link: send ${take.seed.name} along.`;
  try {
    await navigator.clipboard.writeText(url);
    say(`The link to take ${take.number} is copied.${missing}`);
  } catch {
    const field = make("input", { className: "link", value: url, readOnly: true }); // without HTTPS there is no clipboard
    field.setAttribute("aria-label", `Link to take ${take.number}`);
    by("status").replaceChildren("Copy this link: ", field, missing);
    field.select();
  }
}

/** Keep the address of the page such that it makes this take again. @param {Take} take */
export async function remember(take) {
  const { url } = await link.write(take.seed, { ...take.settings, notes: asked(take) }, take.model);
  if (state.take === take) history.replaceState(null, "", url);
}
