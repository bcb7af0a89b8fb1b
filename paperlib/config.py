"""The configuration of a run: one flat set of keys, checked by pydantic; and profiles of runs.

A profile (``configs/NAME.yaml``) holds the keys that its runs share and, under ``matrix``, the
lists whose product makes the runs. ``size``, ``dataset`` and so on are the same keys everywhere:
in profiles, in the notebooks' parameter cells, on the command line and in the records.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from paperlib import paths
from paperlib.corruption import CORRUPTIONS
from paperlib.seeds import fold

METHOD_NAMES = [
    "base", "encoding_z", "encoding_y", "both", "mask_aware", "unpaired", "paired", "misgan",
]  # fmt: skip
"""The methods that a configuration may name, in the order of the tables; ``methods`` adds others."""


class ConfigurationError(ValueError):
    """A configuration that cannot be run; the message names the key and what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], source: str = "configuration") -> Self:
        """Build from a dictionary; ConfigurationError names each wrong key in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            unknown, faults = [], []
            for fault in error.errors():
                # of a union's branches, which have names here too, nobody knows
                loc = [part for part in fault["loc"][1:] if isinstance(part, int)]
                key = ".".join(map(str, [*fault["loc"][:1], *loc]))
                if fault["type"] == "extra_forbidden":
                    unknown.append(f"unknown key {key!r}")
                    continue
                message = fault["msg"].removeprefix("Value error, ")
                if fault["loc"]:
                    message = f"key '{key}': {message}, got {fault['input']!r}"
                faults.append(message[:400])
            if unknown:
                faults.append(f"{', '.join(unknown)} (known: {', '.join(cls.model_fields)})")
            raise ConfigurationError(f"{source}: " + "; ".join(faults)) from None


class DataConfig(_Strict):
    """Which images, at what size, split how."""

    dataset: str = "bluemarble"  # bluemarble | celeba | lsun | recipe1m | folder | incomplete
    source: str | None = None  # zip or folder of all but bluemarble, relative to the repository
    size: int = Field(32, ge=4, le=512)  # image side, pixels
    # file: the test images last; official: the partition that celeba and recipe1m come with
    split: Literal["auto", "random", "region", "file", "official"] = "auto"
    validation: float = Field(0.15, ge=0)  # share of the images if below 1, else their number
    test: float = Field(0.10, ge=0)  # likewise
    split_seed: int = Field(0, ge=0)
    max_pixels: int | None = Field(None, ge=1)  # more: left out, undecoded; None: 100 million
    # of the data set incomplete
    bands: int = Field(3, ge=1, le=16)  # channels of an image
    fit: Literal["crop", "resize"] = "crop"  # how larger images become size x size
    missing: Literal["auto", "mask", "alpha", "nan"] = "auto"  # what says which pixels are missing
    missing_value: float | None = None  # or the value that they have

    @model_validator(mode="after")
    def _bands_of_incomplete_images(self) -> Self:
        if self.bands != 3 and self.dataset != "incomplete":
            raise ValueError(f"{self.dataset} has 3 bands; others need the dataset incomplete")
        return self

    @model_validator(mode="after")
    def _one_way_to_say_what_is_missing(self) -> Self:
        if self.missing != "auto" and self.missing_value is not None:
            raise ValueError(f"missing: {self.missing} and missing_value contradict: give one")
        return self

    @field_validator("validation", "test", "missing_value", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Whole numbers are welcome where a float is asked for; YAML 1.1 reads 4e-4 as a string."""
        if isinstance(value, str) and re.fullmatch(r"\d+(\.\d*)?[eE][+-]?\d+", value):
            return float(value)
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @property
    def folder(self) -> str:
        """The folder of the prepared data set under data/: one for each source and split.

        Named by what differs from the defaults, so that a new key leaves older folders theirs.
        """
        default = DataConfig(dataset=self.dataset, size=self.size)
        keys = [k for k in DataConfig.model_fields if getattr(self, k) != getattr(default, k)]
        if not keys:
            return f"{self.dataset}-{self.size}"
        values = json.dumps({key: getattr(self, key) for key in keys})
        return f"{self.dataset}-{self.size}-{fold(values) % 16**6:06x}"


