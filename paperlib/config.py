"""The configuration of a run: one flat set of keys, checked by pydantic.

``size``, ``dataset`` and so on are the same keys everywhere: in profiles, in the notebooks'
``changes``, on the command line and in the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from paperlib.core.baselines import METHODS
from paperlib.core.corruption import CORRUPTIONS
from paperlib.errors import ConfigurationError
from paperlib.seeds import fold

Widths = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
REMOVED_IN_0_2 = {
    "discriminator_sees": None,  # method mask_aware shows D both masks
    "z_injection": "norm",  # z enters by conditional BatchNorm
    "max_pixels": None,  # 100 million
    "fit": "crop",  # incomplete images are cut into tiles
    "mask_shift": 0,
}
"""Keys of earlier versions, and what they held where they changed nothing."""


def _known(value: str, names: Iterable[str]) -> str:
    if value not in names:
        raise ValueError(f"unknown, choose one of {', '.join(names)}")
    return value


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "configuration") -> Self:
        """Build from a mapping; ConfigurationError names each wrong key in one line."""
        kept = {k: v for k, v in values.items() if (k, v) not in REMOVED_IN_0_2.items()}
        try:
            return cls.model_validate(kept)
        except ValidationError as error:
            said = "; ".join(dict.fromkeys(map(_in_words, error.errors())))
            raise ConfigurationError(f"{source}: {said}") from None


def _in_words(fault: Any) -> str:
    """What pydantic found wrong with a key, or, without one, with several together."""
    key, message = fault["loc"][:1], fault["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if key[0] in REMOVED_IN_0_2:
        return f"key '{key[0]}': removed in 0.2"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key[0]!r}"
    return f"key '{key[0]}': {message}, got {fault['input']!r}"[:400]


class DataConfig(_Checked):
    """Which images, at what size, split how."""

    dataset: str = "digits"  # a name of data.sources.SOURCES
    source: str | None = None  # zip or folder, of the data sets of files; from the repository
    size: int = Field(32, ge=4, le=512)  # image side, pixels
    split: Literal["auto", "random", "file"] = "auto"  # auto: a map by regions; file: test last
    validation: float = Field(0.15, ge=0)  # share of the images if below 1, else their number
    test: float = Field(0.10, ge=0)  # likewise
    split_seed: int = Field(0, ge=0)
    bands: int = Field(3, ge=1, le=16)  # channels of an image; left out: those of the data set
    # of incomplete images
    missing: Literal["auto", "mask", "alpha", "nan"] = "auto"  # what says which pixels are missing
    missing_value: float | None = None  # or the value that they have

    @model_validator(mode="before")
    @classmethod
    def _bands_of_the_data_set(cls, values: Any) -> Any:
        is_grey = values.get("dataset", "digits") in ("digits", "mnist")
        return {"bands": 1} | values if is_grey else values

    @property
    def folder(self) -> str:
        """The folder of the prepared data set under data/: one for each source and split.

        Named by what differs from the defaults, so that a new key leaves older folders theirs.
        """
        name = f"{self.dataset}-{self.size}"
        default = DataConfig(dataset=self.dataset, size=self.size)
        other = {k: getattr(self, k) for k, v in default if getattr(self, k) != v}
        return f"{name}-{fold(json.dumps(other)) % 16**6:06x}" if other else name


class EvaluationConfig(DataConfig):
    """What is measured on: which images, corrupted how, how many. All that a reference needs."""

    corruption: Annotated[
        str, AfterValidator(lambda value: _known(value, [*CORRUPTIONS, "observed"]))
    ] = "small_patch"
    mask_seed: int = Field(0, ge=0)  # of the masks with which the images are corrupted once
    mask_flips: bool = False  # observed: fresh masks are flipped at random

    # evaluation (section 3.4)
    eval_split: Literal["validation", "test"] = "test"
    eval_images: int = Field(32, ge=4)  # at most; the paper's std uses 1000
    eval_samples: int = Field(10, ge=2)  # z per image

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
    # ('import paperlib.beyond' adds mask_aware and scored)
    method: Annotated[str, AfterValidator(lambda value: _known(value, METHODS))] = "both"
    seed: int = Field(0, ge=0)  # of parameters, batches, z and fresh masks

    # networks (section 2.4); sizes chosen on the hold-out, see docs/settings.md
    nz: int = Field(8, ge=1)
    patch: int = Field(2, ge=1)  # pixels folded into channels, per side
    attention: int = Field(8, ge=0)  # side of the feature map with self-attention; 0: none
    g_channels: Widths = [16, 32]
    d_channels: Widths = [16, 32, 32]
    e_channels: Widths = [16, 16, 16]
    z_start: float = Field(0.0, ge=0)  # deviation of the maps from z at the start; 0: z unused
    output_channels: int = Field(0, ge=0)  # of two convolutions at full resolution; 0: none
    start_from_fill: bool = True  # G adds to a smooth guess; False: the paper's plain G
    fill_sweeps: int = Field(0, ge=0, le=16)  # relaxations of that guess towards a biharmonic one

    # objective (equations 5 to 8)
    adversarial: Literal["hinge", "minimax", "least_squares"] = "hinge"
    lambda_y: float = Field(10.0, ge=0)  # the paper gives none; chosen on the hold-out
    lambda_z: float = Field(1.0, ge=0)  # likewise
    lambda_y_weighs: Literal["error", "all"] = "error"  # error: Algorithm 1; all: equation 8
    lambda_kl: float = Field(0.0, ge=0)  # 0 in the paper's setting
    norm: Literal["l2", "l1"] = "l2"
    z_rec_from: Literal["generated", "y_tilde", "x_tilde", "eq6"] = "generated"
    z_enc: Literal["sampled", "deterministic"] = "sampled"
    d_sees_y_hat: bool = False  # True: equation 7 and figure 3; False: Algorithm 1
    # fill: D is shown, beside y, what y alone determines: its mask and its smooth fill
    discriminator_input: Literal["observation", "fill"] = "observation"
    lambda_score: float = Field(3.0, ge=0)  # scored (ours): weight of the energy score
    # scored: what of y is hidden once more: what the fresh mask misses, or what it observes
    hide_where: Literal["missing", "observed"] = "missing"

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

    # how steps are computed (``training.device``): auto is eager float32 on the CPU, fast on a GPU
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the networks' products
    compile: Literal["auto"] | bool = "auto"  # the networks, by torch.compile
    fused_adam: Literal["auto"] | bool = "auto"  # one kernel for all parameters
    deterministic: bool = False  # on a GPU too the same seed gives the same bits, in more time

    # bookkeeping, without influence on the result, but for the order of sums that threads changes
    resident: Literal["auto"] | bool = "auto"  # keep the training set in the device's memory
    log_every: int = Field(1, ge=1)  # steps
    checkpoint_seconds: float = Field(20.0, gt=0)  # an interruption loses at most this much
    threads: int = Field(0, ge=0, le=1024)  # of the processor per run; 0: torch's choice

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        for key in ("g_channels", "d_channels", "e_channels"):
            factor = self.patch * 2 ** (len(getattr(self, key)) - 1)
            if self.size % factor or self.size < 2 * factor:
                what = f"size {self.size}: patch and {key} need a multiple of {factor}"
                raise ValueError(f"{what}, twice or more")
        side = self.size // self.patch
        in_g = {side >> level for level in range(len(self.g_channels))}
        in_d = {side >> level for level in range(1, len(self.d_channels))}
        if self.attention not in (known := sorted({0} | in_g & in_d)):
            raise ValueError(f"attention {self.attention}: feature maps have the sides {known}")
        if self.method == "misgan" and self.accumulate > 1:
            raise ValueError("misgan takes one batch a critic step: set accumulate to 1")
        return self

    @property
    def name(self) -> str:
        """The run's folder under results/PROFILE/runs/."""
        return f"{self.corruption}-{self.method}-seed{self.seed}"

    @property
    def repeated_border(self) -> int:
        """The border that G repeats from inside: what no mask observes, if no image teaches it."""
        return self.border if METHODS[self.method].learns_from == "observations" else 0

    @property
    def evaluation_seed(self) -> int:
        """The seed of the z of evaluation and figures."""
        return fold(self.seed, "evaluation")

    @property
    def evaluation(self) -> EvaluationConfig:
        """The part that says what is measured on."""
        keys = EvaluationConfig.model_fields
        return EvaluationConfig(**{key: getattr(self, key) for key in keys})


BOOKKEEPING = {"resident", "log_every", "checkpoint_seconds", "threads"}
"""Keys of RunConfig that may change between the interruption of a run and its continuation."""
