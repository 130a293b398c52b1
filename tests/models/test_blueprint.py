"""A network that is built from configuration files alone has the sizes and the inputs of the one that is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from support.tiny_models import make_static, make_t5

from benchmarks.predicted_memory import Comparison, Shape
from soloist.encoding.encoder import Encoder
from soloist.errors import PredictionError
from soloist.memory.cards import CARDS
from soloist.memory.network import TORCH_DTYPES, Network
from soloist.memory.prediction import blueprint_of
from soloist.models.blueprint import DenseShape, read_blueprint, safetensors_header
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.loading import stage
from soloist.models.settings import read_settings
from soloist.models.spec import ModelSpec

NAMES = ("qwen2", "xlm-roberta", "bert", "all-MiniLM-L6-v2", "wordllama")
# As the models' cards, or the safetensors index on the hub, give them.
PUBLISHED_PARAMETERS = {
    "jina-code-embeddings-1.5b": 1_543_714_304,
    "bge-m3": 567_754_752,
    "qwen3-embedding-0.6b": 595_776_512,
    "CodeRankEmbed": 136_731_648,
    "all-MiniLM-L6-v2": 22_713_216,
    "all-mpnet-base-v2": 109_486_464,
    "bge-small-en-v1.5": 33_360_000,
    "embeddinggemma-300m": 307_581_696,
}


def spec_of(name: str, tiny_models: dict[str, Path]) -> ModelSpec:
    return resolve(str(tiny_models[name])) if name in tiny_models else BUILT_IN.get(name)


def assert_equal_to_loading(spec: ModelSpec, dtype="float32") -> None:
    """Bytes of weights, dimension and inputs, beside those of the loaded model."""
    staged, blueprint = stage(spec, dtype), blueprint_of(spec)
    assert Network(blueprint, dtype).weights().total_bytes == staged.weights_bytes
    assert set(blueprint.input_names) == set(Encoder(staged).input_names)
    assert blueprint.is_static == staged.is_static
    assert read_settings(spec, blueprint).dim == staged.dim


@pytest.fixture
def bert(tiny_models, tmp_path) -> Path:
    """A copy of the small BERT that a test may change."""
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "bert"))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_inputs_are_those_of_the_loaded_model(name, dtype, tiny_models):
    """A buffer that is kept in float32, a shared table, a third input that is forgotten: each is a miss of memory."""
    assert_equal_to_loading(spec_of(name, tiny_models), dtype)


def test_modules_after_the_transformer(tiny_models, tmp_path):
    """A dense module has weights of its own, and decides how long the vectors are."""
    modules = [
        Transformer(str(tiny_models["bert"])),
        Pooling(32, pooling_mode=("cls", "mean")),
        Dense(64, 24, bias=False),
        Dense(24, 16),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "dense"), create_model_card=False)
    blueprint = read_blueprint(tmp_path / "dense")
    assert blueprint.pooling == ("cls", "mean")
    expected = (DenseShape(in_features=64, out_features=24, bias=False), DenseShape(in_features=24, out_features=16))
    assert blueprint.dense == expected
    assert_equal_to_loading(resolve(str(tmp_path / "dense")))


def test_two_kinds_of_pooling_make_longer_vectors(tiny_models, tmp_path):
    """Vectors of half their length would plan half of the disk."""
    modules = [Transformer(str(tiny_models["bert"])), Pooling(32, pooling_mode=("cls", "mean"))]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "both"), create_model_card=False)
    assert_equal_to_loading(resolve(str(tmp_path / "both")))


def test_a_transformer_in_a_folder_of_its_own(bert):
    """Older pipelines have their transformer in 0_Transformer, and no config.json beside modules.json."""
    in_its_own_folder(bert)
    assert_equal_to_loading(resolve(str(bert)))


def in_its_own_folder(folder: Path) -> Path:
    """Move a pipeline's transformer to where sentence-transformers once saved it."""
    (folder / "0_Transformer").mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / "0_Transformer" / path.name)
    edit(folder / "modules.json", lambda modules: modules[0].update(path="0_Transformer"))
    return folder


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED_PARAMETERS.items())
def test_catalogue_blueprints_have_the_published_parameters(name, parameters):
    """A field that is missing takes transformers' default in silence, and the network is another one."""
    blueprint = BUILT_IN.get(name).blueprint
    weights = Network(blueprint, "float16").weights()
    assert weights.parameters == parameters
    assert weights.total_bytes == pytest.approx(2 * parameters, rel=0.001)
    assert 0 < weights.embedding_parameters < parameters


