"""The tokenizer and text encoder of tiny-shapes: whole words into a two-layer CLIP text model."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ..captions import MAX_LENGTH, UNKNOWN, vocabulary

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
