"""The sections of the run configuration: every key with its type, default, meaning and limits.

TOML has no null, so where a key may be left open its neutral value is ``0`` (numbers) or ``""`` (text).
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
OpenShare = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Control = Literal["none", "codes-zeroed", "no-update"]


def kebab(name: str) -> str:
    """A field's name as its key is written."""
    return name.replace("_", "-")


class Section(BaseModel):
    """Frozen settings whose keys are written in kebab case; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=kebab, populate_by_name=True)


class StrategyConfig(Section):
    """Which federated algorithm runs."""

    name: str = Field(
        "dr-encoder",
        description="dr-encoder, fedcg, fedlpp, history-prior, lora, public-prior or random-projection",
    )


class FederationConfig(Section):
    """Who takes part, and how patient the server is."""

    num_clients: NonNegativeInt = Field(0, description="enrolled clients M; 0 = all that are connected at the start")
    connect_timeout: PositiveFloat = Field(120.0, description="seconds to wait for the enrolled clients to connect")
    max_in_flight: NonNegativeInt = Field(
        0, description="instructions outstanding at a time, 0 = all; many simulated clients go faster with about 16"
    )
    round_timeout: PositiveFloat = Field(600.0, description="seconds to wait for a round's replies")
    min_reply_rate: Rate = Field(0.5, description="share of the cohort that must reply, or the round counts as failed")
    max_failed_rounds: PositiveInt = Field(3, description="failed rounds in a row after which the run stops")


class ModelConfig(Section):
    """The frozen foundation model."""

    name: str = Field("demo", description='"demo" (embedded), a hub id, or a local directory')
    quantization: Literal["none", "8", "4"] = Field("none", description="bitsandbytes bits of the frozen weights")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="dtype of the frozen weights")
    device: str = Field("auto", description='"auto", "cpu", "cuda", "cuda:0", ...')
    device_map: Literal["none", "balanced", "sequential"] = Field(
        "none", description="spread one model's layers over several GPUs (accelerate); none = all on model.device"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep only the layers' inputs for the backward pass: less memory, a third more compute"
    )

    @field_validator("quantization", mode="before")
    @classmethod
    def _bits_may_be_a_number(cls, value: object) -> object:
        """``model.quantization=4`` reaches this as TOML's integer, by ``--set`` and by ``flwr run -c`` alike."""
        return str(value) if isinstance(value, int) and value in {4, 8} else value


class LoraConfig(Section):
    """The trainable low-rank adapter (peft)."""

    rank: PositiveInt = Field(8, description="rank r of every factor pair")
    alpha: PositiveFloat = Field(16.0, description="scale: the update is alpha/rank * B A")
    dropout: Fraction = Field(0.0, description="dropout on the adapter's input")
    target_modules: str = Field(
        "auto", description="comma-separated module names; auto = the attention projections of the architecture"
    )
    freeze_a: bool = Field(False, description="train B only (FFA-LoRA)")

    @property
    def targets(self) -> list[str]:
        """Target module names as a list."""
        return [name.strip() for name in self.target_modules.split(",") if name.strip()]


class DataConfig(Section):
    """Private examples of the clients and the public evaluation set."""

    name: str = Field("demo", description='"demo", a hub id, or a local file/directory (JSONL, CSV, Parquet)')
    format: Literal["columns", "dolly", "mmlu", "ceval", "alpaca", "e2e", "dart", "dialogsum"] = Field(
        "columns", description="columns = prompt-column and completion-column as they are; else that set's own layout"
    )
    subset: str = Field("", description="hub set or directory: its configuration, or several, comma-separated")
    train_split: str = Field("train", description="hub set or directory: split of the private examples")
    revision: str = Field("", description='hub set: branch or commit; "" = its default branch')
    task: str = Field("elicitation", description="demo task: elicitation, knowledge or knowledge-validation")
    evaluation: str = Field("", description='file or hub id of held-out examples; "" = the demo\'s own, or none')
    evaluation_subset: str = Field("", description='subset of data.evaluation; "" = the same as data.subset')
    evaluation_split: str = Field("test", description="split of data.evaluation if that is a hub set or directory")
    split: str = Field("evaluation", description="demo: evaluation (report) or validation (public, for tuning)")
    prompt_column: str = Field("prompt", description="column that holds the prompt (its labels are masked)")
    completion_column: str = Field("completion", description="column that holds the text to learn")
    group_column: str = Field("group", description="column that groups examples in reports and partitions")
    partitioner: Literal["iid", "dirichlet", "natural"] = Field("dirichlet", description="how clients get data")
    partition_by: str = Field("group", description="column for the dirichlet and natural partitioners")
    dirichlet_alpha: PositiveFloat = Field(0.3, description="concentration; small = each client sees few groups")
    examples_per_client: PositiveInt = Field(12, description="demo data: examples drawn for each client")
    max_length: Annotated[int, Field(ge=2)] = Field(
        512, description="longest example in tokens; longer ones are cut at the left"
    )
    chat_template: bool = Field(False, description="write prompts in the tokenizer's chat template")
    append_eos: bool = Field(
        True, description="end completions with the tokenizer's end-of-text token (not the demo's own data)"
    )

    @model_validator(mode="after")
    def _format_names_the_columns(self) -> "DataConfig":
        defaults = {"prompt_column": "prompt", "completion_column": "completion", "group_column": "group"}
        for name, default in defaults.items():
            if self.format != "columns" and getattr(self, name) != default:
                raise ValueError(
                    f'data.{kebab(name)} = "{getattr(self, name)}" with data.format = "{self.format}", which knows its '
                    f'columns: set data.format = "columns", or leave it at "{default}"'
                )
        return self


