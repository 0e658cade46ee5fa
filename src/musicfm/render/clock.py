"""From places in a score to seconds: tempo, its drift, swing, and silences."""

from dataclasses import dataclass

from musicfm.render.dice import Dice


@dataclass(frozen=True, slots=True)
class Feel:
    """How a song is timed."""

    beats_per_minute: float
    drift: float
    """Fraction of the tempo by which it wanders at most."""
    tempo_jitter: float
    """Fraction by which it differs from beat to beat."""
    swing: float
    """Where the second eighth or sixteenth of a pair falls, from 0.5 (even) to 0.67."""
    swing_steps: int
    """Length of a swung pair, in steps; 0 if nothing swings."""
    ritardando: float
    """Fraction by which the last two bars slow down."""


class Clock:
    """The times of all steps (sixteenth notes) of a score.

    Args:
        dice: of the drift.
        feel: tempo and swing.
        steps_per_bar: of the metre.
        steps_per_beat: of the metre.
        num_bars: of the score. One bar more comes before it, for a pickup, and two after.
        start: seconds at which the first bar begins.
        pauses: seconds of silence before some bars.
    """

    def __init__(
        self,
        dice: Dice,
        feel: Feel,
        steps_per_bar: int,
        steps_per_beat: int,
        num_bars: int,
        start: float,
        pauses: dict[int, float],
    ) -> None:
        self._offset = steps_per_bar
        shape = _shape(feel, steps_per_beat)
        self._starts: list[float] = []
        self._ends: list[float] = [0.0]
        """Seconds at which a note that ends at a step ends: before a pause."""
        time, wander = 0.0, 0.0
        beats_per_bar = steps_per_bar // steps_per_beat
        for bar in range(-1, num_bars + 2):
            time += pauses.get(bar, 0.0)
            wander = max(-1.0, min(1.0, wander + dice.triangular(0.5)))
            slowing = feel.ritardando if num_bars - 2 <= bar else 0.0
            for _ in range(beats_per_bar):
                tempo = feel.beats_per_minute * (1.0 + feel.drift * wander) * (1.0 - slowing)
                beat = 60.0 / tempo * (1.0 + dice.triangular(feel.tempo_jitter))
                self._starts += [time + beat * part for part in shape[:-1]]
                self._ends += [time + beat * part for part in shape[1:]]
                time += beat
        shift = start - self._starts[steps_per_bar]
        self._starts = [time + shift for time in self._starts]
        self._ends = [time + shift for time in self._ends]
        self._ends[0] = self._starts[0]

    def start(self, step: int) -> float:
        """When what begins at a step begins, in seconds; step 0 begins the first bar."""
        return self._starts[step + self._offset]

    def end(self, step: int) -> float:
        """When what lasts until a step ends, in seconds."""
        return self._ends[step + self._offset]


def _shape(feel: Feel, steps_per_beat: int) -> list[float]:
    """Where the steps of a beat fall, as parts of it, from 0 to 1."""
    shape = [step / steps_per_beat for step in range(steps_per_beat + 1)]
    if feel.swing_steps:
        pair = feel.swing_steps / steps_per_beat
        for i, part in enumerate(shape):
            pairs = int(part / pair + 1e-9)
            within = part / pair - pairs
            bent = (
                within * 2 * feel.swing
                if within <= 0.5
                else feel.swing + (within - 0.5) * 2 * (1 - feel.swing)
            )
            shape[i] = (pairs + bent) * pair
    return shape