class EvaluationConfig(DataConfig):
    """What is measured on: which images, corrupted how, how many. All that a reference needs."""

    corruption: str = "small_patch"  # one_patch | small_patch | drop_pixel | observed
    mask_seed: int = Field(0, ge=0)  # of the masks with which the images are corrupted once
    mask_flips: bool = False  # observed: fresh masks are flipped at random
    mask_shift: int = Field(0, ge=0)  # observed: and moved by up to so many pixels

    # evaluation (section 3.4)
    eval_split: Literal["validation", "test"] = "test"
    eval_images: int = Field(32, ge=4)  # at most; the paper's std uses 1000
    eval_samples: int = Field(10, ge=2)  # z per image

    @field_validator("corruption")
    @classmethod
    def _known_corruption(cls, value: str) -> str:
        if value not in (known := [*CORRUPTIONS, "observed"]):
            raise ValueError(f"unknown corruption, choose one of {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _incomplete_images_have_their_own_masks(self) -> Self:
        if (self.dataset == "incomplete") != (self.corruption == "observed"):
            raise ValueError("dataset incomplete and corruption observed go together: set both")
        return self

    @property
    def border(self) -> int:
        """Width in pixels of the border that no mask of the law observes."""
        if self.corruption == "observed":
            return 0
        return CORRUPTIONS[self.corruption].interior_border(self.size)

    @property
    def data(self) -> DataConfig:
        """The part that determines the prepared data set."""
        return DataConfig(**{key: getattr(self, key) for key in DataConfig.model_fields})


class RunConfig(EvaluationConfig):
    """All that determines a training run and its evaluation. The defaults are the smoke size."""

    # what is learned: the rows of Table 1, then those of Table 2
    # mask_aware is both, and D sees both masks
    method: str = "both"  # one of METHOD_NAMES
    seed: int = Field(0, ge=0)  # of parameters, batches, z and fresh masks

    # networks (section 2.4); sizes chosen on the hold-out, see README
    nz: int = Field(8, ge=1)
    patch: int = Field(2, ge=1)  # pixels folded into channels, per side
    attention: int = Field(8, ge=0)  # side of the feature map with self-attention; 0: none
    g_channels: list[int] = [16, 32]
    d_channels: list[int] = [16, 32, 32]
    e_channels: list[int] = [16, 16, 16]
    z_injection: Literal["norm", "bottleneck"] = "norm"
    z_start: float = Field(0.0, ge=0)  # deviation of the maps from z at the start; 0: z unused
    start_from_fill: bool = True  # G adds to a smooth guess; False: the paper's plain G
    fill_sweeps: int = Field(0, ge=0, le=16)  # relaxations of that guess towards a biharmonic one

    # objective (equations 5 to 8)
    adversarial: Literal["hinge", "minimax", "least_squares"] = "hinge"
    lambda_y: float = Field(10.0, ge=0)  # the paper gives none; chosen on the hold-out, see README
    lambda_z: float = Field(1.0, ge=0)  # likewise
    lambda_y_weighs: Literal["error", "all"] = "error"  # error: Algorithm 1; all: equation 8
    lambda_kl: float = Field(0.0, ge=0)  # 0 in the paper's setting
    norm: Literal["l2", "l1"] = "l2"
    z_rec_from: Literal["generated", "y_tilde", "x_tilde", "eq6"] = "generated"
    z_enc: Literal["sampled", "deterministic"] = "sampled"
    # What D is shown beside an observation: nothing, its mask, or also the mask of the observation
    # that G filled in. None: both_masks for mask_aware, else the paper's observation
    discriminator_sees: Literal["observation", "own_mask", "both_masks"] | None = None
    d_sees_y_hat: bool = False  # True: equation 7 and figure 3; False: Algorithm 1

    # the baselines' own terms (Table 2)
    lambda_x: float = Field(100.0, ge=0)  # Paired: weight of the squared error, pix2pix's 100
    critic_steps: int = Field(5, ge=1)  # MisGAN: updates of the critics for one of the generators
    lambda_gp: float = Field(10.0, ge=0)  # MisGAN: weight of the gradient penalty
    beta: float = Field(0.1, ge=0)  # MisGAN: weight of the imputer's game for the data generator
    nz_x: int = Field(128, ge=1)  # MisGAN: size of the data generator's code
    lr_x: float = Field(1e-4, gt=0)  # MisGAN: of the data generator and its critic

    # optimisation (section 3.3)
    steps: int = Field(6, ge=1)  # updates of D and of G
    batch_size: int = Field(16, ge=2)
    accumulate: int = Field(1, ge=1)  # batches per update; the paper has 4 of 128
    lr_g: float = Field(4e-4, gt=0)  # of G and E; the paper gives none; chosen on the hold-out
    lr_d: float = Field(4e-4, gt=0)
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    ema: float = Field(0.99, ge=0, lt=1)  # decay of the running average of G that is evaluated
    # Averages kept on the way, at steps/2, steps/4, ...: their distances against time are claim 6
    snapshots: int = Field(0, ge=0, le=10)

    # how steps are computed (``acceleration``): auto is eager float32 on the CPU, fast on a GPU
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the networks' products
    compile: Literal["auto"] | bool = "auto"  # the networks, by torch.compile
    fused_adam: Literal["auto"] | bool = "auto"  # one kernel for all parameters
    deterministic: bool = False  # on a GPU too the same seed gives the same bits, in more time

    # bookkeeping, without influence on the result, but for the order of sums that threads changes
    resident: Literal["auto"] | bool = "auto"  # keep the training set in the device's memory
    log_every: int = Field(1, ge=1)  # steps
    checkpoint_seconds: float = Field(20.0, gt=0)  # an interruption loses at most this much
    threads: int = Field(0, ge=0, le=1024)  # of the processor per run; 0: torch's choice

    @field_validator(
        "lambda_y", "lambda_z", "lambda_kl", "lambda_x", "lambda_gp", "beta", "z_start", "lr_g", "lr_d",
        "lr_x", "beta1", "beta2", "ema", "checkpoint_seconds", mode="before",
    )  # fmt: skip
    @classmethod
    def _floats(cls, value: Any) -> Any:
        return cls._numbers(value)

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, value: object) -> object:
        if value not in METHOD_NAMES:
            raise ValueError(f"unknown method, choose one of {str(METHOD_NAMES)[1:-1]}")
        return value

    @model_validator(mode="after")
    def _nets_fit_the_size(self) -> Self:
        for key in ("g_channels", "d_channels", "e_channels"):
            channels = getattr(self, key)
            factor = self.patch * 2 ** (len(channels) - 1)
            if not channels or min(channels) < 1:
                raise ValueError(f"{key} must list at least one positive width")
            if self.size % factor or self.size // factor < 2:
                raise ValueError(
                    f"size {self.size} is not supported by these networks: with patch {self.patch} "
                    f"and {len(channels)} levels in {key} it must be a multiple of {factor}, "
                    f"at least {2 * factor}"
                )
        side = self.size // self.patch
        in_g = {side >> level for level in range(len(self.g_channels))}
        in_d = {side >> level for level in range(1, len(self.d_channels))}
        if self.attention and self.attention not in in_g & in_d:
            known = ", ".join(map(str, sorted({0} | in_g & in_d)))
            raise ValueError(
                f"attention {self.attention}: G and D have no feature map of this side, choose "
                f"one of {known}"
            )
        return self

    @model_validator(mode="after")
    def _misgan_does_not_accumulate(self) -> Self:
        if self.method == "misgan" and self.accumulate > 1:
            raise ValueError("misgan takes one batch a critic step: set accumulate to 1")
        return self

    @model_validator(mode="after")
    def _supervision_needs_complete_images(self) -> Self:
        if self.dataset == "incomplete" and self.method in ("unpaired", "paired"):
            raise ValueError(
                f"{self.method} learns from complete images, incomplete has none: set another method"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _what_a_method_sees_by_itself_goes_without_saying(cls, values: Any) -> Any:
        """One configuration for one run: None, where the method's own value is said aloud."""
        if isinstance(values, dict):
            own = _SEES_BY_ITSELF.get(str(values.get("method")), "observation")
            if values.get("discriminator_sees") == own:
                return values | {"discriminator_sees": None}
        return values

    @model_validator(mode="after")
    def _what_d_sees_fits_the_method(self) -> Self:
        if self.discriminator_sees is None:
            return self
        if self.method == "mask_aware":
            raise ValueError(
                "discriminator_sees: mask_aware sees both masks: leave it out (discriminator_sees: both_masks), or set method: both"
            )
        if self.method in ("unpaired", "paired"):
            raise ValueError(
                f"discriminator_sees: {self.method} is judged by complete images: leave the key out"
            )
        return self

    @property
    def sees(self) -> str:
        """What D is shown: ``discriminator_sees``, or the method's own."""
        return self.discriminator_sees or _SEES_BY_ITSELF.get(self.method, "observation")

    @property
    def encodes_z(self) -> bool:
        """Whether the loss has the term of equation 6."""
        return self.method in ("encoding_z", "both", "mask_aware")

    @property
    def encodes_y(self) -> bool:
        """Whether the loss has the terms of equation 7."""
        return self.method in ("encoding_y", "both", "mask_aware")

    @property
    def row(self) -> str:
        """The method as the tables have it; with what D sees, where that is not the method's own."""
        return self.method + (f"-{self.discriminator_sees}" if self.discriminator_sees else "")

    @property
    def name(self) -> str:
        """The run's folder under results/PROFILE/runs/."""
        return f"{self.corruption}-{self.row}-seed{self.seed}"

    @property
    def evaluation_seed(self) -> int:
        """The seed of the z of evaluation and figures."""
        return fold(self.seed, "evaluation")

    @property
    def evaluation(self) -> EvaluationConfig:
        """The part that says what is measured on."""
        return EvaluationConfig(
            **{key: getattr(self, key) for key in EvaluationConfig.model_fields}
        )


_SEES_BY_ITSELF = {"mask_aware": "both_masks"}  # all others: observation

BOOKKEEPING = {"resident", "log_every", "checkpoint_seconds", "threads"}
"""Keys of RunConfig that may change between the interruption of a run and its continuation.

``precision``, ``compile``, ``fused_adam`` and ``deterministic`` are none: they change the results, if
only by rounding.
"""


def load_profile(profile: str) -> list[RunConfig]:
    """The runs of ``configs/PROFILE.yaml``, the product of its ``matrix``, in the table's order.

    Raises:
        ConfigurationError: no such profile, not a mapping, a wrong key, which it names, or two runs
            of one name.
    """
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else paths.config(profile)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in paths.CONFIGS.glob("*.yaml")))
        raise ConfigurationError(f"no profile {profile!r} ({path} is missing); known: {known}")
    shared = read_yaml(path)
    matrix = shared.pop("matrix", {})
    overrides = shared.pop("overrides", {})
    if not isinstance(matrix, dict) or not all(isinstance(v, list) and v for v in matrix.values()):
        raise ConfigurationError(
            f"{path}: 'matrix' must map keys to lists, got {str(matrix)[:200]!r}"
        )
    if not isinstance(overrides, dict) or not all(isinstance(v, dict) for v in overrides.values()):
        raise ConfigurationError(f"{path}: 'overrides' must map values of the matrix to keys")
    named = {value for values in matrix.values() for value in values if isinstance(value, str)}
    said = {word for key in overrides for word in str(key).split()}
    if unknown := ", ".join(sorted(said - named)):
        raise ConfigurationError(f"{path}: overrides of {unknown}, which is not in the matrix")
    runs: list[RunConfig] = []
    points: dict[str, dict[str, Any]] = {}  # of the matrix, by the run's name
    for values in itertools.product(*matrix.values()):
        point = dict(zip(matrix, values, strict=True))
        special: dict[str, Any] = {}
        # e.g. overrides: {drop_pixel: {lambda_z: 2.0}, drop_pixel misgan: {lr_g: 1e-4}}; in the
        # file's order, a later one has the last word
        for key, changes in overrides.items():
            if set(str(key).split()) <= set(map(str, values)):
                special |= changes
        run = RunConfig.parse(shared | point | special, str(path))
        if (other := points.setdefault(run.name, point)) is not point:
            raise ConfigurationError(f"{path}: two runs are called {run.name}: {other} and {point}")
        runs.append(run)
    return runs


def evaluation_configs(profile: str) -> list[EvaluationConfig]:
    """What the runs of a profile are measured on: one for each corruption."""
    return list({run.corruption: run.evaluation for run in load_profile(profile)}.values())


class _EveryKeyOnce(yaml.SafeLoader):
    """Of a key that is there twice YAML would silently take the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.YAMLError(f"the key '{min(twice)}' is there twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; ConfigurationError names the file where it is not one."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _EveryKeyOnce)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML ({_in_a_line(error)})") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text ({error}): save it as that") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: not valid YAML (nested too deeply)") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: expected 'key: value' lines")
    return values


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
