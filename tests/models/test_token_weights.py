"""The lexical weights of a network such as bge-m3's: by FlagEmbedding's arithmetic, or refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.rows_of_texts import rows_of_texts
from support.tiny_models import SENTENCES, make_bert, make_static
from support.tiny_sparse import make_m3, make_splade
from transformers import AutoModel, AutoTokenizer

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.errors import ConfigError, ModelLoadError, UnknownModelError
from soloist.memory.cards import CARDS
from soloist.memory.prediction import Predictor, blueprint_of, tracer_of
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.fingerprint import known_fingerprint
from soloist.models.loading import StagedModel, stage
from soloist.models.refusals import require_encoder
from soloist.models.settings import read_settings
from soloist.types import Matmul

TEXTS = (*SENTENCES, "rain", "rain rain lease \u4e16\u754c <pad> </s>", "lease " * 700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with the weights of its tokens."""
    return make_m3(tmp_path_factory.mktemp("m3") / "m3")


def published(folder: Path, texts: tuple[str, ...]) -> list[dict[int, float]]:
    """The lexical weights as FlagEmbedding computes them, of one text after the other."""
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    layer = torch.load(folder / "sparse_linear.pt", weights_only=True)
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    found: list[dict[int, float]] = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            hidden = network(**inputs).last_hidden_state[0]
        weights = torch.relu(hidden @ layer["weight"].T + layer["bias"])[:, 0]
        largest: dict[int, float] = {}
        for token, weight in zip(inputs["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token not in unused and weight > largest.get(token, 0):
                largest[token] = weight
        found.append(largest)
    return found


def encoded(staged: StagedModel, *, packs: bool) -> np.ndarray:
    """The numbers of the texts, in batches of three."""
    encoder = Encoder(staged, packs=packs)
    assert encoder.packs == packs
    return rows_of_texts(encoder, TEXTS, batch_rows=3)


@pytest.mark.parametrize("matmul", get_args(Matmul))
@pytest.mark.parametrize("packs", [True, False])
def test_the_weights_are_those_that_flagembedding_publishes(folder: Path, packs: bool, matmul: Matmul) -> None:
    """Catches special tokens with a weight, the last of a token's weights, or the weights of a neighbour."""
    staged = stage(resolve(f"{folder}:sparse"), "float32", matmul)
    assert (staged.kind, staged.similarity, staged.spec.name) == ("sparse", "dot", "m3:sparse")
    expected = np.zeros((len(TEXTS), staged.dim), np.float32)
    for row, largest in enumerate(published(folder, TEXTS)):
        expected[row, list(largest)] = list(largest.values())
    for side in (staged, staged.for_queries()):
        found = encoded(side, packs=packs)
        np.testing.assert_allclose(found, expected, rtol=5e-5, atol=1e-5)
        assert np.array_equal(found > 1e-6, expected > 1e-6)
    assert np.count_nonzero(expected) > 50


def test_packed_rows_have_the_same_bits_whatever_is_beside_them(folder: Path) -> None:
    """A resumed run would have other last bits: a product with one column goes through one kernel or another."""
    staged = stage(resolve(f"{folder}:sparse"), "float32")
    encoder = Encoder(staged, packs=True)
    tokenized = encoder.tokenize(TEXTS)
    found = {}
    for size in (1, 7):
        rows = np.zeros((len(TEXTS), staged.dim), np.float32)
        for batch in encoder.plan(tokenized, lambda length, size=size: size):
            rows[list(batch.rows)] = forward(staged.module, encoder.collate(tokenized, batch), "cpu")[: len(batch.rows)]
        found[size] = rows
    assert np.array_equal(found[1], found[7])


def test_a_dense_member_shares_the_network_and_keeps_its_vectors(folder: Path) -> None:
    """Catches a network that is in memory twice, and dense vectors that a second member changes."""
    dense, sparse = stage(resolve(str(folder)), "float32"), stage(resolve(f"{folder}:sparse"), "float32")
    assert dense.module[0] is sparse.module[0]
    assert dense.fingerprint != sparse.fingerprint
    plain = SentenceTransformer(str(folder), device="cpu").encode(list(SENTENCES))
    encoder = Encoder(dense)
    batch = encoder.plan(encoder.tokenize(SENTENCES), lambda length: 99)
    found = np.concatenate(
        [forward(dense.module, encoder.collate(encoder.tokenize(SENTENCES), b), "cpu") for b in batch]
    )
    order = [row for b in batch for row in b.rows]
    np.testing.assert_allclose(found[np.argsort(order)], plain, atol=1e-5)


def test_plans_know_what_a_load_finds(folder: Path) -> None:
    """Catches a plan of another width or fingerprint than the run's, or without the numbers for each word."""
    spec = resolve(f"{folder}:sparse")
    staged, settings = stage(spec, "float16"), read_settings(spec, blueprint_of(spec))
    assert (settings.kind, settings.dim, settings.max_tokens) == ("sparse", staged.dim, staged.max_tokens)
    assert (settings.similarity, settings.has_unit_vectors) == ("dot", staged.has_unit_vectors)
    assert known_fingerprint(spec, settings, "float16") == staged.fingerprint
    tracer = tracer_of(blueprint_of(spec), "float16", CARDS["T4"])
    assert tracer.weights.total_bytes == staged.weights_bytes
    assert Predictor(tracer, CARDS["T4"]).predict(64, 4).activations_bytes > 64 * staged.dim * 4


def test_any_name_of_a_model_can_have_its_weights() -> None:
    """Catches a member that only one model of the catalogue has, or whose dense row stays in it."""
    spec = resolve("bge-m3:sparse")
    assert (spec.name, spec.source, spec.kind, spec.dim) == ("bge-m3:sparse", "BAAI/bge-m3", "sparse", None)
    assert spec.blueprint is not None and spec.blueprint.head == "sparse"
    assert resolve("BAAI/bge-m3:sparse").name == "BAAI/bge-m3:sparse"
    assert BUILT_IN.get("bge-m3").head == "dense"
    with pytest.raises(ConfigError, match=r"bm25 has no network, and so no weights of tokens: leave out :sparse"):
        resolve("bm25:sparse")
    with pytest.raises(UnknownModelError, match=r"the model 'bge-m4' is in no catalogue: did you mean bge-m3"):
        resolve("bge-m4:sparse")


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


def _of_code(folder: Path) -> None:
    torch.save({"weight": _Code()}, folder / "sparse_linear.pt")


def _cut(folder: Path) -> None:
    path = folder / "sparse_linear.pt"
    path.write_bytes(path.read_bytes()[:-200])


def _of_another_network(folder: Path) -> None:
    torch.save({"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, folder / "sparse_linear.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "sparse_linear.pt").unlink(), "sparse_linear.pt is missing, the layer"),
        (lambda folder: (folder / "sparse_linear.pt").write_bytes(b""), "sparse_linear.pt is empty"),
        (lambda folder: (folder / "sparse_linear.pt").write_text("no"), "is not a torch file, or only a part of one"),
        (_cut, "is not a torch file, or only a part of one"),
        (_of_code, "is a pickle of more than tensors, which could run any code"),
        (_of_another_network, "has bias [1], weight [1, 7], but the layer behind this network has bias [1], w"),
        (lambda folder: torch.save([1], folder / "sparse_linear.pt"), "has no tensors, but the layer"),
    ],
)  # fmt: skip
def test_a_folder_without_usable_weights_is_refused_by_name(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    """Catches a traceback of torch in the place of a sentence, and code of a pickle that is run."""
    copy = shutil.copytree(folder, tmp_path / "m3")
    change(copy)
    with pytest.raises(ModelLoadError) as caught:
        stage(resolve(f"{copy}:sparse"), "float32")
    assert str(caught.value).startswith("m3:sparse cannot be loaded") and said in str(caught.value)
    stage(resolve(str(copy)), "float32")


def test_a_plan_needs_no_layer_that_a_run_would_download(folder: Path, tmp_path: Path) -> None:
    """The hub's cache may have the model without the layer: nobody could plan what `embed` does."""
    copy = shutil.copytree(folder, tmp_path / "m3")
    (copy / "sparse_linear.pt").unlink()
    spec = resolve("org/m3:sparse")
    require_encoder(spec, copy, with_weights=False)
    with pytest.raises(ModelLoadError, match=r"sparse_linear\.pt is missing"):
        require_encoder(spec, copy)
    with pytest.raises(ModelLoadError, match=r"sparse_linear\.pt is missing"):
        require_encoder(resolve(f"{copy}:sparse"), copy, with_weights=False)


def test_other_kinds_of_models_have_no_such_weights(tmp_path: Path) -> None:
    """Catches weights of a sparse encoder, or of a table, that nobody trained."""
    for make, said in (
        (make_splade, "it is a sparse encoder already: leave out :sparse"),
        (make_static, "it has no Transformer as its first module"),
        (make_bert, "sparse_linear.pt is missing"),
    ):
        made = make(tmp_path / make.__name__)
        with pytest.raises(ModelLoadError, match=said):
            stage(resolve(f"{made}:sparse"), "float32")