class TrainConfig(Section):
    """Local training on one client in one round."""

    local_steps: NonNegativeInt = Field(1, description="optimiser steps; 0 = count in local-epochs instead")
    local_epochs: NonNegativeInt = Field(0, description="passes over the client's data; 0 = count in local-steps")
    batch_size: PositiveInt = Field(6, description="examples in a micro-batch")
    gradient_accumulation: PositiveInt = Field(1, description="micro-batches in one step")
    learning_rate: PositiveFloat = Field(0.05, description="local step size (several steps; one step needs none)")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="local optimiser")

    @model_validator(mode="after")
    def _one_step_needs_no_optimizer(self) -> "TrainConfig":
        if self.local_steps == 1 and self.optimizer != "sgd":
            raise ValueError(
                f'train.optimizer = "{self.optimizer}" with train.local-steps = 1: one step releases the gradient '
                'itself; set train.local-steps above 1, or train.optimizer = "sgd"'
            )
        return self

    @model_validator(mode="after")
    def _one_unit(self) -> "TrainConfig":
        if (self.local_steps == 0) == (self.local_epochs == 0):
            raise ValueError(
                f"train.local-steps = {self.local_steps} and train.local-epochs = {self.local_epochs}: "
                "exactly one of them must be above 0"
            )
        return self


class CodecConfig(Section):
    """What shrinks a client's LoRA gradient (lora sends it whole)."""

    kind: Literal["linear", "conv", "identity"] = Field("linear", description="AutoEncoder family")
    form: Literal["global", "per-tensor", "variance-proportional", "optimum", "trained"] = Field(
        "global", description="how a linear AutoEncoder spends its code on the tensors"
    )
    transform: Literal["buckets", "mixed-buckets"] = Field(
        "buckets", description="fast orthonormal transform of the seeded linear forms"
    )
    size: NonNegativeInt = Field(256, description="values in a code; 0 = what the kind dictates (identity, conv)")
    refresh_every: NonNegativeInt = Field(1, description="rounds after which a seeded codec is redrawn; 0 = never")
    depth: Annotated[int, Field(ge=1, le=8)] = Field(6, description="conv: number of stride-2 stages")


class PriorConfig(Section):
    """Training of a learned AutoEncoder on synthetic gradients (Algorithm 1, server side)."""

    steps: PositiveInt = Field(300, description="Adam steps")
    batch_size: PositiveInt = Field(16, description="synthetic gradients in a step")
    learning_rate: PositiveFloat = Field(2e-4, description="Adam step size")


class HistoryConfig(Section):
    """The prior of strategy history-prior: directions in which the released adapter has been moving."""

    decay: Fraction = Field(0.95, description="history-prior: weight of the past in the decayed sum of steps")
    rows: NonNegativeInt = Field(32, description="history-prior: most code values for the history, one a tensor")


class FedCgConfig(Section):
    """Strategy fedcg: the real gradients that its stage 1 (TGAP) collects to train the AutoEncoder on."""

    share: OpenShare = Field(0.3, description="fedcg: share of a client's examples that only stage 1 uses (paper: .3)")
    sampling_rate: Rate = Field(0.1, description="fedcg: probability that a client is asked for gradients")
    gradients_per_client: PositiveInt = Field(4, description="fedcg: local steps whose LoRA gradients a client sends")
    learning_rate: PositiveFloat = Field(0.1, description="fedcg: local step size while collecting")
    private: bool = Field(
        False, description="fedcg: release the gradients through the mechanism; false makes the end-to-end epsilon inf"
    )
    clip_norm: Annotated[float, Field(gt=0, le=1e30)] = Field(
        1.0, description="fedcg.private: bound on the l2 norm of all gradients of one client together"
    )


