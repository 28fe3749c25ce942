/**
 * Samples of a piano → sound. Plays what `music/audio/browser_samples.py` cut out of the sound font, the way SoundFont 2 says:
 * a looped sample, tuned to the key, through a filter and an amplifier that each follow an envelope. Plain Web Audio
 * nodes: an AudioWorklet would want HTTPS, and a phone in the same house opens this page over HTTP.
 * @module
 */

/** @typedef {{release: (when: number) => void, stop: (when: number) => void}} Voice */

const SILENT = 1e-5; // -100 dB
const MOST_VOICES = 96; // a phone's worth; the oldest one goes first
const LOUDNESS = 3.4; // the four examples then peak between -10 and -5 dB; the limiter sees to what is louder
const ROOM = { seconds: 1.8, share: 0.16 };
const FADE = 0.03; // seconds in which a voice stops without a click

/** Everything between the voices and the loudspeaker. */
export class Output {
  /** @param {BaseAudioContext} context */
  constructor(context) {
    this.input = new GainNode(context, { gain: LOUDNESS });
    this.volume = new GainNode(context, { gain: 1 });
    const limiter = new DynamicsCompressorNode(context, { threshold: -9, knee: 8, ratio: 8, attack: 0.004, release: 0.2 });
    const room = new ConvolverNode(context, { buffer: echo(context) });
    const share = new GainNode(context, { gain: ROOM.share });
    this.input.connect(limiter);
    this.input.connect(room).connect(share).connect(limiter);
    limiter.connect(this.volume).connect(context.destination);
  }
}

/** A grand piano in a context. */
export class Piano {
  /**
   * @param {BaseAudioContext} context
   * @param {AudioNode} output
   * @param {Bank} bank
   */
  constructor(context, output, bank) {
    this.context = context;
    this.output = output;
    this.bank = bank;
    /** @type {Voice[]} */
    this.voices = [];
  }

  /**
   * Strike a key.
   * @param {number} pitch @param {number} velocity 1 to 127 @param {number} when the context's seconds
   * @returns {Voice|null} null where the font has no sample for the key
   */
  strike(pitch, velocity, when) {
    const zone = this.bank.zone(pitch, velocity);
    if (!zone) return null;
    const { context } = this;
    const sample = this.bank.samples[zone.sample];
    const peak = zone.gain * (velocity / 127) ** 2; // SoundFont 2.04, section 8.4.1
    const cents = (pitch - zone.root) * zone.cents_a_key + zone.cents;
    const source = new AudioBufferSourceNode(context, { buffer: sample.buffer, playbackRate: 2 ** (cents / 1200) });
    if (zone.loop) {
      source.loop = true;
      [source.loopStart, source.loopEnd] = zone.loop.map((frame) => frame / sample.rate);
    }
    const filter = new BiquadFilterNode(context, { type: "lowpass", frequency: zone.filter.hertz, Q: 0 });
    const amplifier = new GainNode(context, { gain: 0 });
    source.connect(filter).connect(amplifier).connect(this.output);

    const top = Math.log2(context.sampleRate / 2.1 / zone.filter.hertz) * 1200;
    brighten(filter.detune, zone.filter, when, top);
    const level = loudness(amplifier.gain, zone.loudness, peak, when);
    source.start(when);

    /** @type {{at: number, from: number, seconds: number}|null} */
    let fallen = null;
    const fall = (from, seconds) => {
      const at = Math.max(from, context.currentTime, when + 0.005);
      const over = fallen && at > fallen.at ? (at - fallen.at) / fallen.seconds : -1;
      const now = over < 0 ? level(at - when) : fallen.from * (SILENT / fallen.from) ** Math.min(1, over);
      amplifier.gain.cancelScheduledValues(at); // takes the ramp that we are on away, so it is drawn again up to here
      const bent = over >= 0 || at - when > zone.loudness.attack + zone.loudness.hold;
      if (bent) amplifier.gain.exponentialRampToValueAtTime(Math.max(now, SILENT), at);
      else amplifier.gain.setValueAtTime(Math.max(now, SILENT), at);
      amplifier.gain.exponentialRampToValueAtTime(SILENT, at + seconds);
      source.stop(at + seconds);
      fallen = { at, from: Math.max(now, SILENT), seconds };
    };
    const voice = {
      release: (at) => fall(at, Math.max(0.08, zone.loudness.release * 0.6)),
      stop: (at) => {
        if (at < when) amplifier.disconnect(); // not struck yet
        fall(at, FADE);
      },
    };
    source.onended = () => {
      amplifier.disconnect();
      this.voices = this.voices.filter((other) => other !== voice);
    };
    this.voices.push(voice);
    if (this.voices.length > MOST_VOICES) this.voices.shift().stop(context.currentTime);
    return voice;
  }

