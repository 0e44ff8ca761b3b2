"""What a masked language model puts in the place of a mask."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from zoo.sampling._checks import check_integer
from zoo.text.batches import check_known
from zoo.text.tokenizers import HuggingFaceTokenizer, Tokenizer

MASK = "[MASK]"


def fill_mask(model: Any, tokenizer: Tokenizer, text: str, *, most: int = 5) -> list[tuple[str, float]]:
    """The texts that come of putting a token in the place of a mask, the likeliest first, with their probabilities.

    Args:
        model: with a logit for each token at each place, such as a `TextEncoder` whose head is "masked_lm".
        tokenizer: of its ids.
        text: says `[MASK]` once, whatever word the tokenizer has for it.
        most: how many texts, of those that the tokenizer has tokens for.

    Raises:
        ValueError: the model or its tokenizer knows no masks, the text has none or several, or a token that the model
            does not know, or a number is out of its range.

    Example:
        >>> from zoo import TextEncoder, TextEncoderConfig
        >>> words = {"type": "WordLevel", "vocab": {"?": 0, "[MASK]": 1, "a": 2, "cat": 3}, "unk_token": "?"}
        >>> tokenizer = HuggingFaceTokenizer(
        ...     {"model": words, "pre_tokenizer": {"type": "WhitespaceSplit"}}, mask_id=1
        ... )
        >>> config = TextEncoderConfig.bert(vocab_size=4, embed_size=8, num_layers=1, num_heads=2, max_length=9)
        >>> sorted(text for text, _ in fill_mask(TextEncoder(config, key=jax.random.key(0)), tokenizer, "a [MASK]"))
        ['a ?', 'a [MASK]', 'a a', 'a cat']
    """
    check_integer("most", most, 0)
    if not isinstance(tokenizer, HuggingFaceTokenizer) or tokenizer.mask_id is None:
        raise ValueError("the tokenizer has no token for a mask: models of BERT's kind have one")
    if getattr(model.config, "head", None) != "masked_lm":
        raise ValueError(f"the model is a {type(model).__name__} without a head for masks, which head='masked_lm' is")
    ids = tokenizer.encode(text.replace(MASK, tokenizer.special_tokens()["mask_token"]))
    (places,) = np.nonzero(ids == tokenizer.mask_id)
    if len(places) != 1:
        raise ValueError(f"text must say {MASK} once, got {len(places)} in {text!r}")
    check_known([ids], model.config.vocab_size)
    probabilities = np.asarray(_probabilities(eqx.nn.inference_mode(model), ids, places[0]))[: tokenizer.vocab_size]
    filled = []
    for token in np.argsort(-probabilities)[:most].tolist():
        ids[places] = token
        filled.append((tokenizer.decode(ids), float(probabilities[token])))
    return filled


@eqx.filter_jit
def _probabilities(model: Any, ids: Any, place: Any) -> Any:
    return jax.nn.softmax(model(jnp.asarray(ids))[place])
