/**
 * Plays notes in time, also while more notes are being generated. Holds the position; does not know how notes look.
 *
 * Where playback reaches the newest note, it waits until there is a second of music more.
 * @module
 */

import { Bank, Output, Piano } from "./sound.js";

/** @typedef {import("./format.js").Note} Note */
/**
 * @typedef {object} Music  what is played; it may grow
 * @property {Note[]} notes sorted by start
 * @property {boolean} growing more notes will come
 * @property {number} length seconds
 */

const INTERVAL = 50; // milliseconds between two looks at what to play next
const START_DELAY = 0.05; // seconds between `play` and the first note
const LOOKAHEAD = 0.25; // seconds of notes that are scheduled in advance
const LOOKAHEAD_HIDDEN = 1.6; // a browser runs the timers of a page in the background once a second
const BUFFER = 1.0; // seconds of music to wait for where playback has reached the newest note

export class Player {
  /** @param {(event: "state"|"problem", detail?: string) => void} notify */
  constructor(notify) {
    this.notify = notify;
    /** @type {Music} */
    this.music = { notes: [], growing: false, length: 0 };
    this.playing = false;
    this.waiting = false;
    this.volume = 0.8; // 0 to 1
    this.origin = 0; // the position, in seconds, …
    this.originTime = 0; // … at this time of the audio context
    this.next = 0; // index of the first note that is not scheduled yet
    /** @type {Promise<Piano>|null} */
    this.loading = null;
    this.piano = null;
    this.bank = null;
  }

  /** Fetch the samples before they are needed. */
  prepare() {
    this.bank ??= Bank.load().catch((error) => {
      this.bank = null;
      throw error;
    });
    return this.bank;
  }

  /** Where playback stands, in seconds. */
  get position() {
    if (!this.playing || this.waiting || !this.context) return this.origin;
    const elapsed = this.context.currentTime - this.originTime;
    return Math.min(this.origin + Math.max(0, elapsed), this.music.growing ? this.available : this.music.length);
  }

  /** Up to where all notes are there, in seconds: later ones begin after that. */
  get available() {
    const { notes, growing, length } = this.music;
    return growing ? (notes.length ? notes[notes.length - 1].start : 0) : length;
  }

  /** Play other music, or the same with more notes; the position stays the same. @param {Music} music */
  load(music) {
    const same = music.notes.slice(0, this.next).every((note, index) => note === this.music.notes[index]);
    this.music = music;
    if (same) return;
    const position = Math.min(this.position, this.available);
    this.piano?.silence();
    this.setOrigin(position);
  }

  async play(from = this.position) {
    if (from >= this.music.length - 0.01 && !this.music.growing) from = 0;
    this.playing = true; // at once, so that the button shows it and a second press stops it
    this.origin = from;
    this.waiting = true;
    this.notify("state");
    try {
      await this.startAudio();
    } catch (error) {
      this.playing = this.waiting = false;
      this.notify("problem", `There is no sound: ${error.message}`);
      this.notify("state");
      return;
    }
    if (!this.playing) return;
    this.waiting = false;
    this.setOrigin(this.origin);
    this.timer ??= setInterval(() => this.schedule(), INTERVAL);
    this.schedule();
  }

  pause() {
    this.origin = this.position;
    this.playing = this.waiting = false;
    clearInterval(this.timer);
    this.timer = undefined;
    this.piano?.silence();
    this.notify("state");
  }

  /** @param {number} seconds */
  seek(seconds) {
    const position = Math.max(0, Math.min(seconds, this.available));
    this.piano?.silence();
    this.setOrigin(position);
    this.notify("state");
  }

  /** @param {number} volume 0 to 1 */
  setVolume(volume) {
    this.volume = volume;
    if (this.output) this.output.volume.gain.setTargetAtTime(volume ** 2 * 1.5, this.context.currentTime, 0.02);
  }

  /** Strike a key now. @param {number} pitch @param {number} velocity @returns {() => void} a function that releases it */
  playKey(pitch, velocity) {
    let voice = null;
    let released = false;
    this.startAudio().then(
      () => {
        if (!released) voice = this.piano.strike(pitch, velocity, this.context.currentTime);
      },
      (error) => this.notify("problem", `There is no sound: ${error.message}`),
    );
    return () => {
      released = true;
      voice?.release(this.context.currentTime);
    };
  }

  /** Create the audio context and the piano in it. Browsers allow it only after a click or a key. */
  async startAudio() {
    if (!this.context) {
      if (navigator.audioSession) navigator.audioSession.type = "playback"; // an iPhone's mute switch is not for music
      this.context = new AudioContext({ latencyHint: "interactive" });
      this.output = new Output(this.context);
      this.setVolume(this.volume);
    }
    if (this.context.state !== "running") await this.context.resume();
    this.piano ??= new Piano(this.context, this.output.input, await this.prepare());
  }

  setOrigin(position) {
    this.origin = position;
    this.originTime = this.context ? this.context.currentTime + START_DELAY : 0;
    this.next = this.music.notes.findIndex((note) => note.start >= position - 0.001);
    if (this.next < 0) this.next = this.music.notes.length;
  }

  /** Schedule the notes of the next moments; wait where there are none yet; stop at the end. */
  schedule() {
    const { music } = this;
    if (this.waiting) {
      if (music.growing && this.available < this.origin + BUFFER) return;
      this.waiting = false; // `next` stays the same: the last note has been played already
      this.originTime = this.context.currentTime + START_DELAY;
      this.notify("state");
    }
    const { position } = this;
    const until = position + (document.hidden ? LOOKAHEAD_HIDDEN : LOOKAHEAD);
    for (; this.next < music.notes.length && music.notes[this.next].start < until; this.next++) {
      this.strike(music.notes[this.next]);
    }
    if (music.growing && position >= this.available) {
      this.origin = position;
      this.waiting = true;
      this.notify("state");
    } else if (!music.growing && position >= music.length) {
      this.origin = music.length;
      this.playing = false;
      clearInterval(this.timer);
      this.timer = undefined;
      this.notify("state");
    }
  }

  /** @param {Note} note */
  strike(note) {
    const when = Math.max(this.context.currentTime, this.originTime + note.start - this.origin);
    this.piano.strike(note.pitch, note.velocity, when)?.release(when + Math.max(0.05, note.end - note.start));
  }
}
