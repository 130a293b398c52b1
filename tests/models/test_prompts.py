"""Which prompt goes before which texts, and where that is not what sentence-transformers does, that it is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from support.tiny_models import SENTENCES

from soloist.errors import ModelLoadError
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.prompts import choose_prompts

SPEC = resolve("org/none")
E5 = {"query": "query: ", "passage": "passage: "}


@pytest.mark.parametrize(
    ("own", "document", "query", "said"),
    [
        ({}, "", "", []),
        ({"prompts": {"query": "", "document": ""}}, "", "", []),
        ({"prompts": {"query": "q: ", "document": "d: "}}, "d: ", "q: ", []),
        ({"prompts": {"query": None, "document": "d: ", "passage": "p: "}}, "d: ", "", []),
        ({"prompts": E5}, "passage: ", "query: ", ["its documents get its prompt 'passage' ('passage: '), but"]),
        ({"prompts": {**E5, "document": ""}}, "passage: ", "query: ", ["its documents get its prompt 'passage'"]),
        ({"prompts": {"corpus": "c: "}}, "c: ", "", ["its documents get its prompt 'corpus'"]),
        (
            {"prompts": {"query": "q: "}},
            "",
            "q: ",
            ["its queries get the prompt 'q: ' and its documents get no prompt"],
        ),
        (
            {"prompts": {"s2p": "s: "}, "default_prompt_name": "s2p"},
            "",
            "",
            ["its default prompt 's2p' is not used"],
        ),
        ({"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": "query"}, "d: ", "q: ", []),
    ],
)
def test_the_folders_own_prompts(own, document, query, said) -> None:
    """The empty `document` that sentence-transformers adds won over an E5 folder's `passage: `."""
    found = choose_prompts(SPEC, own)
    assert (found.document, found.query) == (document, query)
    assert len(found.notices) == len(said)
    assert all(notice.startswith(start) for notice, start in zip(found.notices, said, strict=True))


@pytest.mark.parametrize("prompt", ["", "mine: "])
def test_a_catalogue_overrides_them_without_a_word(prompt: str) -> None:
    """Who chose the prompts need not be told of those that were not chosen."""
    spec = replace(SPEC, document_prompt=prompt, query_prompt="")
    found = choose_prompts(spec, {"prompts": E5, "default_prompt_name": "passage"})
    assert (found.document, found.query, found.notices) == (prompt, "", ())


@pytest.mark.parametrize("prompts", [["q: "], {"query": 1}, "q: "])
def test_prompts_that_are_no_texts_are_refused(prompts: object) -> None:
    """A traceback of a library would name neither the file nor the model."""
    with pytest.raises(ModelLoadError, match=r"org/none has a prompt that is not a text: correct prompts in"):
        choose_prompts(SPEC, {"prompts": prompts})


def test_an_e5_folder_has_the_vectors_of_its_passages(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Documents without their `passage: ` are embedded as E5 was never trained to, with exit 0."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "e5"))
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": E5}))
    staged, texts = stage(resolve(str(folder)), "float32"), list(SENTENCES[:3])
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found = staged.module.encode(texts, prompt=staged.document_prompt)
    np.testing.assert_array_equal(found, reference.encode(texts, prompt="passage: "))
    assert not np.allclose(found, reference.encode_document(texts), atol=1e-3)
    assert len(staged.notices) == 1