def test_every_catalogue_model_can_be_planned():
    """A model without a blueprint, added later, could only be planned where its files are."""
    known = {spec.name for spec in BUILT_IN.specs if spec.blueprint is not None or spec.package is not None}
    assert known == {spec.name for spec in BUILT_IN.specs if spec.kind != "lexical"}
    assert set(PUBLISHED_PARAMETERS) == {spec.name for spec in BUILT_IN.specs if spec.blueprint is not None}
    assert blueprint_of(BUILT_IN.get("wordllama")).static_shape == (32_000, 256)


def test_the_packaged_minilm_is_the_catalogues():
    """A catalogue row that differs from the model's own files plans another model on a machine without them."""
    packaged, known = blueprint_of(BUILT_IN.get("all-MiniLM-L6-v2")), BUILT_IN.get("all-MiniLM-L6-v2").blueprint
    assert Network(packaged, "float32").weights().sizes_bytes == Network(known, "float32").weights().sizes_bytes
    assert (packaged.pooling, packaged.normalize) == (known.pooling, known.normalize)
    assert set(packaged.input_names) == set(known.input_names)


def test_the_digest_is_of_the_network_and_not_of_its_place(bert, tiny_models):
    """A digest over the path would trace a copied model again; one that misses a field would take another's traces."""
    before = read_blueprint(bert)
    assert before.digest == read_blueprint(tiny_models["bert"]).digest
    assert replace(before, input_names=("input_ids",)).digest != before.digest
    edit(bert / "config.json", lambda config: config.update(num_hidden_layers=3))
    assert read_blueprint(bert).digest != before.digest


def test_a_static_table_is_measured_by_its_header(tmp_path):
    """The rows of a table are in no configuration file; its first bytes have them, whatever follows."""
    folder = make_static(tmp_path / "static", dim=8, rows=1000)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: 8 + int.from_bytes(whole[:8], "little")])
    assert read_blueprint(folder).static_shape == (1000, 8)


def test_a_table_that_tokens_share_is_as_large_as_it_is_loaded(tmp_path):
    """model2vec stores a row for many tokens, which a load writes out: a plan of the stored rows would be too small."""
    folder = make_static(tmp_path / "static", dim=8, rows=1000)
    table = {"embeddings": torch.ones(10, 8), "mapping": torch.zeros(1000, dtype=torch.int64)}
    save_file(table, folder / "model.safetensors")
    assert read_blueprint(folder).static_shape == (1000, 8)
    assert stage(resolve(str(folder)), "float32").weights_bytes == 1000 * 8 * 4


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{]"])
def test_a_damaged_table_is_named(content, tmp_path):
    """A header length of 2^64 must not be allocated, and no traceback of json helps anybody."""
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(PredictionError, match=r"model\.safetensors cannot be read \("):
        safetensors_header(tmp_path / "model.safetensors")


def test_a_pipeline_whose_weights_are_missing_has_a_blueprint(bert):
    """Planning before the download is what planning is for."""
    (bert / "model.safetensors").unlink()
    assert Network(read_blueprint(bert), "float32").weights().total_bytes > 0


