"""Folders that are no dense text encoder, or no complete one: a sentence with the true reason, the same from all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.records import Records

from soloist.config import RunConfig
from soloist.errors import ModelLoadError
from soloist.extras import install_command
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.planning.estimate import estimate_run
from soloist.planning.run_estimate import RunEstimate

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 90868376\n"
MODULES = "sentence_transformers.sentence_transformer.modules"


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A complete model that a test may change."""
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "model"))


def _edit(path: Path, **fields: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**content, **fields}), encoding="utf-8")


def _modules(folder: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    change(modules)
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def _only(folder: Path, *kept: str) -> None:
    for path in sorted(folder.iterdir()):
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _plan(folder: Path) -> RunEstimate:
    chunks = folder.parent / "chunks"
    chunks.mkdir(exist_ok=True)
    (chunks / "a.jsonl").write_text('{"text": "one short text"}\n')
    return estimate_run(
        RunConfig(chunks_root=chunks, out=folder.parent / "run", models=(str(folder),), accelerator="cpu")
    )


def _refusal(folder: Path, *, plan_says_so: bool = True) -> str:
    """What `embed` says of the folder; `plan` says it too, but where nothing is missing but all of the weights."""
    with pytest.raises(ModelLoadError) as loaded:
        stage(resolve(str(folder)), "float32")
    if plan_says_so:
        with pytest.raises(ModelLoadError) as planned:
            _plan(folder)
        assert str(loaded.value) == str(planned.value)
    else:
        note = f"{folder.name}: its weights are not in {folder}, and a run needs them: copy them there first"
        assert note in _plan(folder).notes
    assert "\n" not in str(loaded.value)
    said = str(loaded.value).removeprefix(f"{folder.name} cannot be loaded from {folder}: ")
    assert said != str(loaded.value)
    return said


def _kind(**settings: object) -> Callable[[Path], object]:
    return lambda folder: _edit(folder / "config_sentence_transformers.json", **settings)


def _module(kind: str) -> Callable[[Path], object]:
    return lambda folder: _modules(folder, lambda modules: modules[1].update(type=kind))


def _transformer(**settings: object) -> Callable[[Path], object]:
    return lambda folder: _edit(folder / "sentence_bert_config.json", **settings)


def _per_token(folder: Path) -> None:
    _modules(folder, lambda modules: modules.__delitem__(slice(1, None)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_kind(model_type="CrossEncoder"), "it is a cross-encoder, which scores pairs of texts (CrossEncoder in"),
        (_kind(model_type="SparseEncoder"), "it is a sparse encoder whose documents go through Transformer, Pooling"),
        (_kind(model_type="MultiVectorEncoder"), "it is a late-interaction model"),
        (_kind(model_type="ColBERT"), "it is a late-interaction model"),
        (_kind(model_type="Reader"), "it is a Reader, which gives no dense vectors"),
        (_kind(similarity_fn_name="MaxSim"), "it is a late-interaction model"),
        (_module("pylate.models.Dense.Dense"), "it is a late-interaction model"),
        (_module("sentence_transformers.sparse_encoder.models.SpladePooling"), "it is a sparse encoder"),
        (_module("sentence_transformers.models.CLIPModel"), "it is a model of pictures and their captions"),
        (_transformer(transformer_task="sequence-classification"), "it is a cross-encoder"),
        (_transformer(transformer_task="fill-mask"), "it is a sparse encoder"),
        (_transformer(transformer_task="text-generation"), "it is a model that writes text"),
        (
            _transformer(
                modality_config={"image": {"method": "forward", "method_output_name": "last_hidden_state"}},
                module_output_name="token_embeddings",
            ),
            "it reads image, not plain text",
        ),
        (lambda folder: _edit(folder / "config.json", model_type="clip"), "it is a model of pictures"),
        (_per_token, "it is a late-interaction model (such as ColBERT), which gives a vector for each token (its"),
    ],
)
def test_a_model_of_another_kind_is_called_what_it_is(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    """Catches a model of another kind that ends in a KeyError, a shape or advice to trust its code."""
    change(folder)
    assert _refusal(folder).startswith(said)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json", "modules.json",
             "1_Pooling/config.json", "config_sentence_transformers.json"]
)  # fmt: skip
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "is a pointer of git-lfs and not the file itself: run git lfs pull"),
        ("", "is empty"),
        ("<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page and not the file itself"),
    ],
)
def test_a_file_that_a_download_left_broken_is_named(folder: Path, file: str, content: str, said: str) -> None:
    """Catches an error about headers or JSON, in which nobody finds the file and what happened to it."""
    (folder / file).write_text(content)
    fetched_later = file == "model.safetensors" and not content
    assert _refusal(folder, plan_says_so=not fetched_later).startswith(f"{file} {said}")


