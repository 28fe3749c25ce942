/**
 * Reads and fills the form's fields, and connects a slider with each. Does not know what the settings do.
 * @module
 */

/** @typedef {import("./api.js").Settings} Settings */

const FIELDS = {
  ...{ notes: "notes", temperature: "temperature", top_p: "top-p", min_p: "min-p", random_seed: "random-seed" },
  ...{ style: "style", density: "density", loudness: "loudness", seconds: "seconds" },
};
const LINEAR = { min: 0, max: 1, step: 0.01, toValue: (position) => position, toSlider: (value) => value };
const SLIDERS = {
  notes: { min: 4, max: 12, step: 0.25, toValue: (position) => Math.round(2 ** position), toSlider: (value) => Math.log2(value) },
  temperature: { ...LINEAR, max: 2, step: 0.05 },
  "top-p": { ...LINEAR, min: 0.05, step: 0.05 },
  "min-p": { ...LINEAR, max: 0.5 },
};

/** Connect each field with its slider. Sliders are for the pointer only; keyboard and screen reader use the fields. */
export function connectSliders() {
  for (const slider of document.querySelectorAll(".slide")) {
    const field = document.getElementById(slider.dataset.for);
    const { min, max, step, toValue, toSlider } = SLIDERS[slider.dataset.for];
    Object.assign(slider, { min, max, step });
    const moveSlider = () => (slider.value = String(toSlider(Number(field.value))));
    slider.addEventListener("input", () => (field.value = String(Number(toValue(Number(slider.value)).toFixed(2)))));
    field.addEventListener("input", moveSlider);
    field.addEventListener("change", moveSlider);
    moveSlider();
  }
}

/** Show the fields of what can be asked of this model. @param {import("./api.js").Controls} controls */
export function showControls({ styles, density, loudness }) {
  const style = document.getElementById("style");
  const { value } = style;
  style.replaceChildren(new Option("as it comes", ""), ...styles.map((name) => new Option(name, name)));
  if (value) addStyle(style, value);
  style.value = value;
  for (const [id, values] of Object.entries({ density, loudness })) {
    Object.assign(document.getElementById(id), { min: values[0], max: values.at(-1) });
  }
  for (const id of ["controls", "end"]) document.getElementById(id).hidden = false;
}

/** Ask for nothing of a model that has no controls: a link may have filled their fields, which are hidden. */
export function clearControls() {
  fill({ style: null, density: null, loudness: null, seconds: null });
}

/** @returns {Settings|null} null where a field is invalid; the browser shows which */
export function read() {
  const settings = {};
  for (const [name, id] of Object.entries(FIELDS)) {
    const field = document.getElementById(id);
    if (id === "top-p") field.setCustomValidity(Number(field.value) > 0 ? "" : "More than 0: at 0 nothing would be left.");
    if (id === "min-p") field.setCustomValidity(Number(field.value) < 1 ? "" : "Less than 1: at 1 nothing would be left.");
    if (!field.checkValidity()) {
      field.closest("details")?.setAttribute("open", "");
      field.reportValidity();
      return null;
    }
    settings[name] = field.value === "" ? null : name === "style" ? field.value : Number(field.value);
  }
  if (settings.seconds !== null) settings.notes = null; // the piece ends at that second, however many notes it has
  return settings;
}

/** @param {Partial<Settings>} settings */
export function fill(settings) {
  for (const [name, id] of Object.entries(FIELDS)) {
    if (!(name in settings)) continue;
    const field = document.getElementById(id);
    if (name === "notes" && settings[name] === null) continue; // `seconds` says how long the piece is
    if (name === "style" && settings[name]) addStyle(field, settings[name]);
    field.value = settings[name] === null ? "" : String(settings[name]);
    field.dispatchEvent(new Event("change"));
  }
}

/** A link may name a part of a style's name, or come before the styles are known. */
function addStyle(field, style) {
  if (![...field.options].some(({ value }) => value === style)) field.append(new Option(style, style));
}
