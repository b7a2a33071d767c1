import pytest

from sdmw.checkpoints.heads import stands_in
from sdmw.checkpoints.tied_names import tied_by_default, tied_names

WORDS = "embeddings.word_embeddings.weight"
HEAD, BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"


def of(*architectures, **config):
    return config | ({"architectures": list(architectures)} if architectures else {})


@pytest.mark.parametrize(
    ("config", "stored", "sources", "whole"),
    [
        # The class that the config names; of a model type that it names, all classes.
        (of("LlamaForCausalLM"), ["model.embed_tokens.weight"], {"lm_head.weight": "model.embed_tokens.weight"}, True),
        (of(model_type="llama"), ["model.embed_tokens.weight"], {"lm_head.weight": "model.embed_tokens.weight"}, False),
        (of("BertForMaskedLM"), ["cls.predictions.bias", f"bert.{WORDS}"],
         {BIAS: "cls.predictions.bias", HEAD: f"bert.{WORDS}"}, True),
        (of("BertForMaskedLM"), [f"bert.{WORDS}"], {HEAD: f"bert.{WORDS}"}, False),
        # Files without the outermost module, and from before a module lay around others.
        (of("GPT2LMHeadModel"), ["wte.weight"], {"lm_head.weight": "wte.weight"}, False),
        (of("BertForMaskedLM"), ["cls.predictions.bias", WORDS], {BIAS: "cls.predictions.bias", HEAD: WORDS}, False),
        (of("BartForConditionalGeneration"), ["shared.weight"],
         {"lm_head.weight": "shared.weight", "encoder.embed_tokens.weight": "shared.weight",
          "decoder.embed_tokens.weight": "shared.weight"}, False),
        (of("LlavaForConditionalGeneration"), ["language_model.model.embed_tokens.weight"],
         {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}, False),
        # A language model in a larger model, by its own type.
        (of("EncoderDecoderModel", encoder={"model_type": "bert"}, decoder={"model_type": "bert"}),
         [f"encoder.{WORDS}", f"decoder.bert.{WORDS}"], {f"decoder.{HEAD}": f"decoder.bert.{WORDS}"}, False),
        (of("SomeForCausalLM", text_config={"model_type": "llama"}, vision_config={"model_type": "t5"}),
         ["shared.weight", "inner.model.embed_tokens.weight"],
         {"inner.lm_head.weight": "inner.model.embed_tokens.weight"}, False),
        # Of two that are tied together, the one that the other stands for: each class by itself, and the type.
        (of("OpenAIGPTDoubleHeadsModel"), ["lm_head.weight", "transformer.tokens_embed.weight"],
         {"transformer.tokens_embed.weight": "lm_head.weight"}, True),
        (of(model_type="openai-gpt"), ["lm_head.weight", "transformer.tokens_embed.weight"],
         {"lm_head.weight": "transformer.tokens_embed.weight"}, False),
        (of(model_type="bart"), ["model.shared.weight", "model.decoder.embed_tokens.weight"],
         dict.fromkeys(("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
                       "model.shared.weight"), False),
        # A model that was saved from within a wrapper.
        (of("LlamaForCausalLM"), ["module.model.embed_tokens.weight", "module.model.norm.weight"],
         {"module.lm_head.weight": "module.model.embed_tokens.weight"}, True),
        (of("LlamaForCausalLM"), ["module.model.embed_tokens.weight", "model.norm.weight"], {}, False),
        # What nobody knows.
        (of("SomeForCausalLM", model_type="of_nobody"), ["model.embed_tokens.weight"], {}, False),
        (of("LlamaForCausalLM"), ["transformer.wte.weight"], {}, False),
        (None, ["model.embed_tokens.weight"], {}, False),
    ],
)  # fmt: skip
def test_what_is_tied_in_a_class(config, stored, sources, whole):
    found = tied_names(config, stored)
    assert (found.sources, found.whole) == (sources, whole)


@pytest.mark.parametrize(
    ("config", "tied"),
    [({"model_type": "gpt2"}, True), ({"model_type": "bert"}, True), ({"model_type": "llama"}, False), (None, False)],
)
def test_some_tie_where_their_config_is_silent(config, tied):
    assert tied_by_default(config) is tied


def test_an_index_may_name_what_its_class_ties():
    config = of("T5GemmaForConditionalGeneration", model_type="t5gemma")
    stored = ["model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight"]
    assert stands_in("lm_head.out_proj.weight", stored, config)
    assert not stands_in("lm_head.out_proj.weight", stored, config | {"tie_word_embeddings": False})
    # Of a class that is known nothing else: LUKE's head is a tensor of its own.
    luke = ["luke.embeddings.word_embeddings.weight", "luke.entity_embeddings.entity_embeddings.weight",
            "lm_head.decoder.bias"]  # fmt: skip
    assert stands_in("entity_predictions.decoder.weight", luke, of("LukeForMaskedLM"))
    assert not stands_in("lm_head.decoder.weight", luke, of("LukeForMaskedLM"))