class FedlppConfig(Section):
    """Quantisation of what strategy fedlpp broadcasts: the proxy."""

    bits: Annotated[int, Field(ge=1, le=8)] = Field(2, description="fedlpp: bits w of a value in the broadcast proxy")
    levels: Literal["uniform", "normal"] = Field(
        "uniform", description="fedlpp: evenly spaced over a tensor's range, or normal quantiles (NF)"
    )
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="fedlpp: to the nearest level, or at random without bias (by seed and round)"
    )
    compress: bool = Field(False, description="fedlpp: clients send codes of codec.* rather than whole updates")


class PublicPriorConfig(Section):
    """The prior of strategy public-prior: directions of gradients on public prompts with sampled labels."""

    prompts: str = Field("self-generated", description="self-generated, template, or a file (JSONL, one text a line)")
    template: str = Field("", description='a prompt with {slots}; "" = that of the demo task')
    slots: str = Field("", description='template: TOML file with a list of words for every slot; "" = the demo\'s')
    pool: PositiveInt = Field(256, description="most prompts to have")
    prompt_tokens: PositiveInt = Field(16, description="self-generated: longest continuation of the template's opening")
    pseudo_clients: PositiveInt = Field(256, description="pseudo-clients, each one gradient")
    prompts_per_client: PositiveInt = Field(3, description="prompts of a pseudo-client")
    label_tokens: PositiveInt = Field(1, description="most tokens that the model samples as a label")
    refresh_every: PositiveInt = Field(
        5, description="rounds after which the prior is made anew from the released model"
    )
    form: Literal["full", "per-layer", "tucker"] = Field("full", description="principal directions of what")
    tucker_width: PositiveInt = Field(8, description="tucker: directions kept of every tensor's long side")
    delivery: Literal["basis", "rebuild"] = Field(
        "basis", description="send the rows, or what a client needs to apply them through its own model"
    )
    random_rows: NonNegativeInt = Field(0, description="code values for fresh random directions beside the prior's")
    whitening: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.25, description="rows are scaled by their energy to minus this power; 0 = all alike"
    )
    noise_floor: NonNegativeFloat = Field(
        4.0, description="rows fade out below this multiple of the noise energy of the whole run; 0 = none does"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "PublicPriorConfig":
        if self.delivery == "rebuild" and self.form != "full":
            raise ValueError(
                f'public-prior.delivery = "rebuild" with public-prior.form = "{self.form}": one weight matrix rebuilds '
                'directions of whole gradients; set public-prior.form = "full"'
            )
        return self


class StatisticsConfig(Section):
    """Stage 1: the statistics that clients release for the random prior (Algorithm 1, client side)."""

    private: bool = Field(True, description="release through the mechanism; false makes the end-to-end epsilon inf")
    sampling_rate: Rate = Field(0.1, description="probability that a client is asked")
    steps: PositiveInt = Field(4, description="local steps whose gradients are measured")
    learning_rate: PositiveFloat = Field(0.5, description="local step size while measuring (A's gradient is 0 at B=0)")
    estimator: Literal["moment", "ema"] = Field("moment", description="per-element moments, or the paper's EMA")
    beta1: Fraction = Field(0.99, description="ema: decay of the mean (paper: .99)")
    beta2: Fraction = Field(0.9, description="ema: decay of the squared std (paper: .9)")
    floor: PositiveFloat = Field(1e-12, description="h1: lowest variance; ema in the paper: 1e-5")
    ceiling: PositiveFloat = Field(1.0, description="h2: highest variance; ema in the paper: 1e-3")
    mean: bool = Field(False, description="release the per-tensor means too (not with private = true)")
    grouping: Literal["tensor", "module"] = Field("tensor", description="one value per tensor or per module type")

    @model_validator(mode="after")
    def _consistent(self) -> "StatisticsConfig":
        if self.floor >= self.ceiling:
            raise ValueError(f"statistics.floor = {self.floor} must be below statistics.ceiling = {self.ceiling}")
        if self.mean and self.private:
            raise ValueError(
                "statistics.mean = true needs statistics.private = false: the private release carries scales only "
                "(a mean is below 1 % of its std on real gradients and would cost budget for nothing)"
            )
        return self


class PrivacyConfig(Section):
    """The guarantee asked for. Ask for epsilon and the noise is solved, or name the noise and be told epsilon."""

    epsilon: Annotated[float, Field(ge=0)] = Field(
        2.0, description="end-to-end epsilon of the released model; inf = no privacy; 0 = use noise-multiplier"
    )
    noise_multiplier: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.0, description="stage-2 noise multiplier; 0 = solve from epsilon"
    )
    mechanism: Literal["calibrated", "printed"] = Field(
        "calibrated", description="printed = the paper's Eq (1)-(5), to show what they give; epsilon is then its claim"
    )
    stop_epsilon: NonNegativeFloat = Field(0.0, description="stop before a round would exceed it; 0 = no such stop")
    delta: NonNegativeFloat = Field(1e-5, description="delta of the guarantee, below 1/M; 0 = 1/(10 M)")
    trust: Literal["central", "distributed", "local"] = Field("distributed", description="who adds the noise")
    colluders: NonNegativeInt = Field(
        0, description="distributed: clients that may pool their noise shares; the others then add more"
    )
    sampling_rate: Rate = Field(0.1, description="probability that a client is in a round's cohort")
    clipping: Literal["normalize", "clip"] = Field("normalize", description="scale every code to the bound, or clip")
    clip_norm: Annotated[float, Field(gt=0, le=1e30)] = Field(
        1.0, description="bound on the l2 norm of one client's whole code"
    )
    statistics_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of epsilon for stage 1")
    insecure_seed: int = Field(-1, ge=-1, description="INSECURE, tests only: reproducible noise; -1 = secure noise")

    @model_validator(mode="after")
    def _one_target(self) -> "PrivacyConfig":
        if (self.epsilon > 0) == (self.noise_multiplier > 0):
            raise ValueError(
                f"privacy.epsilon = {self.epsilon} and privacy.noise-multiplier = {self.noise_multiplier}: exactly "
                "one of them must be above 0 (ask for epsilon and the noise is solved, or name the noise and set "
                "privacy.epsilon = 0.0)"
            )
        if 0 < self.noise_multiplier < 1e-4:
            raise ValueError(f"privacy.noise-multiplier = {self.noise_multiplier}: at least 1e-4, or 0 to solve for it")
        if math.isnan(self.epsilon):
            raise ValueError("privacy.epsilon = nan: give a positive number, or inf for no privacy")
        if self.delta >= 1:
            raise ValueError(f"privacy.delta = {self.delta}: a probability well below 1/M is needed")
        return self

    @model_validator(mode="after")
    def _colluders_share_noise(self) -> "PrivacyConfig":
        if self.colluders and self.trust != "distributed":
            raise ValueError(
                f'privacy.colluders = {self.colluders} with privacy.trust = "{self.trust}": only in "distributed" do '
                "clients hold shares of one another's noise; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _as_printed(self) -> "PrivacyConfig":
        if self.mechanism == "printed" and (self.trust, self.clipping) != ("local", "clip"):
            raise ValueError(
                f'privacy.mechanism = "printed" with privacy.trust = "{self.trust}" and privacy.clipping = '
                f'"{self.clipping}": the paper\'s clients noise their own messages and only clip; set privacy.trust = '
                '"local" and privacy.clipping = "clip"'
            )
        if self.mechanism == "printed" and not self.is_private:
            raise ValueError('privacy.mechanism = "printed" needs a finite privacy.epsilon or a noise-multiplier (σ)')
        return self

    @property
    def is_private(self) -> bool:
        """Whether any noise is added at all."""
        return not math.isinf(self.epsilon)


class ServerConfig(Section):
    """The server's step and its brake."""

    optimizer: Literal["sgd", "momentum", "adam"] = Field("sgd", description="server optimiser on the flat adapter")
    learning_rate: PositiveFloat = Field(1.0, description="step size on the decoded mean code")
    momentum: Fraction = Field(0.9, description="momentum (optimizer = momentum)")
    divergence_factor: Annotated[float, Field(gt=1)] = Field(
        4.0,
        description="stop when the loss (demo: on validation facts) exceeds this multiple of the base model's",
    )
    control: Control = Field(
        "none", description="EXPERIMENTS ONLY: codes-zeroed = decode zeros in place of the code; no-update = no step"
    )


class EvaluationConfig(Section):
    """Server-side evaluation on public held-out examples."""

    every: PositiveInt = Field(1, description="rounds between evaluations")
    batch_size: PositiveInt = Field(256, description="sequences in a forward pass")


class OutputConfig(Section):
    """Where results go."""

    dir: str = Field("results", description="directory that holds one folder per run")
    name: str = Field("", description='folder of this run; "" = time and strategy')
    tensorboard: bool = Field(False, description="scalars of every round for TensorBoard too (extra: tensorboard)")
