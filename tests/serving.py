"""A real server on a tiny model, in a thread of the test's process; asked through the official client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2 as httpx
import tiny
import torch
from openai import OpenAI
from peft import IA3Config, LoraConfig, get_peft_model
from tiny_tokenizers import letters

from luthier.serve import listening
from luthier.serve.settings import Settings

HERMES = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_model(
    folder: Path, seed: int = 0, *, template: str | None = HERMES, context: int = 512, endless: bool = False
) -> Any:
    """A model whose tokens are bytes and that says anything; of equal seeds the weights are equal. `endless`: greedy,
    its answers have no end but their length."""
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=template)
    sizes = {"vocab_size": len(tokenizer), "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    made = {"max_position_embeddings": context, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
    module = tiny.model(seed=seed, **sizes, **heads, **made)
    if endless:
        with torch.no_grad():  # the end is as likely as all others on average: never the likeliest
            module.lm_head.weight[2] = module.lm_head.weight[3:].mean(0)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return module


def lora(folder: Path, module: Any, seed: int, *, alone: bool = False) -> Path:
    """An adapter of PEFT's that changes what the model says; `alone`: one that the engine puts on by itself."""
    settings: Any = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"])
    if alone:
        settings = IA3Config(target_modules=["k_proj", "v_proj", "o_proj"], feedforward_modules=[])
    peft = get_peft_model(module, settings)
    peft.peft_config["default"].base_model_name_or_path = "the tiny base"
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_" in name or "ia3_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    peft.save_pretrained(folder)
    peft.unload()
    return folder


class Served:
    """A server under test."""

    def __init__(self, house: Any, server: Any, port: int) -> None:
        self.house, self.server, self.port = house, server, port
        self.url = f"http://127.0.0.1:{port}"

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(timeout=30)

    @cached_property
    def _client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def client(self, **options: Any) -> OpenAI:
        return self._client.with_options(**options) if options else self._client

    def post(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        return self.http.post(self.url + path, json=body, headers=headers, **more)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        return self.http.get(self.url + path, headers=headers)

    def gauges(self) -> dict[str, float]:
        """The numbers of /metrics."""
        lines = self.get("/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    def until(self, holds: Any, seconds: float = 5.0) -> dict[str, float]:
        """The gauges, once what is waited for holds."""
        end = time.monotonic() + seconds
        while not holds(found := self.gauges()):
            assert time.monotonic() < end, found
            time.sleep(0.01)
        return found

    def idle(self) -> dict[str, float]:
        """Wait until nothing is under way."""
        names = ("queue_requests", "queue_tokens", "running", "waiting", "kv_pages_held")
        return self.until(lambda now: not any(now[f"luthier_{name}"] for name in names))


@contextmanager
def serving(
    given: list[str], folder: Path | None = None, keys: tuple[str, ...] = (), buffer: int = 0, **settings: Any
) -> Iterator[Served]:
    """A server while the block lasts. `buffer`: bytes that the system keeps of what is not read."""
    house = listening.house_of(given, Settings(**settings), folder)
    server = listening.make(house, "127.0.0.1", list(keys))
    sock = listening.listen("127.0.0.1", 0)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield Served(house, server, sock.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
