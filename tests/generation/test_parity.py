"""The engine against Hugging Face `generate`: bit for bit on the same schedule."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.parity.matrix import CONFIGS, DTYPES, STARTS, run_matrix
from benchmarks.tiny_models import FAMILIES, random_ids
from tokentape.generation.engine.sampling import generator_sha256
from tokentape.store import DatabaseStore

FAMILIES_OF_FULL_ATTENTION = ("llama", "qwen3", "gpt2")
SEED = 1234
NEW_TOKENS = 24


class Reference:
    """The output of `model.generate`: tokens, raw logits, end state of the random generator."""

    def __init__(self, lm: tt.LoadedModel, ids: list[int], settings: dict[str, Any]) -> None:
        prompt = torch.tensor([ids])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            output = lm.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=NEW_TOKENS,
                return_dict_in_generate=True,
                output_logits=True,
                **settings,
            )
            self.end_state = generator_sha256(torch.default_generator)
        self.tokens = output.sequences[0, len(ids) :].tolist()
        self.logits = [row[0] for row in output.logits]


class Ours:
    """The recorded output of the engine, with the logits that its callback received."""

    def __init__(
        self,
        generator: tt.ManualGenerator,
        ids: list[int],
        settings: dict[str, Any],
        store: DatabaseStore,
        recorder: tt.Recorder,
    ) -> None:
        self.logits: list[torch.Tensor] = []
        result = generator.generate(
            ids,
            max_new_tokens=NEW_TOKENS,
            seed=SEED,
            callback=lambda token_id, logits: self.logits.append(logits.clone()),
            **settings,
        )
        self.tokens = result["generated_tokens"]
        self.cache = result["cache"]
        self.turn = store.recording(recorder.run_id).turns()[-1]
        assert self.turn.finished is not None
        self.end_state = self.turn.finished.generator_sha256


def assert_bitwise(ours: Ours, reference: Reference, *, sampled: bool) -> None:
    assert ours.tokens == reference.tokens
    assert len(ours.logits) == len(reference.logits)
    assert all(map(torch.equal, ours.logits, reference.logits))
    if sampled:
        assert ours.end_state == reference.end_state


@pytest.fixture
def engine(store: DatabaseStore) -> Callable[..., tuple[tt.ManualGenerator, tt.Recorder]]:
    def make(lm: tt.LoadedModel, **settings: Any) -> tuple[tt.ManualGenerator, tt.Recorder]:
        recorder = tt.Recorder(store)
        return tt.ManualGenerator(lm.model, lm.tokenizer, recorder, **settings), recorder

    return make


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cache_state_and_sampler_agrees_with_generate(family: str, dtype: str) -> None:
    cells = list(run_matrix([family], [dtype]))

    assert len(cells) == len(CONFIGS) * len(STARTS)
    print(family, dtype, Counter((cell.start, cell.decision, cell.bitwise) for cell in cells))
    assert [cell for cell in cells if not cell.passes] == []
    # What could be compared on the same schedule: everything, but for a model whose cache
    # `generate` cannot go on from.
    compared = {cell.start for cell in cells if cell.bitwise}
    assert compared == ({"fresh", "crop"} if family == "mamba" else set(STARTS))
    assert {cell.start for cell in cells if cell.reused_tokens} >= {"reuse", "fork", "disk"}


def test_chunked_prefill_gives_the_bits_of_generate_with_the_same_chunks(
    lm: tt.LoadedModel,
    engine: Callable[..., tuple[tt.ManualGenerator, tt.Recorder]],
    store: DatabaseStore,
) -> None:
    ids = random_ids(53, 3)
    generator, recorder = engine(lm, prefill_chunk_tokens=16)
    ours = Ours(generator, ids, CONFIGS["top-p"], store, recorder)

    assert ours.turn.prefill is not None
    assert ours.turn.prefill.chunks == (16, 16, 16, 5)
    reference = Reference(lm, ids, CONFIGS["top-p"] | {"prefill_chunk_size": 16})
    assert_bitwise(ours, reference, sampled=True)


@pytest.mark.parametrize("config", ["greedy", "everything"])
@pytest.mark.parametrize("family", FAMILIES_OF_FULL_ATTENTION)
def test_five_turns_with_reuse_give_the_tokens_of_five_fresh_generates(
    family: str,
    config: str,
    make_lm: Callable[..., tt.LoadedModel],
    engine: Callable[..., tuple[tt.ManualGenerator, tt.Recorder]],
    store: DatabaseStore,
) -> None:
    lm, settings = make_lm(family), CONFIGS[config]
    generator, recorder = engine(lm)
    generator.cache_system_prompt("You are the subject of an experiment. Answer briefly.")
    ids = list(generator.conversation.ids)
    reused = []
    for turn in range(5):
        ids += random_ids(11, 10 + turn)
        ours = Ours(generator, ids, settings, store, recorder)
        reused.append(ours.cache.reused_tokens)
        reference = Reference(lm, ids, settings)

        assert ours.tokens == reference.tokens, f"turn {turn + 1}"
        if settings["do_sample"]:
            assert ours.end_state == reference.end_state
        ids += ours.tokens
    # All but the new tokens and the one that was sampled last came from the cache.
    assert ours.cache.computed_tokens == 12
    assert reused == sorted(reused)
    assert reused[0] > 0


def test_the_recorded_log_probability_is_that_of_the_sampled_token(
    lm: tt.LoadedModel,
    engine: Callable[..., tuple[tt.ManualGenerator, tt.Recorder]],
    store: DatabaseStore,
) -> None:
    ids, settings = random_ids(20, 5), {"do_sample": True, "temperature": 1.5, "top_k": 0}
    generator, recorder = engine(lm)
    tokens = Ours(generator, ids, settings, store, recorder).turn.tokens
    reference = Reference(lm, ids, settings)
    raw = [torch.log_softmax(row, dim=-1) for row in reference.logits]
    of_sampled = [row[token].item() for row, token in zip(raw, reference.tokens, strict=True)]
    of_argmax = [row.max().item() for row in raw]

    assert [token.token_id for token in tokens] == reference.tokens
    assert [token.logprob for token in tokens] == of_sampled
    assert of_sampled != of_argmax, "a flat enough distribution samples something else now and then"
    for token, logits, logprobs in zip(tokens, reference.logits, raw, strict=True):
        top = torch.topk(logits, 5)
        cooled = torch.log_softmax(logits / 1.5, dim=-1)[token.token_id].item()
        assert token.top_ids == tuple(top.indices.tolist())
        assert token.top_logprobs == tuple(logprobs[top.indices].half().tolist())
        assert token.top_gap == (top.values[0] - top.values[1]).half().item()
        assert token.logprob_processed == pytest.approx(cooled, abs=1e-5)
        assert token.entropy == pytest.approx(-(logprobs.exp() * logprobs).sum().item(), rel=1e-3)


def test_the_callers_random_state_is_unchanged(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    before = torch.get_rng_state()
    first = generator.generate("Hello", do_sample=True, max_new_tokens=10)
    again = generator.generate("Hello", do_sample=True, max_new_tokens=10, seed=first["seed"])

    assert torch.equal(torch.get_rng_state(), before)
    assert first["seed"] is not None
    assert again["generated_tokens"] == first["generated_tokens"]
