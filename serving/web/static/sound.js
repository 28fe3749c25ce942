/**
 * Turns samples of a piano into sound. It plays what `music/audio/browser_samples.py` cut out of the sound font as SoundFont 2
 * specifies: a looped sample, tuned to the key, through a filter and an amplifier that each follow an envelope. It uses plain
 * Web Audio nodes: an AudioWorklet needs HTTPS, and a phone in the same house opens this page over HTTP.
 * @module
 */

/** @typedef {{release: (when: number) => void, stop: (when: number) => void}} Voice */

const SILENT = 1e-5; // -100 dB
const MAX_VOICES = 96; // as many as a phone can play; the oldest one is stopped first
const GAIN = 3.4; // the four examples then peak between -10 and -5 dB; the limiter holds what is louder
const REVERB = { seconds: 1.8, gain: 0.16 };
const FADE = 0.03; // seconds: a voice that stopped faster would click

/** What lies between the voices and the loudspeaker: reverb, limiter, volume. */
export class Output {
  /** @param {BaseAudioContext} context */
  constructor(context) {
    this.input = new GainNode(context, { gain: GAIN });
    this.volume = new GainNode(context, { gain: 1 });
    const limiter = new DynamicsCompressorNode(context, { threshold: -9, knee: 8, ratio: 8, attack: 0.004, release: 0.2 });
    const reverb = new ConvolverNode(context, { buffer: impulseResponse(context) });
    const reverbGain = new GainNode(context, { gain: REVERB.gain });
    this.input.connect(limiter);
    this.input.connect(reverb).connect(reverbGain).connect(limiter);
    limiter.connect(this.volume).connect(context.destination);
  }
}

/** A piano in an audio context. */
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

    const maxCents = Math.log2(context.sampleRate / 2.1 / zone.filter.hertz) * 1200;
    scheduleFilter(filter.detune, zone.filter, when, maxCents);
    const levelAfter = scheduleGain(amplifier.gain, zone.loudness, peak, when);
    source.start(when);

    /** @type {{start: number, level: number, seconds: number}|null} the last fade-out: from which level, when, how long */
    let lastFade = null;
    const fadeOut = (time, seconds) => {
      const start = Math.max(time, context.currentTime, when + 0.005);
      const faded = lastFade && start > lastFade.start ? (start - lastFade.start) / lastFade.seconds : -1;
      const now = faded < 0 ? levelAfter(start - when) : lastFade.level * (SILENT / lastFade.level) ** Math.min(1, faded);
      const level = Math.max(now, SILENT);
      amplifier.gain.cancelScheduledValues(start); // it cancels the ramp that runs, which is drawn again up to `start`
      const onRamp = faded >= 0 || start - when > zone.loudness.attack + zone.loudness.hold;
      if (onRamp) amplifier.gain.exponentialRampToValueAtTime(level, start);
      else amplifier.gain.setValueAtTime(level, start);
      amplifier.gain.exponentialRampToValueAtTime(SILENT, start + seconds);
      source.stop(start + seconds);
      lastFade = { start, level, seconds };
    };
    const voice = {
      release: (time) => fadeOut(time, Math.max(0.08, zone.loudness.release * 0.6)),
      stop: (time) => {
        if (time < when) amplifier.disconnect(); // it has not begun yet
        fadeOut(time, FADE);
      },
    };
    source.onended = () => {
      amplifier.disconnect();
      this.voices = this.voices.filter((other) => other !== voice);
    };
    this.voices.push(voice);
    if (this.voices.length > MAX_VOICES) this.voices.shift().stop(context.currentTime);
    return voice;
  }

  /** Stop all voices. */
  silence() {
    for (const voice of this.voices) voice.stop(this.context.currentTime);
    this.voices = [];
  }
}

/** The samples, and which key plays which one (its zone), as the server cut them out of the sound font. */
export class Bank {
  /** @param {{samples: object[], zones: object[]}} instrument @param {ArrayBuffer} frames 16 bits each */
  constructor(instrument, frames) {
    const wave = new DataView(frames);
    this.zones = instrument.zones;
    this.samples = instrument.samples.map(({ first, frames: length, rate }) => {
      const buffer = new AudioBuffer({ length, sampleRate: rate });
      const channel = buffer.getChannelData(0);
      for (let frame = 0; frame < length; frame++) channel[frame] = wave.getInt16(2 * (first + frame), true) / 32768;
      return { buffer, rate };
    });
  }

  static async load() {
    const replies = await Promise.all([fetch("/piano.json"), fetch("/piano.pcm")]);
    const failure = replies.find((reply) => !reply.ok);
    if (failure) throw new Error((await failure.json().catch(() => ({}))).detail ?? `the server answered ${failure.status}`);
    return new Bank(await replies[0].json(), await replies[1].arrayBuffer());
  }

  zone(pitch, velocity) {
    const inside = (range, value) => range[0] <= value && value <= range[1];
    return this.zones.find((zone) => inside(zone.keys, pitch) && inside(zone.velocities, velocity));
  }
}

/** Open the filter with the attack and close it slowly: linear in cents, the unit of `detune`. */
function scheduleFilter(detune, envelope, when, maxCents) {
  const open = Math.min(envelope.cents, maxCents);
  const from = when + envelope.attack;
  detune.setValueAtTime(0, when);
  detune.linearRampToValueAtTime(open, from);
  detune.setValueAtTime(open, from + envelope.hold);
  const sustain = Math.min(envelope.cents * envelope.sustain, maxCents);
  detune.linearRampToValueAtTime(sustain, from + envelope.hold + envelope.decay * (1 - envelope.sustain));
}

/**
 * Schedule attack, hold and decay of the gain.
 * @returns {(seconds: number) => number} the level so long after the onset, which not every browser can be asked for
 */
function scheduleGain(gain, envelope, peak, when) {
  const { attack, hold, decay } = envelope;
  const sustain = Math.max(peak * 10 ** (envelope.sustain_db / 20), SILENT);
  const decaySeconds = (decay * -envelope.sustain_db) / 100; // SoundFont 2 gives the seconds of a decay by 100 dB
  gain.setValueAtTime(0, when);
  gain.linearRampToValueAtTime(peak, when + attack);
  gain.setValueAtTime(peak, when + attack + hold);
  if (decaySeconds > 0) gain.exponentialRampToValueAtTime(sustain, when + attack + hold + decaySeconds);
  return (seconds) => {
    if (seconds < attack) return (peak * seconds) / attack;
    const decayed = decaySeconds > 0 ? Math.min(1, Math.max(0, (seconds - attack - hold) / decaySeconds)) : 0;
    return peak * (sustain / peak) ** decayed;
  };
}

/** The impulse response of a small room: noise that decays, different in each ear. */
function impulseResponse(context) {
  const length = Math.round(REVERB.seconds * context.sampleRate);
  const buffer = new AudioBuffer({ length, numberOfChannels: 2, sampleRate: context.sampleRate });
  for (let ear = 0; ear < 2; ear++) {
    const channel = buffer.getChannelData(ear);
    let lowPassed = 0;
    for (let frame = 0; frame < length; frame++) {
      lowPassed += 0.35 * (Math.random() * 2 - 1 - lowPassed); // rooms absorb high frequencies
      channel[frame] = lowPassed * (1 - frame / length) ** 3;
    }
  }
  return buffer;
}
