"""A tiny tokenizer, and chat templates that behave like those of well-known models (written for these tests)."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = """
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

SMOLLM2 = """
{%- if messages[0].role != 'system' -%}
<|im_start|>system
You are a helpful assistant<|im_end|>
{% endif -%}
""" + CHATML.lstrip("\n")

# Qwen 2.5: a default system prompt, tools and tool calls
QWEN25 = """
{%- if tools -%}
<|im_start|>system
{{ messages[0].content if messages[0].role == 'system' else 'You are Qwen' }}
# Tools
{% for t in tools %}{{ t | tojson }}
{% endfor %}<|im_end|>
{% elif messages[0].role != 'system' -%}
<|im_start|>system
You are Qwen<|im_end|>
{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% elif m.tool_calls is defined -%}
<|im_start|>assistant
{{ m.content }}{% for c in m.tool_calls %}
<tool_call>
{{ c.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% elif not (tools and m.role == 'system') -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

# Qwen 3: the thinking of earlier turns is taken out, the last turn always has a thinking block
QWEN3 = """
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') -%}
{%- set thought = m.reasoning_content if m.reasoning_content is string else '' -%}
{%- if '</think>' in m.content -%}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- endif -%}
<|im_start|>assistant
{% if loop.index0 > ns.last and (loop.last or thought) -%}
<think>
{{ thought.strip('\\n') }}
</think>

{% endif -%}
{{ said }}<|im_end|>
{% else -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

LLAMA3 = """
{%- for m in messages -%}
{%- if loop.first %}{{ bos_token }}{% endif -%}
<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start_header_id|>assistant<|end_header_id|>

{% endif -%}
"""

GEMMA3 = """
{{- bos_token -}}
{%- set first = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' -%}
{%- set rest = messages[1:] if messages[0].role == 'system' else messages -%}
{%- for m in rest -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ first if loop.first }}{{ m.content | trim }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}
"""

MISTRAL = """
{{- bos_token -}}
{%- for m in messages -%}
{%- if m.role == 'user' -%}
[INST] {{ m.content }} [/INST]
{%- elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}
{%- else -%}{{ raise_exception('Only user and assistant roles are supported!') }}
{%- endif -%}
{%- endfor -%}
"""

# Phi 3: an end of turn token, and after the whole conversation an end of sequence
PHI3 = """
{%- for m in messages -%}
<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{% else %}{{ eos_token }}{% endif -%}
"""

# DeepSeek R1's habit: it asks with an open thinking block that it does not render
R1 = """
{%- for m in messages -%}
{%- if m.role == 'user' -%}<|user|>{{ m.content }}
{%- else -%}<|assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|><think>
{% endif -%}
"""

MARKED = """
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
{% else %}{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

MARKED_WITHOUT_END = MARKED.replace(
    "{{ m.content }}<|im_end|>{% endgeneration %}", "{{ m.content }}{% endgeneration %}<|im_end|>"
)

# Nothing but words: where would generation stop?
VICUNA = """
{%- for m in messages -%}{{ m.role | upper }}: {{ m.content }}
{% endfor -%}
{%- if add_generation_prompt -%}ASSISTANT: {% endif -%}
"""

# Two kinds of turns and no word about others
TWO_ROLES = """
{%- for m in messages -%}
{%- if m.role == 'user' -%}<|user|>{{ m.content }}<|end|>
{%- elif m.role == 'assistant' -%}<|assistant|>{{ m.content }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""

SPECIAL = (
    "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<bos>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>",
)  # fmt: skip
WORDS = ["Paris is the capital.\n\nIt is  large.", "user\nassistant\nmodel\nsystem\n\n", "What is 2+2? It is 4.\n"] * 4


# How Llama 3 and Qwen cut a text: newlines stay together, whatever follows. GPT-2's cut looks at what follows.
CUT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def _backend(gpt2: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if not gpt2:
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CUT), "isolated"), level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return tokenizer.to_str()


def tokenizer(template: str | None = CHATML, gpt2: bool = False, **special: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a few merges and the special tokens of all the templates."""
    chosen = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>", **special}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_backend(gpt2)), **chosen)
    made.chat_template = template
    return made
