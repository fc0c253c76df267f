"""What a run may set of its denoiser, its forward process and its sampler; no torch is needed to check it.

So a process that only answers a step of the secure sum never imports torch.  Only blocks whose
per-example gradients by `vmap` agree with a one-example-at-a-time loop may be named
(`tests/training/test_per_example.py` proves each of them); the others are refused by name, because a
wrong per-example gradient is a wrong clip and so a wrong epsilon.

Nothing here moves a sensitivity or an epsilon: a record's loss is averaged over all its draws before the
clip, and a sampler reads released weights alone.

>>> ModelSettings(channels=(8, 16)).blocks()[0]
('DownBlock2D', 'AttnDownBlock2D')
>>> require_sampler(DiffusionSettings(prediction="edm"), SamplerSettings(kind="edm", churn=40.0))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from secure_fed_diffusion.errors import ConfigError

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "KDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "KUpBlock2D")
WIDE_BLOCKS = ("KDownBlock2D", "KUpBlock2D", "AttnSkipDownBlock2D", "AttnSkipUpBlock2D")
WIDE_GROUP = 32  # diffusers fixes the size or the number of their normalisation groups at 32
RGB_DOWN_BLOCKS = ("SkipDownBlock2D", "AttnSkipDownBlock2D")
RGB_UP_BLOCKS = ("SkipUpBlock2D", "AttnSkipUpBlock2D")
TIME_EMBEDDINGS = ("positional", "learned")  # diffusers' Fourier embedding divides by t, and t may be 0
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "edm": "epsilon"}  # ours: diffusers'
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
SAMPLERS = {"epsilon": ("dpm++", "ddim"), "v": ("dpm++", "ddim"), "edm": ("edm", "dpm++")}  # by prediction
KINDS = tuple(dict.fromkeys(kind for kinds in SAMPLERS.values() for kind in kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The shape of the U-Net; one entry of `channels`, `down_blocks` and `up_blocks` a resolution."""

    channels: tuple[int, ...] = (16, 32)
    down_blocks: tuple[str, ...] = ()  # empty: DownBlock2D, and AttnDownBlock2D at the lowest resolution
    up_blocks: tuple[str, ...] = ()
    layers_per_block: int = 1
    norm_groups: int = 8
    attention_head_dim: int = 8
    middle_block: bool = True
    patch: int = 1  # pixels folded into channels along each axis before the network sees them
    time_embedding: str = "positional"

    def __post_init__(self) -> None:
        """Refuse what cannot be built or has no correct per-example gradient."""
        depth = len(self.channels)
        if depth < 2:
            raise ConfigError(f"expected at least 2 resolutions, got {depth}", key="model.channels")
        for width in self.channels:
            if width < 1 or self.norm_groups < 1 or width % self.norm_groups:
                raise ConfigError(
                    f"expected multiples of model.norm_groups={self.norm_groups}, got {width}",
                    key="model.channels",
                )
        for field in ("layers_per_block", "norm_groups", "attention_head_dim", "patch"):
            if getattr(self, field) < 1:
                raise ConfigError(f"expected >= 1, got {getattr(self, field)}", key=f"model.{field}")
        if self.time_embedding not in TIME_EMBEDDINGS:
            raise ConfigError(
                f"expected one of {', '.join(TIME_EMBEDDINGS)}, got {self.time_embedding!r}",
                key="model.time_embedding",
            )
        named = (("down_blocks", DOWN_BLOCKS, RGB_DOWN_BLOCKS), ("up_blocks", UP_BLOCKS, RGB_UP_BLOCKS))
        for field, allowed, rgb_only in named:
            blocks = getattr(self, field)
            if blocks and len(blocks) != depth:
                raise ConfigError(
                    f"expected {depth} entries, one for each of model.channels, got {len(blocks)}",
                    key=f"model.{field}",
                )
            for block in blocks:
                if block not in allowed + rgb_only:
                    raise ConfigError(
                        f"{block!r} has no proven per-example gradient; expected one of "
                        f"{', '.join(allowed)} (with 3 channels also {', '.join(rgb_only)})",
                        key=f"model.{field}",
                    )
                if block in WIDE_BLOCKS and any(width % WIDE_GROUP for width in self.channels):
                    raise ConfigError(
                        f"{block} needs widths that are multiples of {WIDE_GROUP}, got {list(self.channels)}",
                        key="model.channels",
                    )

    def blocks(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the down and the up blocks, defaults filled in."""
        depth = len(self.channels)
        down = self.down_blocks or ("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",)
        up = self.up_blocks or ("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1)
        return down, up


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionSettings:
    """The forward process and the target.

    `prediction` is "epsilon" or "v" on the discrete `schedule` of `timesteps` steps, or "edm": Karras et al.
    2022, table 1, with ln(sigma) ~ N(`p_mean`, `p_std`^2) and the constant `sigma_data`, which is public and
    not measured on anybody's records.  EDM's sigma is one of `timesteps` quantiles; it needs no `schedule`.

    `noise_multiplicity` K, `stratified` (a record's K steps fall into K equal parts of the process) and
    `label_dropout` (each draw hides the record's label with this probability; one more class embedding)
    shape the draws of ONE record, which its own key decides.  The K losses are averaged before the clip: one
    record still adds one clipped vector, and neither sensitivity nor accounting knows any of these keys.

    `truncation` is the share of the steps, the least noisy ones, that are trained and sampled: the network
    spends no capacity, and its gradients no budget, on noise levels at which a Gaussian for each class is as
    good.  Sampling then starts from images drawn from the released class Gaussians, so it needs class means
    (`warmup.draws`) and had better have their covariances.
    """

    prediction: str = "v"
    schedule: str = "cosine"
    timesteps: int = 1000
    noise_multiplicity: int = 1  # K draws of (t, eps) a record and step
    stratified: bool = False
    truncation: float = 1.0
    label_dropout: float = 0.0
    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        """Refuse unknown names and empty schedules."""
        if self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}",
                key="diffusion.prediction",
            )
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}", key="diffusion.schedule"
            )
        if self.timesteps < 2:
            raise ConfigError(f"expected >= 2, got {self.timesteps}", key="diffusion.timesteps")
        if self.noise_multiplicity < 1:
            raise ConfigError(
                f"expected >= 1, got {self.noise_multiplicity}", key="diffusion.noise_multiplicity"
            )
        _require(0.0 < self.truncation <= 1.0, "diffusion.truncation", "0 < share <= 1", self.truncation)
        _require(
            self.truncation == 1.0 or self.prediction != "edm",
            "diffusion.truncation",
            "1 with diffusion.prediction='edm'",
            self.truncation,
        )
        _require(0.0 <= self.label_dropout < 1.0, "diffusion.label_dropout", "0 <= p < 1", self.label_dropout)
        _require(0.0 < self.sigma_data <= 100.0, "diffusion.sigma_data", "0 < s <= 100", self.sigma_data)
        _require(-10.0 <= self.p_mean <= 10.0, "diffusion.p_mean", "-10 <= mean <= 10", self.p_mean)
        _require(0.0 < self.p_std <= 5.0, "diffusion.p_std", "0 < std <= 5", self.p_std)

    @property
    def trained_timesteps(self) -> int:
        """How many of the steps are trained and sampled: 0 to this, less one."""
        return max(1, round(self.truncation * self.timesteps))

    def class_rows(self, n_classes: int) -> int:
        """Return how many class embeddings the network has: one more, the last, where labels are dropped."""
        return n_classes + (self.label_dropout > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """From released weights to images: post-processing, so no key here costs or saves any privacy.

    `kind` "ddim": Song et al. 2021, eq. 12; `eta` 1 adds DDPM's noise back, 0 is deterministic.
    "dpm++": DPM-Solver++ (Lu et al. 2022) of `order` 1 to 3, multistep; `sde` in its stochastic form.
    "edm": Karras et al. 2022, algorithm 2, between `sigma_max` and `sigma_min`; `order` 2 is Heun's (two
    evaluations a step but the last), 1 Euler's; `churn`, `churn_min`, `churn_max`, `churn_noise` are its S.
    `guidance` w samples from (1 + w) output(label) - w output(no label) (Ho and Salimans 2022, eq. 6): 0 is
    off, above it each step evaluates the network on twice the batch.
    """

    kind: str = "dpm++"  # in 25 steps better than "ddim" in 50: experiments/recipe_ablation
    steps: int = 25
    batch: int = 250
    guidance: float = 0.0
    eta: float = 1.0
    sde: bool = True
    order: int = 2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    churn: float = 0.0
    churn_min: float = 0.05
    churn_max: float = 50.0
    churn_noise: float = 1.003

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        _require(self.kind in KINDS, "sampler.kind", f"one of {', '.join(KINDS)}", self.kind)
        if self.steps < 1:
            raise ConfigError(f"expected >= 1, got {self.steps}", key="sampler.steps")
        if not 0.0 <= self.eta <= 1.0:
            raise ConfigError(f"expected 0 <= eta <= 1, got {self.eta}", key="sampler.eta")
        for name, own, off in (("eta", "ddim", 1.0), ("churn", "edm", 0.0)):
            value = getattr(self, name)
            bound = f"{off:g} with sampler.kind={self.kind!r}, which has no {name}: it is of {own!r}"
            _require(self.kind == own or value == off, f"sampler.{name}", bound, value)
        if self.batch < 1:
            raise ConfigError(f"expected >= 1, got {self.batch}", key="sampler.batch")
        _require(0.0 <= self.guidance < math.inf, "sampler.guidance", "0 <= guidance, finite", self.guidance)
        highest = {"dpm++": 2 if self.sde else 3, "edm": 2}.get(self.kind, 3)
        form = f" with sampler.kind={self.kind!r}, sampler.sde={str(self.sde).lower()}"
        _require(1 <= self.order <= highest, "sampler.order", f"1 <= order <= {highest}{form}", self.order)
        _require(0.0 < self.sigma_min < math.inf, "sampler.sigma_min", "> 0, finite", self.sigma_min)
        _require(
            self.sigma_min < self.sigma_max < math.inf,
            "sampler.sigma_max",
            f"> sampler.sigma_min={self.sigma_min}, finite",
            self.sigma_max,
        )
        _require(0.0 <= self.churn < math.inf, "sampler.churn", "0 <= churn, finite", self.churn)
        _require(0.0 <= self.churn_min < math.inf, "sampler.churn_min", ">= 0, finite", self.churn_min)
        _require(
            self.churn_min <= self.churn_max,
            "sampler.churn_max",
            f">= sampler.churn_min={self.churn_min}",
            self.churn_max,
        )
        _require(0.0 < self.churn_noise < math.inf, "sampler.churn_noise", "> 0, finite", self.churn_noise)


def require_network(model: ModelSettings, diffusion: DiffusionSettings) -> None:
    """Refuse a network that cannot be told the noise level.

    Raises:
        ConfigError: EDM's noise level is no integer, so a learned table of embeddings has no row for it.
    """
    if diffusion.prediction == "edm" and model.time_embedding != "positional":
        raise ConfigError(
            f"expected positional with diffusion.prediction='edm', got {model.time_embedding!r}",
            key="model.time_embedding",
        )


def require_sampler(diffusion: DiffusionSettings, sampler: SamplerSettings) -> None:
    """Refuse a sampler that cannot draw from what was trained, before any work.

    Raises:
        ConfigError: names the key, what it must be, and the other key that says so.
    """
    _require(
        sampler.kind in SAMPLERS[diffusion.prediction],
        "sampler.kind",
        f"one of {', '.join(SAMPLERS[diffusion.prediction])} with "
        f"diffusion.prediction={diffusion.prediction!r}",
        sampler.kind,
    )
    if diffusion.prediction != "edm" and sampler.steps > diffusion.timesteps:
        raise ConfigError(
            f"expected sampler.steps={sampler.steps} <= diffusion.timesteps={diffusion.timesteps}",
            key="sampler.steps",
        )
    _require(
        diffusion.timesteps / sampler.steps <= diffusion.trained_timesteps,
        "sampler.steps",
        f">= {math.ceil(diffusion.timesteps / diffusion.trained_timesteps)} with "
        f"diffusion.truncation={diffusion.truncation:g}, or none of them is a trained one",
        sampler.steps,
    )
    _require(
        sampler.guidance == 0.0 or diffusion.label_dropout > 0.0,
        "sampler.guidance",
        "0 with diffusion.label_dropout=0: the network was never trained without a label",
        sampler.guidance,
    )


def _require(holds: bool, key: str, bound: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"expected {bound}, got {value!r}", key=key)