def test_a_pointer_that_nothing_reads_does_not_matter(folder: Path) -> None:
    """Catches a model that is refused for files of other formats, which a clone without git-lfs has as pointers."""
    (folder / "onnx").mkdir()
    for name in ("onnx/model.onnx", "pytorch_model.bin", "vocab.txt", "tf_model.h5"):
        (folder / name).write_text(POINTER)
    assert stage(resolve(str(folder)), "float32").dim == 32


def _cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _lose_a_shard(folder: Path) -> None:
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "model-00002-of-00002.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    first = next(iter(names))
    index = {"weight_map": {**names, first: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _dense_without(file: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "2_Dense").mkdir()
        _edit(folder / "2_Dense" / "config.json", in_features=32, out_features=16)
        save_file({"linear.weight": torch.ones(16, 32)}, folder / "2_Dense" / "model.safetensors")
        (folder / "2_Dense" / file).unlink()
        entry: dict[str, object] = {"idx": 3, "name": "3", "path": "2_Dense", "type": f"{MODULES}.Dense"}
        _modules(folder, lambda modules: modules.append(entry))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "1_Pooling" / "config.json").unlink(), "1_Pooling/config.json is missing"),
        (_dense_without("config.json"), "2_Dense/config.json is missing"),
        (_dense_without("model.safetensors"), "2_Dense/model.safetensors is missing"),
        (_cut_weights, "model.safetensors has "),
        (lambda folder: (folder / "modules.json").write_text("[]"), "its modules.json has no modules"),
        (_lose_a_shard, "model-00002-of-00002.safetensors is missing, but model.safetensors.index.json lists it"),
    ],
)
def test_what_an_incomplete_copy_lacks_is_named(folder: Path, change: Callable[[Path], object], said: str) -> None:
    """Catches "attach complete weights" for a file that is no weights, and random numbers in place of a shard."""
    change(folder)
    assert _refusal(folder).startswith(said)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model-q8_0.gguf", "its weights are there only as GGUF (llama.cpp) (model-q8_0.gguf)"),
        ("onnx/model.onnx", "its weights are there only as ONNX (onnx/model.onnx)"),
        ("openvino/openvino_model.xml", "its weights are there only as OpenVINO"),
        ("tf_model.h5", "its weights are there only as TensorFlow"),
        ("weights.pt", "its weights are there only as a pickle of torch"),
    ],
)
@pytest.mark.parametrize("is_pipeline", [True, False])
def test_weights_in_another_format_alone_are_named(folder: Path, file: str, said: str, is_pipeline: bool) -> None:
    """Catches "model.safetensors is missing" where the weights are there, in a format that torch does not read."""
    (folder / "model.safetensors").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"GGUF" * 10)
    if not is_pipeline:
        _only(folder, file.split("/")[0])
    assert _refusal(folder).startswith(said)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
    ],
)
def test_quantised_weights_are_refused_with_their_method(
    folder: Path, settings: dict[str, object], method: str
) -> None:
    """Catches advice to install a library that would not help, or numbers that are read as if they were floats."""
    _edit(folder / "config.json", quantization_config=settings)
    assert _refusal(folder).startswith(f"its weights are quantised by {method} (quantization_config in config.json)")


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    """Catches eight-bit weights without their scales, which give vectors that look right."""
    name = "encoder.layer.0.attention.self.query.weight"
    weights = load_file(folder / "model.safetensors")
    quantised = {**weights, name: (weights[name] * 50).to(torch.int8)}
    save_file(quantised, folder / "model.safetensors", metadata={"format": "pt"})
    assert _refusal(folder).startswith(f"model.safetensors has {name} as I8, which are quantised weights")
    torch.save(quantised, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=rf"pytorch_model\.bin has {name} as int8, which are quantised weights"):
        stage(resolve(str(folder)), "float32")


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lambda folder: {"weight": _Touch(folder / "ran")},
            "is a pickle of more than tensors, which could run any code",
        ),
        (lambda folder: torch.nn.Linear(2, 2), "is a pickle of more than tensors, which could run any code"),
        (b"PK\x03\x04 and no more", "is not a torch file, or only a part of one"),
        (b"hello", "is not a torch file, or only a part of one"),
    ],
)
def test_a_torch_file_that_is_no_dictionary_of_tensors_is_named(
    folder: Path, content: bytes | Callable[[Path], object], said: str
) -> None:
    """Catches "attach complete weights" for a file that is complete, and one that runs a program when it is read."""
    (folder / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content(folder), folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError) as caught:
        stage(resolve(str(folder)), "float32")
    assert f"pytorch_model.bin {said}" in str(caught.value)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["BertModel"]}, "it has no modules.json that says how to pool, like every plain"),
        ({"architectures": ["BertForMaskedLM"]}, "it has no modules.json that says how to pool, like every plain"),
        ({"architectures": ["BertForSequenceClassification"]}, "it is a cross-encoder"),
        ({"architectures": ["HF_ColBERT"]}, "it is a late-interaction model"),
        ({"architectures": ["CLIPModel"], "model_type": "clip"}, "it is a model of pictures"),
    ],
)
def test_a_plain_folder_of_transformers_is_told_apart(folder: Path, config: dict[str, object], said: str) -> None:
    """Catches a reranker that is told to save itself with a pooling, and a pooling that is guessed."""
    _only(folder, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    _edit(folder / "config.json", **config)
    assert _refusal(folder).startswith(said)


def test_a_folder_around_the_model_s_own_says_which_one(folder: Path) -> None:
    """Catches a sentence about pooling where the folder of another level was meant."""
    (folder.parent / "outer").mkdir()
    shutil.move(folder, folder.parent / "outer" / "inner")
    assert _refusal(folder.parent / "outer") == (
        "it has no modules.json that says how to pool, and its folder inner has one: name that folder"
    )


def _adapter(folder: Path, base: str, **more: object) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 4, "target_modules": ["query"], **more}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()


def test_an_adapter_without_what_it_needs_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches "files are missing" for a folder that a LoRA training left, which is complete."""
    _adapter(folder, "org/base")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _refusal(folder) == (
        "it holds a LoRA adapter (adapter_config.json) and not a whole model, of the base org/base: run "
        f"{install_command('peft')} to load it on its base, or merge it into its base and save that whole model"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "and its base org/base is not on this machine: put the base there" in _refusal(folder)


def test_an_adapter_with_an_old_peft_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaggle's image has peft 0.18.1: transformers refused it when the weights of the base were loaded already."""
    _adapter(folder, "org/base")
    monkeypatch.syspath_prepend(tmp_path / "records")
    records = Records(tmp_path / "records")
    records.folder.mkdir()
    records.add("soloist", "0", 'peft>=0.20; extra == "peft"')
    records.add("peft", "0.18.1", source="")
    assert _refusal(folder).startswith(
        "it holds a LoRA adapter (adapter_config.json) and not a whole model, of the base org/base, and the installed "
        "peft 0.18.1 is too old (peft>=0.20): run pip install 'soloist[peft]' to load it on its base, or merge it"
    )
