"""A song's notes to sound, with the samples of a sound font.

The signal path of SoundFont 2.04 (section 9): the sample and its loop, resampled to the pitch;
a resonant low-pass; an amplifier; pan. Two low-frequency oscillators and two envelopes move pitch,
cutoff and level. Reverb and chorus are left to the song's production, and so are modulators but
for velocity's on level.

What a zone sounds like at a key is made once for a part, as long as the longest note needs it;
each note is then two multiplications, up to its end and after it. So the modulation envelope
doesn't hear the end of a note: its release is left out.

Samples are float32 and nothing is threaded. Two machines give the same up to rounding: 1e-4 of the
recording's RMS, but for codecs, which differ with the version of their library.
"""

import bisect
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import soxr

from musicfm.errors import SoundFontError
from musicfm.render.dice import Dice
from musicfm.render.effects import amplify, produce
from musicfm.render.song import Part, Song
from musicfm.render.soundfont import Gen, SoundFont, Zone

_Samples: TypeAlias = npt.NDArray[np.float32]
_Doubles: TypeAlias = npt.NDArray[np.float64]
_Cents = TypeVar("_Cents", float, _Doubles)

_DRUM_BANK = 128
_CHOKE_SECONDS = 0.01  # how fast a hi-hat that closes ends the open one
_SILENCE_DB = 80.0  # by so much below its peak a sound has ended
_LEVEL = 0.1  # RMS of a levelled part: -20 dB
_SILENCE = 10 ** (-_SILENCE_DB / 20)
_DECAY_DB = 100.0  # what the times of decay and release are for (8.1.3)
_ATTENUATION = 0.4  # decibels for a decibel written, as the hardware had it that fonts were made on
_SLOWEST, _FASTEST = 2**-10, 2**7  # samples of a recording for each that is played
_OPEN_CENTS = 13_500  # the cutoff that stands for no filter
_MARGIN = 150  # samples beyond the last, which the resampler's filter reaches
_NEVER = 1 << 62
# The generators of an envelope.
_VOLUME = (
    Gen.VOL_ENV_DELAY, Gen.VOL_ENV_ATTACK, Gen.VOL_ENV_HOLD, Gen.KEY_TO_VOL_ENV_HOLD,
    Gen.VOL_ENV_DECAY, Gen.KEY_TO_VOL_ENV_DECAY,
)  # fmt: skip
_MODULATION = (
    Gen.MOD_ENV_DELAY, Gen.MOD_ENV_ATTACK, Gen.MOD_ENV_HOLD, Gen.KEY_TO_MOD_ENV_HOLD,
    Gen.MOD_ENV_DECAY, Gen.KEY_TO_MOD_ENV_DECAY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Strike:
    """A note as one zone plays it; times in samples."""

    start: int
    held: int
    """Samples until the key is let go."""
    choked: int
    """Samples until another sound of its exclusive class ends it."""
    gain: float


@dataclass(frozen=True, slots=True, eq=False)
class _Tone:
    """What a zone sounds like at a key: float32, as long as is needed or until it has ended."""

    wave: _Samples
    """The sound before the volume envelope, shape (samples,)."""
    level: _Samples
    """The volume envelope while the key is held, shape (samples,)."""
    held: _Samples
    """Their product."""


def synthesize(song: Song, fonts: SoundFont | Sequence[SoundFont], sample_rate: int) -> _Samples:
    """Play a song.

    Args:
        song: a note that started before 0 is heard from 0 on.
        fonts: see `cast`.
        sample_rate: of the result, in Hz.

    Returns:
        Float32, shape (``round(song.duration * sample_rate)``, 2): left and right.

    Raises:
        SoundFontError: no font has a program or a drum, or one has to stretch one of its
            recordings beyond measure.
        AudioError: the song's codec does not have the sample rate.
    """
    dry, send = mix(song, fonts, sample_rate)
    return np.ascontiguousarray(produce(dry, send, song.production, sample_rate).T)


def cast(song: Song, fonts: SoundFont | Sequence[SoundFont]) -> list[SoundFont]:
    """The sound font of each part of a song: drawn from those that have all of its sounds.

    One that is named more often is drawn more often; the same instrument has the same font in all
    parts. Drums are in bank 128, or the font is nothing but a drum kit. If none has them all, the
    first font is taken.
    """
    fonts = [fonts] if isinstance(fonts, SoundFont) else fonts
    chosen = []
    for part in song.parts:
        able = [font for font in fonts if _has(font, part)] if len(fonts) > 1 else []
        dice = Dice("font", song.seed, song.take, int(part.is_drums), part.program)
        chosen.append(dice.choice(able) if able else fonts[0])
    return chosen


def _has(font: SoundFont, part: Part) -> bool:
    zones = font.presets.get(_address(font, part), ())
    if not part.is_drums:
        return bool(zones)
    keys = {note.pitch for note in part.notes}
    return all(any(zone.keys[0] <= key <= zone.keys[1] for zone in zones) for key in keys)


def _address(font: SoundFont, part: Part) -> tuple[int, int]:
    """Bank and program of a part's preset."""
    is_kit = _is_kit(font)
    if is_kit and part.is_drums:
        return next(iter(font.presets))
    return (_DRUM_BANK if part.is_drums or is_kit else 0), part.program


def _is_kit(font: SoundFont) -> bool:
    """Whether a font is one drum kit: a preset whose sounds have a key each."""
    if len(font.presets) > 1:
        return False
    return all(zone.keys[0] == zone.keys[1] for zones in font.presets.values() for zone in zones)


def mix(
    song: Song, fonts: SoundFont | Sequence[SoundFont], sample_rate: int
) -> tuple[_Samples, _Samples]:
    """Play the parts of a song, before its production; as `synthesize`.

    Returns:
        The sound, and what goes to the reverb: float32, shape (2, samples).
    """
    num_samples = round(song.duration * sample_rate)
    dry = np.zeros((2, num_samples), np.float32)
    send = np.zeros((2, num_samples), np.float32)
    for part, font in zip(song.parts, cast(song, fonts), strict=True):
        sound = _play(part, font, song.production.cents, sample_rate, num_samples)
        if part.drive_db:
            sound[:] = amplify(sound.mean(axis=0), part.drive_db, sample_rate)
            sound *= np.array(_pan_amplitudes(part.pan), np.float32)[:, None]
        if part.levelled:
            sound *= np.float32(_LEVEL / max(_loudness(sound, sample_rate), _SILENCE))
        sound *= np.float32(_amplitude(part.gain_db))
        dry += sound
        sound *= np.float32(_amplitude(part.reverb_db))
        send += sound
    return dry, send


def _loudness(sound: _Samples, sample_rate: int) -> float:
    """RMS of the tenths of a second that are not 30 dB and more below the loudest."""
    size = sample_rate // 10
    whole = sound[:, : max(1, sound.shape[1] // size) * size]
    power = (whole.mean(axis=0).reshape(-1, min(size, whole.shape[1])) ** 2).mean(axis=1)
    return math.sqrt(power[power >= power.max() / 1000].mean())


def _play(
    part: Part, font: SoundFont, cents: float, sample_rate: int, num_samples: int
) -> _Samples:
    """One part, at 0 dB: shape (2, samples)."""
    sound = np.zeros((2, num_samples), np.float32)
    choke = _falling(_CHOKE_SECONDS, sample_rate)
    for (zone, key, held), strikes in _strikes(part, font, sample_rate).items():
        release = _falling(_seconds(zone[Gen.VOL_ENV_RELEASE]), sample_rate)
        num_needed = max(
            min(strike.held + len(release), num_samples - strike.start) for strike in strikes
        )
        if num_needed <= 0:  # all of them start after the end
            continue
        tone = _tone(zone, key, cents, sample_rate, num_needed, held)
        pan = _pan_amplitudes(zone[Gen.PAN] / 500 + part.pan)
        for strike in strikes:
            _add(sound, strike, tone, release, choke, pan)
    return sound


def _add(
    sound: _Samples,
    strike: _Strike,
    tone: _Tone,
    release: _Samples,
    choke: _Samples,
    pan: tuple[float, float],
) -> None:
    """Add a note to ``sound``, shape (2, samples)."""
    amplitudes = np.array(pan, np.float32)[:, None] * np.float32(strike.gain)
    available = min(len(tone.wave), sound.shape[1] - strike.start)
    held = min(strike.held, strike.choked, available)
    before = max(0, -strike.start)  # samples of it are over when the sound begins
    if held <= before:
        return
    sound[:, strike.start + before : strike.start + held] += amplitudes * tone.held[before:held]
    if held == available or tone.level[held] <= _SILENCE:
        return
    falling = choke if strike.choked <= strike.held else release
    # From a level that is low already, there is less of the release to hear.
    audible = math.ceil(len(falling) * (1 - math.log(tone.level[held], _SILENCE)))
    end = min(available, held + audible, strike.choked + len(choke))
    tail = tone.wave[held:end] * falling[: end - held]
    tail *= tone.level[held]
    if held < strike.choked < end:
        tail[strike.choked - held :] *= choke[: end - strike.choked]
    sound[:, strike.start + held : strike.start + end] += amplitudes * tail


def _strikes(
    part: Part, font: SoundFont, sample_rate: int
) -> dict[tuple[Zone, int, int | None], list[_Strike]]:
    """What the part's zones play at which keys.

    Where a loop is left at the end of a note, tones also differ by how long they are held.
    """
    preset = _preset(part, font)
    sounding = {
        strike: _sounding(preset, *strike, part, font)
        for strike in sorted({(note.pitch, note.velocity) for note in part.notes})
    }
    played = [(note, sounding[note.pitch, note.velocity]) for note in part.notes]
    onsets: defaultdict[int, set[int]] = defaultdict(set)  # of the sounds of exclusive classes
    for note, zones in played:
        for zone in zones:
            onsets[zone[Gen.EXCLUSIVE_CLASS]].add(round(note.start * sample_rate))
    onsets.pop(0, None)  # stands for none
    ascending = {exclusive: sorted(of_class) for exclusive, of_class in onsets.items()}
    strikes: defaultdict[tuple[Zone, int, int | None], list[_Strike]] = defaultdict(list)
    for note, zones in played:
        start = round(note.start * sample_rate)
        held = max(1, round(note.end * sample_rate) - start)
        for zone in zones:
            of_class = ascending.get(zone[Gen.EXCLUSIVE_CLASS], [])
            following = bisect.bisect_right(of_class, start)
            choked = of_class[following] - start if following < len(of_class) else _NEVER
            key = note.pitch if zone[Gen.KEY] < 0 else zone[Gen.KEY]
            velocity = note.velocity if zone[Gen.VELOCITY] < 0 else zone[Gen.VELOCITY]
            gain = (velocity / 127) ** 2 * _amplitude(-_ATTENUATION * zone[Gen.ATTENUATION] / 10)
            which = zone, key, held if zone.is_loop_left else None
            strikes[which].append(_Strike(start, held, choked, gain))
    return strikes


def _preset(part: Part, font: SoundFont) -> Sequence[Zone]:
    bank, program = _address(font, part)
    if (bank, program) not in font.presets:
        what = "drum kit" if part.is_drums else "program"
        has = ", ".join(str(program) for of, program in sorted(font.presets) if of == bank)
        raise SoundFontError(
            f"{font.name} has no {what} {part.program}; choose another font, or one of: {has}"
        )
    return font.presets[bank, program]


def _sounding(
    preset: Sequence[Zone], pitch: int, velocity: int, part: Part, font: SoundFont
) -> list[Zone]:
    """The zones that a note plays.

    Good fonts have gaps (TimGM6mb's alto saxophone has no E4), which the nearest keys fill.
    """
    fitting = [zone for zone in preset if zone.velocities[0] <= velocity <= zone.velocities[1]]
    distances = [max(zone.keys[0] - pitch, pitch - zone.keys[1], 0) for zone in fitting]
    nearest = min(distances, default=None)
    if nearest is None or (nearest > 0 and part.is_drums):
        raise SoundFontError(
            f"{font.name} has no sound for key {pitch} at velocity {velocity} in "
            f"{'drum kit' if part.is_drums else 'program'} {part.program}; choose another font"
        )
    return [zone for zone, distance in zip(fitting, distances, strict=True) if distance == nearest]


def _tone(
    zone: Zone, key: int, cents: float, sample_rate: int, num_samples: int, held: int | None
) -> _Tone:
    """At most ``num_samples`` of what a zone sounds like at a key; see `_strikes` for ``held``."""
    num_samples = min(num_samples, _audible_samples(zone, key, sample_rate))
    modulation = _Modulation(zone, key, sample_rate)
    wave = _pitched(zone, key, cents, modulation, num_samples, held)
    wave = _filtered(wave, zone, modulation)
    if zone[Gen.MOD_LFO_TO_VOLUME]:
        tremolo = modulation.lfo(np.arange(len(wave)) / sample_rate)
        wave *= _amplitudes(tremolo * (zone[Gen.MOD_LFO_TO_VOLUME] / 10))
    level = _volume_envelope(zone, key, len(wave), sample_rate)
    return _Tone(wave, level, wave * level)


class _Modulation:
    """What moves pitch, cutoff and level of a zone at a key; times are in seconds."""

    def __init__(self, zone: Zone, key: int, sample_rate: int) -> None:
        self._zone, self._key, self.sample_rate = zone, key, sample_rate

    def lfo(self, times: _Doubles) -> _Doubles:
        """The modulation oscillator, from -1 to 1."""
        zone = self._zone
        return _triangle(times, zone[Gen.MOD_LFO_DELAY], zone[Gen.MOD_LFO_FREQUENCY])

    def cents(self, times: _Doubles) -> _Doubles:
        """Deviation from the pitch."""
        zone = self._zone
        cents = np.zeros(len(times))
        if zone[Gen.VIB_LFO_TO_PITCH]:
            vibrato = _triangle(times, zone[Gen.VIB_LFO_DELAY], zone[Gen.VIB_LFO_FREQUENCY])
            cents += zone[Gen.VIB_LFO_TO_PITCH] * vibrato
        if zone[Gen.MOD_LFO_TO_PITCH]:
            cents += zone[Gen.MOD_LFO_TO_PITCH] * self.lfo(times)
        if zone[Gen.MOD_ENV_TO_PITCH]:
            cents += zone[Gen.MOD_ENV_TO_PITCH] * self._envelope(times)
        return cents

    def cutoff(self, times: _Doubles) -> _Doubles:
        """Of the low-pass, in absolute cents."""
        zone = self._zone
        cents = (
            zone[Gen.FILTER_CUTOFF]
            + zone[Gen.MOD_LFO_TO_CUTOFF] * self.lfo(times)
            + zone[Gen.MOD_ENV_TO_CUTOFF] * self._envelope(times)
        )
        return np.clip(cents, 1500, _OPEN_CENTS)

    def _envelope(self, times: _Doubles) -> _Doubles:
        """The modulation envelope, from 0 to 1, while the key is held."""
        delay, attack, hold, decay = _stages(self._zone, self._key, _MODULATION)
        fall = self._zone[Gen.MOD_ENV_SUSTAIN] / 1000
        rising = np.clip((times - delay) / attack, 1e-9, 1)
        convex = np.clip(1 + 40 / 96 * np.log10(rising), 0, 1)  # its attack is convex
        return convex - np.clip((times - delay - attack - hold) / decay, 0, fall)


def _pitched(
    zone: Zone, key: int, cents: float, modulation: _Modulation, num_samples: int, held: int | None
) -> _Samples:
    """The sample at the pitch of the key: band-limited, so that it doesn't alias."""
    cents += zone[Gen.SCALE_TUNING] * (key - zone.root_key)
    cents += 100 * zone[Gen.COARSE_TUNE] + zone[Gen.FINE_TUNE] + zone.correction
    # Samples of the recording for each that is played.
    step = zone.sample_rate / modulation.sample_rate * 2 ** (cents / 1200)
    movers = Gen.VIB_LFO_TO_PITCH, Gen.MOD_LFO_TO_PITCH, Gen.MOD_ENV_TO_PITCH
    reach = sum(abs(zone[mover]) for mover in movers)
    if reach == 0:
        return _stretched(_unrolled(zone, key, step, num_samples, held), step)[:num_samples]
    if zone.loop == (0, 0):  # no time is spent on what lies beyond its end
        num_samples = min(num_samples, math.ceil(len(zone.sample.pcm) / step * 2 ** (reach / 1200)))
    speed = 2 ** (modulation.cents(np.arange(num_samples) / modulation.sample_rate) / 1200)
    fastest = speed.max()
    # Limited to what the fastest moment can hold, then read between samples four times as dense.
    source = _unrolled(zone, key, step * fastest, num_samples, held)
    dense = _stretched(_stretched(source, step * fastest), 1 / 4)
    return _cubic(dense, (np.cumsum(speed) - speed[0]) * (4 / fastest))


def _unrolled(zone: Zone, key: int, step: float, num_samples: int, held: int | None) -> _Samples:
    """The recording for ``num_samples`` steps, with its loop repeated as often as it takes."""
    if not _SLOWEST <= step <= _FASTEST:
        raise SoundFontError(
            f"the sound font plays key {key} with a recording at {step:.3g} times its pitch; "
            "choose another font, or keys nearer to the middle"
        )
    count = math.ceil(num_samples * step + _MARGIN * max(1, step))
    pcm = zone.sample.pcm
    start, end = zone.loop
    if end:
        reach, rest = count, pcm[end:end]
        if zone.is_loop_left and held is not None:
            reach, rest = min(count, math.ceil(held * step)), pcm[end:]
        repeats = max(0, math.ceil((reach - end) / (end - start)))
        pcm = np.concatenate([pcm[:end], np.tile(pcm[start:end], repeats), rest])
    pcm = pcm[:count]
    source = np.zeros(max(_MARGIN, len(pcm)), np.float32)
    source[: len(pcm)] = pcm
    source *= np.float32(2**-15)
    return source


def _stretched(source: _Samples, step: float) -> _Samples:
    return soxr.resample(source, step, 1.0, quality="HQ")


def _cubic(samples: _Samples, positions: _Doubles) -> _Samples:
    """Between samples: the third-order polynomials of Catmull and Rom."""
    positions = positions[positions < len(samples) - 3]
    index = positions.astype(np.int64)
    x = (positions - index).astype(np.float32)
    padded = np.concatenate([samples[:1], samples])
    before, here, after, beyond = (padded[index + offset] for offset in range(4))
    linear = (after - before) / 2
    square = before - 2.5 * here + 2 * after - beyond / 2
    cube = 1.5 * (here - after) + (beyond - before) / 2
    return here + x * (linear + x * (square + x * cube))


def _filtered(wave: _Samples, zone: Zone, modulation: _Modulation) -> _Samples:
    """The resonant low-pass of second order, with a cutoff that moves.

    Windows of 20 ms that overlap by half are filtered each with the response at its time.
    """
    rate = modulation.sample_rate
    hop = 1 << round(math.log2(rate / 100))
    num_frames = len(wave) // hop + 2
    # The first window has half of its weight before the sound begins.
    times = np.maximum(np.arange(num_frames), 1 / 3) * (hop / rate)
    cutoff = modulation.cutoff(times)
    if cutoff.min() == _OPEN_CENTS and not zone[Gen.FILTER_Q]:
        return wave
    # At 0 dB it is Butterworth's; half of the resonance's height is taken off the whole.
    height = 10 ** (zone[Gen.FILTER_Q] / 200)
    relative = np.fft.rfftfreq(4 * hop, 1 / rate) / _hertz(cutoff)[:, None]
    inverse = math.sqrt(height) * (1 - relative**2) + 1j * math.sqrt(2 / height) * relative
    padded = np.zeros((num_frames + 1) * hop, np.float32)
    padded[hop : hop + len(wave)] = wave
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop] * window
    spectra = np.fft.rfft(frames, 4 * hop) / inverse.astype(np.complex64)
    parts = np.fft.irfft(spectra, 4 * hop).reshape(num_frames, 4, hop)
    overlaid = np.zeros((num_frames + 3, hop), np.float32)
    for offset in range(4):
        overlaid[offset : offset + num_frames] += parts[:, offset]
    return overlaid.reshape(-1)[hop : hop + len(wave)].copy()


def _volume_envelope(zone: Zone, key: int, num_samples: int, sample_rate: int) -> _Samples:
    """The level while the key is held: it rises in amplitude and falls in decibels."""
    delay, attack, hold, decay = _stages(zone, key, _VOLUME)
    times = np.arange(num_samples) / sample_rate - delay
    rising = np.clip(times / attack, 0, 1).astype(np.float32)
    fall = zone[Gen.VOL_ENV_SUSTAIN] / 10
    return rising * _amplitudes(-np.clip((times - attack - hold) * (_DECAY_DB / decay), 0, fall))


def _audible_samples(zone: Zone, key: int, sample_rate: int) -> int:
    """How long a note is heard at most while its key is held."""
    if zone[Gen.VOL_ENV_SUSTAIN] / 10 < _SILENCE_DB:
        return _NEVER
    delay, attack, hold, decay = _stages(zone, key, _VOLUME)
    return math.ceil((delay + attack + hold + decay * _SILENCE_DB / _DECAY_DB) * sample_rate)


def _stages(zone: Zone, key: int, envelope: tuple[Gen, ...]) -> tuple[float, ...]:
    """Seconds of delay, attack, hold and decay of an envelope at a key."""
    delay, attack, hold, key_to_hold, decay, key_to_decay = (zone[which] for which in envelope)
    held, falling = hold + key_to_hold * (60 - key), decay + key_to_decay * (60 - key)
    return _seconds(delay), _seconds(attack), _seconds(held), _seconds(falling)


def _falling(seconds: float, sample_rate: int) -> _Samples:
    """A release, from 1 to silence; ``seconds`` are for 100 dB, and never so few that it clicks."""
    seconds = max(seconds, _CHOKE_SECONDS)
    times = np.arange(math.ceil(seconds * _SILENCE_DB / _DECAY_DB * sample_rate)) / sample_rate
    return _amplitudes(times * (-_DECAY_DB / seconds))


def _triangle(times: _Doubles, delay: int, frequency: int) -> _Doubles:
    """From 0 up, between -1 and 1."""
    phase = np.maximum(times - _seconds(delay), 0) * _hertz(float(frequency))
    return 1 - 4 * np.abs((phase + 0.25) % 1 - 0.5)


def _pan_amplitudes(pan: float) -> tuple[float, float]:
    """Left and right for a place from -1 to 1: of constant power, and both 1 in the middle."""
    angle = (min(1.0, max(-1.0, pan)) + 1) * math.pi / 4
    return math.sqrt(2) * math.cos(angle), math.sqrt(2) * math.sin(angle)


def _seconds(timecents: float) -> float:
    """Below -12000, which is a millisecond and stands for none, times stay as they are there."""
    return 2.0 ** (max(timecents, -12_000) / 1200)


def _hertz(cents: _Cents) -> _Cents:
    """From absolute cents, of which 6900 are 440 Hz; an LFO's 0 is 8.176 Hz likewise."""
    return 440.0 * 2.0 ** ((cents - 6900) / 1200)


def _amplitude(decibels: float) -> float:
    return 10.0 ** (decibels / 20)


def _amplitudes(decibels: _Doubles) -> _Samples:
    return np.exp(decibels.astype(np.float32) * np.float32(math.log(10) / 20))
