"""Chat templates by name against transcripts written by hand from the published formats."""

import pytest

from sdmw.writing.chat_format import NAMES, chat_format

jinja2 = pytest.importorskip("jinja2", reason="pip install 'sdmw[test]'")
sandbox = pytest.importorskip("jinja2.sandbox")

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]
INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


def rendered(name, messages, *, prompt=True, **tokens):
    """As transformers renders templates."""

    def refuse(message):
        raise jinja2.TemplateError(message)

    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(chat_format(name)).render(
        messages=messages, add_generation_prompt=prompt, **{"bos_token": "<s>", "eos_token": "</s>", **tokens}
    )


TRANSCRIPTS = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Hello!</s>[INST] Bye [/INST]",
    "alpaca": (
        "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!</s>\n\n### Instruction:\nBye\n\n### Response:\n"
    ),
    "exaone": (
        "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello![|endofturn|]\n[|user|]Bye\n[|assistant|]"
    ),
}
WITHOUT_SYSTEM = {
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n",
    "llama3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
    ),
    "mistral": "<s>[INST] Hi [/INST] Hello!</s>",
    "alpaca": f"<s>{INTRODUCTION}\n\n### Instruction:\nHi\n\n### Response:\nHello!</s>\n\n",
    "exaone": "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]Hello![|endofturn|]\n",
}


def test_each_has_a_transcript():
    assert set(NAMES) == TRANSCRIPTS.keys() == WITHOUT_SYSTEM.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation(name):
    assert rendered(name, [SYSTEM, *TURNS]) == TRANSCRIPTS[name]
    assert rendered(name, TURNS[:2], prompt=False) == WITHOUT_SYSTEM[name]


@pytest.mark.parametrize(("name", "begins"), [("llama3", "<|begin_of_text|><|start"), ("mistral", "<s>[INST] Hi"),
                                              ("alpaca", INTRODUCTION)])  # fmt: skip
def test_a_tokenizer_without_special_tokens(name, begins):
    assert rendered(name, TURNS, bos_token=None, eos_token=None).startswith(begins)


@pytest.mark.parametrize("messages", [TURNS[1:], [*TURNS, TURNS[0]], [TURNS[0], SYSTEM]])
def test_turns_that_mistral_cannot_say(messages):
    with pytest.raises(jinja2.TemplateError, match="must take turns"):
        rendered("mistral", messages)
