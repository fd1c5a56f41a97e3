"""The sections that every run reads: each key with its type, default, meaning and limits.

TOML has no null, so where a key may be left open its neutral value is ``0`` (numbers) or ``""`` (text).
"""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from common.config.fields import (
    Clients,
    ClipNorm,
    Device,
    Factor,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Rate,
    Section,
    kebab,
)

DemoTask = Literal["elicitation", "elicitation-validation", "knowledge", "knowledge-validation"]
LARGEST_EPSILON = 20.0
"""Nothing above it is claimed, since the approximations that delta pays for are computed up to it."""


class StrategyConfig(Section):
    """Which federated algorithm runs."""

    name: str = Field("dr-encoder", description="federated algorithm (README, docs/extending.md)")


class FederationConfig(Section):
    """Who takes part, and how patient the server is."""

    num_clients: Clients = Field(0, description="enrolled clients M; 0 = all that are connected at the start")
    connect_timeout: PositiveFloat = Field(120.0, description="seconds to wait for the enrolled clients to connect")
    max_in_flight: NonNegativeInt = Field(
        0, description="instructions outstanding at a time, 0 = all; many simulated clients go faster with about 16"
    )
    round_timeout: PositiveFloat = Field(600.0, description="seconds to wait for a round's replies")
    min_reply_rate: Rate = Field(0.5, description="share of the cohort that must reply, or the round counts as failed")
    wait_timeout: PositiveFloat = Field(
        3600.0,
        description="seconds to wait, before a round is charged, until min-reply-rate of the enrolled are online",
    )
    max_failed_rounds: PositiveInt = Field(3, description="failed rounds in a row after which the run stops")
    cover: bool = Field(
        False,
        description="cover traffic: every client is asked in every round and answers at equal length, so that the "
        "network does not see who is in the cohort",
    )


class ModelConfig(Section):
    """The frozen foundation model."""

    name: Name = Field("demo", description='"demo" (embedded), a hub id, or a local directory')
    quantization: Literal["none", "8", "4"] = Field("none", description="bitsandbytes bits of the frozen weights")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32", description="dtype of the frozen weights; auto = bfloat16 where the device computes in it"
    )
    device: Device = Field("auto", description='"auto", "cpu", "cuda", "cuda:0", ...')
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
    alpha: Factor = Field(16.0, description="scale: the update is alpha/rank * B A")
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

    name: Name = Field("demo", description='"demo", a hub id, or a local file/directory (JSONL, CSV, Parquet)')
    format: Literal["columns", "chat", "text", "dolly", "mmlu", "ceval", "alpaca", "e2e", "dart", "dialogsum"] = Field(
        "columns",
        description="columns = prompt-column and completion-column as they are; chat = messages or conversations, "
        "learning every answer of the assistant; text = plain texts; else that set's own layout",
    )
    subset: str = Field(
        "", description="hub set or directory: its configuration, or several, comma-separated; of data.evaluation too"
    )
    train_split: str = Field("train", description="hub set or directory: split of the private examples")
    revision: str = Field("", description='hub set: branch or commit; "" = its default branch')
    task: DemoTask = Field("elicitation", description="task of the demo data; ...-validation is for tuning")
    evaluation: str = Field("", description='file or hub id of held-out examples; "" = the demo\'s own, or none')
    validation: str = Field(
        "",
        description="file or hub id of held-out examples that decide (divergence; compare tunes on them) and are not "
        'scored; "" = the demo\'s own, or none',
    )
    evaluation_split: str = Field(
        "test", description="split of data.evaluation and data.validation if these are hub sets or directories"
    )
    prompt_column: str = Field(
        "prompt",
        description="column that holds the prompt (its labels are masked); several, comma-separated: a paragraph each",
    )
    completion_column: str = Field("completion", description="column that holds the text to learn")
    group_column: str = Field(
        "group", description="column that groups examples in reports, and by which dirichlet and natural partition"
    )
    partitioner: Literal["iid", "dirichlet", "natural"] = Field("dirichlet", description="how clients get data")
    dirichlet_alpha: PositiveFloat = Field(0.3, description="concentration; small = each client sees few groups")
    examples_per_client: PositiveInt = Field(12, description="demo data: examples drawn for each client")
    max_length: Annotated[int, Field(ge=2)] = Field(
        512, description="longest example in tokens; longer ones are cut at the left"
    )
    chat_template: bool = Field(
        False, description='write prompts in the tokenizer\'s chat template; data.format = "chat" always does'
    )
    append_eos: bool = Field(
        True, description="end completions with the tokenizer's end-of-text token (not the demo's own data)"
    )

    @model_validator(mode="after")
    def _format_names_the_columns(self) -> "DataConfig":
        defaults = {"prompt_column": "prompt", "completion_column": "completion"}
        for name, default in defaults.items():
            if self.format != "columns" and getattr(self, name) != default:
                raise ValueError(
                    f'data.{kebab(name)} = "{getattr(self, name)}" with data.format = "{self.format}", which knows its '
                    f'columns: set data.format = "columns", or leave it at "{default}"'
                )
        if self.format == "text" and self.chat_template:
            raise ValueError(
                'data.chat-template = true with data.format = "text": plain texts have no turns for a template to '
                'write; set it to false, or take data.format = "chat" or "columns"'
            )
        if self.completion_column in self.prompt_columns:
            raise ValueError(
                f'data.prompt-column = "{self.prompt_column}": is data.completion-column too; a model would learn to '
                "repeat what it was asked; name two columns"
            )
        return self

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns of a prompt, in the order in which their texts follow each other."""
        return tuple(name.strip() for name in self.prompt_column.split(",") if name.strip()) or ("",)

    @property
    def templated(self) -> bool:
        """Whether a chat template writes what the model reads."""
        return self.chat_template or self.format == "chat"


class TrainConfig(Section):
    """Local training on one client in one round."""

    local_steps: NonNegativeInt = Field(1, description="optimizer steps; 0 = count in local-epochs instead")
    local_epochs: NonNegativeInt = Field(0, description="passes over the client's data; 0 = count in local-steps")
    batch_size: PositiveInt = Field(6, description="examples in a micro-batch")
    gradient_accumulation: PositiveInt = Field(1, description="micro-batches in one step")
    learning_rate: Factor = Field(0.05, description="local step size (several steps; one step needs none)")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="local optimizer")

    @model_validator(mode="after")
    def _one_unit(self) -> "TrainConfig":
        if (self.local_steps == 0) == (self.local_epochs == 0):
            raise ValueError(
                f"train.local-steps = {self.local_steps} and train.local-epochs = {self.local_epochs}: "
                "exactly one of them must be above 0"
            )
        return self

    @model_validator(mode="after")
    def _one_step_needs_no_optimizer(self) -> "TrainConfig":
        if self.local_steps == 1 and self.optimizer != "sgd":
            raise ValueError(
                f'train.optimizer = "{self.optimizer}" with train.local-steps = 1: one step releases the gradient '
                'itself; set train.local-steps above 1, or train.optimizer = "sgd"'
            )
        return self


class CodecConfig(Section):
    """What shrinks a client's LoRA gradient (lora sends it whole)."""

    kind: Literal["linear", "conv", "identity"] = Field("linear", description="AutoEncoder family")
    form: Literal["global", "per-tensor", "variance-proportional", "optimum", "trained"] = Field(
        "global", description="how a linear AutoEncoder spends its code on the tensors"
    )
    size: NonNegativeInt = Field(256, description="values in a code; 0 = what the kind dictates (identity, conv)")
    refresh_every: NonNegativeInt = Field(1, description="rounds after which a seeded codec is redrawn; 0 = never")