@pytest.mark.parametrize(
    "field",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "model_type",
        "intermediate_size",
    ],
)
def test_a_field_that_is_missing_is_named(field, bert):
    """A default in its place plans another network: 12 layers in the place of 2, without a word."""
    edit(bert / "config.json", lambda config: config.pop(field))
    with pytest.raises(PredictionError, match=rf"(?s)(?=.*bert)(?=.*{field})(?=.*config\.json)"):
        Network(read_blueprint(bert), "float32")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "bert", "hidden_size": "big"}'),
        ("modules.json", "{}"),
        *(
            row
            for row in (
                ("config.json", "[1]"),
                ("modules.json", '[{"idx": 0}]'),
                ("modules.json", "[1]"),
            )
        ),
    ],
)
def test_a_damaged_configuration_is_named(file, content, bert):
    """AttributeError: 'list' object has no attribute 'get' names neither the file nor the remedy."""
    (bert / file).write_text(content)
    with pytest.raises(PredictionError, match="bert"):
        Network(read_blueprint(bert), "float32")


def test_a_module_of_an_unknown_kind_is_refused(bert):
    """A module that is left out is memory that is left out."""
    edit(bert / "modules.json", lambda modules: modules[2].update(type="somewhere.Whitening"))
    with pytest.raises(
        PredictionError, match=r"2_Normalize has a module Whitening, whose memory cannot be predicted: "
    ):
        read_blueprint(bert)


def test_the_dtype_of_the_checkpoint(bert):
    """Weights of the checkpoint's own dtype are mapped, all others are a copy in host memory."""
    module = SentenceTransformer(str(bert), device="cpu", model_kwargs={"dtype": TORCH_DTYPES["bfloat16"]})
    module.save(str(bert.parent / "half"), create_model_card=False)
    assert read_blueprint(bert.parent / "half").checkpoint_dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_encoder_of_t5_is_known_by_its_own_names(dtype, tmp_path):
    """Its sizes have other names, its decoder is not loaded, and in float16 a projection stays in float32."""
    folder = make_t5(tmp_path / "t5")
    # As published: the checkpoint is of the whole, and the pipeline loads the encoder.
    edit(folder / "config.json", lambda config: config.update(is_encoder_decoder=True, architectures=["T5Model"]))
    assert_equal_to_loading(resolve(str(folder)), dtype)
    blueprint = read_blueprint(folder)
    assert (blueprint.config["num_attention_heads"], blueprint.config["num_hidden_layers"]) == (4, 4)
    comparison, shape = Comparison(folder, dtype), Shape(rows=4, length=128, masked=True)
    predicted, simulated = (getattr(comparison, name)(shape, CARDS["T4"]) for name in ("predicted", "simulated"))
    assert predicted == pytest.approx(simulated, rel=0.02)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "longt5", "d_model": 64, "num_layers": 2, "is_encoder_decoder": True},
         r"is that of an encoder with a decoder \(longt5\), whose memory cannot be predicted: "),
        ({"model_type": "own_bert", "auto_map": {"AutoModel": "modeling.OwnModel"}, "dim": 64},
         r"is of a network whose code comes with the model \(auto_map\)\. No prediction runs such code, so its memory"),
        ({"model_type": "own_bert", "auto_map": {"AutoModel": "modeling.OwnModel"}, "hidden_size": 64,
          "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 10, "intermediate_size": 64},
         r"is of a network whose code comes with the model \(auto_map\)\. No prediction runs such code, so its memory"),
        ({"model_type": "newest", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "vocab_size": 10, "intermediate_size": 64},
         r"has a network of the kind newest, which this version of transformers does not know: "),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_predicted_has_a_remedy_that_works(config, reason, bert):
    """`complete its config.json` sends a person to a file that lacks nothing."""
    (bert / "config.json").write_text(json.dumps(config))
    with pytest.raises(PredictionError, match=reason) as caught:
        Network(read_blueprint(bert), "float32")
    text = str(caught.value)
    assert text.startswith(str(bert))
    assert text.endswith("plan without this model, and in a run set its token_budget")
    assert "complete" not in text
