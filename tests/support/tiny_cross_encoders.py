"""Complete folders of cross-encoders with small random weights, as sentence-transformers' CrossEncoder saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from support.tiny_models import make_gpt2, make_qwen2, tiny_wordpiece
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

_TEMPLATE = (
    '<Q>{{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}'
    '<D>{{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<A>'
)


def make_cross_bert(folder: Path, *, num_labels: int = 1, plain: bool = False, **settings: Any) -> Path:
    """A BERT that reads a question and a text, with the types of both, like cross-encoder/ms-marco-MiniLM-L6-v2.

    `plain` leaves the folder as transformers writes it, without modules.json. `settings` are those of `CrossEncoder`.
    """
    tokenizer = _pairs(tiny_wordpiece())
    config = BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        initializer_range=0.3, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=num_labels,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        network = BertForSequenceClassification(config)
    _write(folder, network, tokenizer)
    if not plain:
        CrossEncoder(str(folder), device="cpu", **settings).save(str(folder), create_model_card=False)
    return folder


def make_cross_gpt2(folder: Path) -> Path:
    """A decoder that counts places and pads on the left: padding would shift them."""
    return _of_a_decoder(make_gpt2(folder / "vectors"), folder, GPT2ForSequenceClassification)


def make_cross_qwen2(folder: Path) -> Path:
    """A decoder with grouped heads that scores at the last token, like mxbai-rerank-base-v2's training network."""
    return _of_a_decoder(make_qwen2(folder / "vectors"), folder, Qwen2ForSequenceClassification)


def make_logit_score(folder: Path) -> Path:
    """A decoder that answers by a token, behind a template, with a prompt of its own, like Qwen3-Reranker."""
    vectors = make_qwen2(folder / "vectors")
    tokenizer = AutoTokenizer.from_pretrained(vectors)
    tokenizer.chat_template = _TEMPLATE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        network = Qwen2ForCausalLM(AutoConfig.from_pretrained(vectors))
    _write(folder / "network", network, tokenizer)
    modules = [Transformer(str(folder / "network"), transformer_task="text-generation"), LogitScore(5, 7)]
    prompts = {"task": "Judge whether the text answers."}
    encoder = CrossEncoder(modules=modules, device="cpu", prompts=prompts, default_prompt_name="task")
    encoder.save(str(folder), create_model_card=False)
    return folder


def _of_a_decoder(vectors: Path, folder: Path, architecture: Any) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(vectors)
    config = AutoConfig.from_pretrained(vectors, num_labels=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        network = architecture(config)
    _write(folder, network, tokenizer)
    return folder


def _write(folder: Path, network: Any, tokenizer: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pairs(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer with BERT's form of two texts: [CLS] a [SEP] b [SEP], of the types 0 and 1."""
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def make_that_wants(folder: Path, word: str) -> Path:
    """A BERT whose weights are set by hand: pairs with this word have one score, and all others a lower one.

    Only the word has a vector. Attention takes the mean of all tokens, and norms take away how many tokens there are.
    """
    tokenizer = _pairs(tiny_wordpiece())
    config = BertConfig(
        hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=64,
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1,
    )  # fmt: skip
    network = BertForSequenceClassification(config)
    layer, each = network.bert.encoder.layer[0], torch.eye(4)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
        wanted = tokenizer.convert_tokens_to_ids(word)
        network.bert.embeddings.word_embeddings.weight[wanted] = torch.tensor([1.0, -1.0, 0.0, 0.0])
        for linear in (layer.attention.self.value, layer.attention.output.dense, network.bert.pooler.dense):
            linear.weight.copy_(each)
        network.classifier.weight[0, 0] = 1.0
    _write(folder, network, tokenizer)
    return folder
