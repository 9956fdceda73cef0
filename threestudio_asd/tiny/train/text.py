"""The tokenizer and text encoder of tiny-shapes: whole words into a two-layer CLIP text model."""

import random
from itertools import product

from jaxtyping import Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from threestudio_asd.tiny.captions import MAX_LENGTH, UNKNOWN, VIEWS, training_caption, vocabulary
from threestudio_asd.tiny.dataset import COLOR_NAMES, OBJECT_NAMES

BOS, EOS = "<bos>", "<eos>"


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-cased words; ``<bos> words <eos>``, padded with ``<eos>`` as CLIP's tokenizer does."""
    words = {word: i for i, word in enumerate([BOS, EOS, UNKNOWN, *vocabulary()])}
    core = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    # "<unk>" written in a caption must stay one token: it is an added special token.
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, words[BOS]), (EOS, words[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=MAX_LENGTH,
    )


def new_text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=128,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Int[Tensor, "N L"]:
    """Token ids, all ``MAX_LENGTH`` long."""
    return tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_LENGTH,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def training_tokens(
    tokenizer: PreTrainedTokenizerFast, seed: int, variants: int = 256
) -> Int[Tensor, "O C V 2 K L"]:
    """``variants`` training captions of every object, colour, view and kind of picture."""
    rng = random.Random(seed)
    kinds = list(product(OBJECT_NAMES, COLOR_NAMES, VIEWS, (False, True)))
    captions = [training_caption(rng, *kind) for kind in kinds for _ in range(variants)]
    shape = (len(OBJECT_NAMES), len(COLOR_NAMES), len(VIEWS), 2, variants, MAX_LENGTH)
    return tokenize(tokenizer, captions).reshape(shape)
