/**
 * Notes, some of them not made yet → strokes in time. Holds the position; knows nothing of how notes look.
 *
 * Where playing catches up with what is being made, it waits until there is a second of music again.
 * @module
 */

import { Bank, Output, Piano } from "./sound.js";

/** @typedef {import("./words.js").Note} Note */
/**
 * @typedef {object} Music  what is played; it may grow
 * @property {Note[]} notes sorted by start
 * @property {boolean} growing more notes will come
 * @property {number} length seconds
 */

const TICK = 50; // milliseconds
const LEAD = 0.05; // seconds between starting and the first stroke
const AHEAD = 0.25; // seconds of strokes given to the audio hardware
const AHEAD_HIDDEN = 1.6; // a page in the background is woken once a second
const CUSHION = 1.0; // seconds of music to have again before we go on

export class Player {
  /** @param {(what: "state"|"problem", detail?: string) => void} tell */
  constructor(tell) {
    this.tell = tell;
    /** @type {Music} */
    this.music = { notes: [], growing: false, length: 0 };
    this.playing = false;
    this.waiting = false;
    this.loudness = 0.8;
    this.origin = 0; // the position…
    this.started = 0; // …at this moment of the context
    this.next = 0; // the first note not struck yet
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

  /** Seconds. */
  get position() {
    if (!this.playing || this.waiting || !this.context) return this.origin;
    const heard = this.context.currentTime - this.started;
    return Math.min(this.origin + Math.max(0, heard), this.music.growing ? this.known : this.music.length);
  }

  /** Up to where no more notes can come. */
  get known() {
    const { notes, growing, length } = this.music;
    return growing ? (notes.length ? notes[notes.length - 1].start : 0) : length;
  }

  /** Take other music, or the same with more notes; the position stays. @param {Music} music */
  load(music) {
    const same = music.notes.slice(0, this.next).every((note, at) => note === this.music.notes[at]);
    this.music = music;
    if (same) return;
    const at = Math.min(this.position, this.known);
    this.piano?.hush();
    this.rebase(at);
  }

  async play(from = this.position) {
    if (from >= this.music.length - 0.01 && !this.music.growing) from = 0;
    this.playing = true; // at once: the button shows it, and a second press stops it
    this.origin = from;
    this.waiting = true;
    this.tell("state");
    try {
      await this.wake();
    } catch (error) {
      this.playing = this.waiting = false;
      this.tell("problem", `There is no sound: ${error.message}`);
      this.tell("state");
      return;
    }
    if (!this.playing) return;
    this.waiting = false;
    this.rebase(this.origin);
    this.timer ??= setInterval(() => this.tick(), TICK);
    this.tick();
  }

  pause() {
    this.origin = this.position;
    this.playing = this.waiting = false;
    clearInterval(this.timer);
    this.timer = undefined;
    this.piano?.hush();
    this.tell("state");
  }

  /** @param {number} to seconds */
  seek(to) {
    const at = Math.max(0, Math.min(to, this.known));
    this.piano?.hush();
    this.rebase(at);
    this.tell("state");
  }

  /** @param {number} part 0 to 1 */
  setVolume(part) {
    this.loudness = part;
    if (this.output) this.output.volume.gain.setTargetAtTime(part ** 2 * 1.5, this.context.currentTime, 0.02);
  }

  /** Strike a key now; returns how to let it go. @param {number} pitch @param {number} velocity */
  touch(pitch, velocity) {
    let voice = null;
    let over = false;
    this.wake().then(
      () => {
        if (!over) voice = this.piano.strike(pitch, velocity, this.context.currentTime);
      },
      (error) => this.tell("problem", `There is no sound: ${error.message}`),
    );
    return () => {
      over = true;
      voice?.release(this.context.currentTime);
    };
  }

  /** Make the context, in answer to a gesture as browsers want it, and the piano in it. */
  async wake() {
    if (!this.context) {
      if (navigator.audioSession) navigator.audioSession.type = "playback"; // an iPhone's mute switch is not for music
      this.context = new AudioContext({ latencyHint: "interactive" });
      this.output = new Output(this.context);
      this.setVolume(this.loudness);
    }
    if (this.context.state !== "running") await this.context.resume();
    this.piano ??= new Piano(this.context, this.output.input, await this.prepare());
  }

  rebase(at) {
    this.origin = at;
    this.started = this.context ? this.context.currentTime + LEAD : 0;
    this.next = this.music.notes.findIndex((note) => note.start >= at - 0.001);
    if (this.next < 0) this.next = this.music.notes.length;
  }

  tick() {
    const { music } = this;
    if (this.waiting) {
      if (music.growing && this.known < this.origin + CUSHION) return;
      this.waiting = false; // `next` stays: the last note has been struck already
      this.started = this.context.currentTime + LEAD;
      this.tell("state");
    }
    const at = this.position;
    const ahead = document.hidden ? AHEAD_HIDDEN : AHEAD;
    for (; this.next < music.notes.length && music.notes[this.next].start < at + ahead; this.next++) {
      this.strike(music.notes[this.next]);
    }
    if (music.growing && at >= this.known) {
      this.origin = at;
      this.waiting = true;
      this.tell("state");
    } else if (!music.growing && at >= music.length) {
      this.origin = music.length;
      this.playing = false;
      clearInterval(this.timer);
      this.timer = undefined;
      this.tell("state");
    }
  }

  /** @param {Note} note */
  strike(note) {
    const when = Math.max(this.context.currentTime, this.started + note.start - this.origin);
    this.piano.strike(note.pitch, note.velocity, when)?.release(when + Math.max(0.05, note.end - note.start));
  }
}