  /** Let everything fall silent. */
  hush() {
    for (const voice of this.voices) voice.stop(this.context.currentTime);
    this.voices = [];
  }
}

/** The samples, as the server cut them out of the sound font. */
export class Bank {
  /** @param {{samples: object[], zones: object[]}} facts @param {ArrayBuffer} frames 16 bits each */
  constructor(facts, frames) {
    const wave = new DataView(frames);
    this.zones = facts.zones;
    this.samples = facts.samples.map(({ first, frames: length, rate }) => {
      const buffer = new AudioBuffer({ length, sampleRate: rate });
      const channel = buffer.getChannelData(0);
      for (let at = 0; at < length; at++) channel[at] = wave.getInt16(2 * (first + at), true) / 32768;
      return { buffer, rate };
    });
  }

  static async load() {
    const replies = await Promise.all([fetch("/piano.json"), fetch("/piano.pcm")]);
    const bad = replies.find((reply) => !reply.ok);
    if (bad) throw new Error((await bad.json().catch(() => ({}))).detail ?? `the server answered ${bad.status}`);
    return new Bank(await replies[0].json(), await replies[1].arrayBuffer());
  }

  zone(pitch, velocity) {
    const inside = (range, value) => range[0] <= value && value <= range[1];
    return this.zones.find((zone) => inside(zone.keys, pitch) && inside(zone.velocities, velocity));
  }
}

/** The filter opens with the stroke and closes slowly: linear in cents, as `detune` is. */
function brighten(detune, envelope, when, top) {
  const open = Math.min(envelope.cents, top);
  const from = when + envelope.attack;
  detune.setValueAtTime(0, when);
  detune.linearRampToValueAtTime(open, from);
  detune.setValueAtTime(open, from + envelope.hold);
  const rest = Math.min(envelope.cents * envelope.sustain, top);
  detune.linearRampToValueAtTime(rest, from + envelope.hold + envelope.decay * (1 - envelope.sustain));
}

/** Attack, hold and decay; returns the level so many seconds after the stroke, as browsers cannot all tell. */
function loudness(gain, envelope, peak, when) {
  const { attack, hold, decay } = envelope;
  const rest = Math.max(peak * 10 ** (envelope.sustain_db / 20), SILENT);
  const fading = (decay * -envelope.sustain_db) / 100; // a decay's seconds are those of 100 dB
  gain.setValueAtTime(0, when);
  gain.linearRampToValueAtTime(peak, when + attack);
  gain.setValueAtTime(peak, when + attack + hold);
  if (fading > 0) gain.exponentialRampToValueAtTime(rest, when + attack + hold + fading);
  return (after) => {
    if (after < attack) return (peak * after) / attack;
    const part = fading > 0 ? Math.min(1, Math.max(0, (after - attack - hold) / fading)) : 0;
    return peak * (rest / peak) ** part;
  };
}

/** A small room: noise that dies away, another one for each ear. */
function echo(context) {
  const length = Math.round(ROOM.seconds * context.sampleRate);
  const buffer = new AudioBuffer({ length, numberOfChannels: 2, sampleRate: context.sampleRate });
  for (let ear = 0; ear < 2; ear++) {
    const channel = buffer.getChannelData(ear);
    let dull = 0;
    for (let at = 0; at < length; at++) {
      dull += 0.35 * (Math.random() * 2 - 1 - dull); // a low pass: rooms swallow what is high
      channel[at] = dull * (1 - at / length) ** 3;
    }
  }
  return buffer;
}
