"""How do I constrain what is generated, such as to the words of a list?

Wrap the decoder: its state gets a place in an automaton, and what is forbidden there gets logits of -inf.
`generate`, `beam_search` and `score` take the wrapper as any decoder. The probabilities of what is allowed add up to
one.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from zoo import AbstractDecoder, CharRNN, CharRNNConfig, beam_search, score

WORDS = ["lima", "lisbon", "london", "oslo", "ottawa", "paris", "prague", "rome"]
LETTERS = "." + "".join(sorted(set("".join(WORDS))))  # the mark begins and ends each word


class Constrained(AbstractDecoder[Any]):
    decoder: AbstractDecoder
    following: Array  # [place, token] -> place, or -1 where the token is forbidden
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def init_state(self, capacity: int) -> Any:
        return self.decoder.init_state(capacity), jnp.array(0, self.following.dtype)

    def prefill(self, tokens: Array, state: Any, *, length: Any = None) -> tuple[Array, Any]:
        real = len(tokens) if length is None else length  # what comes after these is padding
        place = jax.lax.fori_loop(0, real, lambda i, place: self.following[place, tokens[i]], state[1])
        logits, inner = self.decoder.prefill(tokens, state[0], length=length)
        return jnp.where(self.following[place] >= 0, logits, -jnp.inf), (inner, place)

    def step(self, token: Array, state: Any) -> tuple[Array, Any]:
        return self.prefill(token[None], state)


def trie(words: list[str]) -> Array:  # the automaton that allows these words alone
    begun = sorted({f".{word}."[:count] for word in words for count in range(len(word) + 3)})
    places = {beginning: place for place, beginning in enumerate(begun)}  # beginnings of words
    return jnp.array([[places.get(beginning + letter, -1) for letter in LETTERS] for beginning in begun])


def main() -> dict[str, Any]:
    config = CharRNNConfig(vocab_size=len(LETTERS), hidden_size=32, num_layers=1)
    decoder = CharRNN(config, key=jax.random.key(0)).decoder()  # untrained, but no two words are equally likely
    constrained = Constrained(decoder=decoder, following=trie(WORDS), vocab_size=len(LETTERS), max_length=None)
    beams = beam_search(constrained, [0], num_beams=len(WORDS), max_new_tokens=8, stop_ids=[0])
    found = ["".join(LETTERS[token] for token in row if token > 0) for row in beams.tokens]
    totals = score(constrained, [[*map(LETTERS.index, f".{word}.")] for word in WORDS]).total  # the slow way
    ranked = sorted(zip(totals.tolist(), WORDS, strict=True), reverse=True)
    for word, log_prob, (expected, by_hand) in zip(found, beams.log_probs, ranked, strict=True):
        print(f"{word:8} {log_prob:7.3f}   scored by itself: {by_hand:8} {expected:7.3f}")
    return {"found": found, "ranked": [word for _, word in ranked]}


if __name__ == "__main__":
    main()
