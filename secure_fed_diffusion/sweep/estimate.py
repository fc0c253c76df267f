"""What a cell will take, from its settings alone; what finished cells took corrects it.

`seconds` counts what a run does (private and plain examples, sampled steps, classifier images, messages) at
rates seen once on one core with the 160,000-parameter network of the experiments.  They are rough: another
machine or network is off by one common factor, which `Clock` takes from the cells that are done.

Not claimed: accuracy before the first cell is done.

>>> clock = Clock(); clock.learn(estimated=10.0, taken=30.0)
>>> clock.seconds(20.0), clock.learned
(60.0, 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.federation.settings import AveragingSettings, LocalSettings, RunSettings

_PIXELS = 784.0  # of the images at which the rates were seen
_PRIVATE_EXAMPLES = 400.0  # a second: gradient, clip, rounding
_PLAIN_EXAMPLES = 720.0  # a second
_SAMPLED_STEPS = 1500.0  # a second: one image, one step of the sampler
_CLASSIFIED = 2500.0  # a second: one image, one epoch of TSTR's classifier
_CLIENT_ROUND = 0.03  # seconds: keys, noise, mask, frames, ledger of one client
_START = 12.0  # seconds: imports, data, extractor, calibration
_ATTACK_PASSES = 2 * 2 * 1000 * 33  # images that membership inference shows to the network
_EXTRACTED = 3  # a metric's images cost about as much again as so many sampler steps


def n_rounds(settings: RunSettings) -> int:
    """Return how many rounds a run of these settings has."""
    return settings.warmup.rounds + int(getattr(settings.modes, settings.privacy.mode).rounds)


def seconds(settings: RunSettings) -> float:
    """Return the estimated seconds of one core of a run, at the rates above."""
    recipe: Any = getattr(settings.modes, settings.privacy.mode)
    federation = settings.federation
    rounds = n_rounds(settings)
    share = federation.clients_per_round / federation.clients
    records = federation.declared_records * share
    if isinstance(recipe, AveragingSettings):
        training = recipe.rounds * recipe.local_epochs * records / _PLAIN_EXAMPLES
    else:
        epochs = recipe.local_epochs if isinstance(recipe, LocalSettings) else recipe.sampling_rate
        training = recipe.rounds * epochs * records / _PRIVATE_EXAMPLES
    training *= settings.diffusion.noise_multiplicity
    if settings.warmup.draws:
        training += settings.warmup.steps * settings.warmup.batch / _PLAIN_EXAMPLES
    after_warmup = settings.warmup.draws > 0 and settings.evaluation.after_warmup
    evaluations = 1 + after_warmup + (recipe.rounds - 1) // settings.evaluation.every
    steps = settings.sampler.steps * settings.diffusion.truncation
    sampling = evaluations * settings.evaluation.samples * (steps + _EXTRACTED) / _SAMPLED_STEPS
    classifying = settings.evaluation.samples * settings.evaluation.tstr_epochs / _CLASSIFIED
    attacks = _ATTACK_PASSES / _SAMPLED_STEPS if settings.evaluation.attacks else 0.0
    _, height, width = facts(settings.data.name).image_shape
    by_pixels = height * width / _PIXELS
    messages = rounds * federation.clients_per_round * _CLIENT_ROUND
    return _START + messages + by_pixels * (training + sampling + classifying + attacks)


@dataclass(slots=True)
class Clock:
    """Turns estimates into seconds by what finished cells really took."""

    estimated: float = 0.0
    taken: float = 0.0
    learned: int = 0  # cells

    def learn(self, *, estimated: float, taken: float) -> None:
        """Take in one finished cell."""
        self.estimated += estimated
        self.taken += taken
        self.learned += 1

    def seconds(self, estimated: float) -> float:
        """Return the seconds that an estimate is worth here."""
        return estimated * self.taken / self.estimated if self.estimated else estimated


def duration(value: float) -> str:
    """Return seconds in words of one or two units.

    >>> duration(42), duration(300), duration(8000)
    ('42 s', '5 min', '2 h 13 min')
    """
    minutes = round(value / 60)
    if value < 90:
        return f"{value:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