class PrivacyConfig(Section):
    """The guarantee asked for. Ask for epsilon and the noise is solved, or name the noise and be told epsilon."""

    epsilon: Annotated[float, Field(ge=0)] = Field(
        2.0, description="end-to-end epsilon of the released model; inf = no privacy; 0 = use noise-multiplier"
    )
    noise_multiplier: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.0, description="stage-2 noise multiplier; 0 = solve from epsilon"
    )
    delta: NonNegativeFloat = Field(1e-5, description="delta of the guarantee, below 1/M; 0 = 1/(10 M)")
    trust: Literal["central", "distributed", "local", "secure"] = Field(
        "distributed", description="who adds the noise, and whether the server reads single messages (not in secure)"
    )
    colluders: NonNegativeInt = Field(
        1,
        description="distributed, secure: curious clients that may subtract their own noise shares; the others then "
        "add more",
    )
    dropouts: NonNegativeInt = Field(
        1, description="secure: clients that a round may lack; their noise shares are not counted on either"
    )
    sampling_rate: Rate = Field(0.1, description="probability that a client is in a round's cohort")
    clipping: Literal["normalize", "clip"] = Field("normalize", description="scale every code to the bound, or clip")
    clip_norm: ClipNorm = Field(1.0, description="bound on the l2 norm of one client's whole code")
    statistics_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of epsilon for stage 1")

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
        if LARGEST_EPSILON < self.epsilon < math.inf:
            raise ValueError(
                f"privacy.epsilon = {self.epsilon:g}: nothing above {LARGEST_EPSILON:g} is claimed; ask for less, or "
                "for no privacy with privacy.epsilon = inf"
            )
        if math.isnan(self.epsilon):
            raise ValueError("privacy.epsilon = nan: give a positive number, or inf for no privacy")
        if self.delta >= 1:
            raise ValueError(f"privacy.delta = {self.delta}: a probability well below 1/M is needed")
        return self

    @model_validator(mode="after")
    def _masks_need_integers(self) -> "PrivacyConfig":
        if self.trust == "secure" and not self.is_private:
            raise ValueError(
                'privacy.trust = "secure" with privacy.epsilon = inf: what is masked are noisy integers; ask for a '
                'finite epsilon, or set privacy.trust = "central"'
            )
        return self

    @property
    def is_private(self) -> bool:
        """Whether any noise is added at all."""
        return not math.isinf(self.epsilon)


class ServerConfig(Section):
    """The server's step and its brake."""

    optimizer: Literal["sgd", "momentum", "adam"] = Field(
        "sgd", description="server optimizer on the flat adapter; momentum is .9"
    )
    learning_rate: Factor = Field(
        0.1, description="how far a round moves the adapter along the gradients if all clients agree, at clip norm 1"
    )
    divergence_factor: Annotated[float, Field(gt=1)] = Field(
        4.0,
        description="stop when the loss (demo: on validation facts) exceeds this multiple of the base model's",
    )


class EvaluationConfig(Section):
    """Evaluation on public held-out examples, by the server, and on the clients' own, privately."""

    every: PositiveInt = Field(1, description="rounds between evaluations")
    private: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of epsilon for loss and accuracy on a fifth of every client's own rows, which is then not "
        "trained on, noised; 0 = none",
    )

    def evaluated(self, rounds: int) -> list[int]:
        """Rounds after which there is an evaluation: 0, which is the base model's, every ``every`` and the last."""
        return sorted({*range(0, rounds + 1, self.every), rounds})


class OutputConfig(Section):
    """Where results go."""

    dir: Name = Field("results", description="directory that holds one folder per run")
    name: str = Field("", description='folder of this run; "" = time and strategy')
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = Field(
        "none", description="a tool that gets the figures of every round too; each is an extra, none needs a network"
    )
