"""All settings that act token by token have the same effect as in `generate`."""

from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    WatermarkingConfig,
)

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.store import DatabaseStore

IDS = random_ids(120, 1)
# Each sampled setting changes the reply with this seed, in the random streams of all releases.
SEED = 13
SAMPLED: dict[str, Any] = {"do_sample": True, "top_k": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 1.4},
    "encoder repetition penalty": {"encoder_repetition_penalty": 1.4},
    "no repeated n-grams": {"no_repeat_ngram_size": 1},
    "no n-grams of the prompt": {"encoder_no_repeat_ngram_size": 1},
    "bad words": {"bad_words_ids": [[178], [204, 70]]},
    "min new tokens": {"min_new_tokens": 8, "eos_token_id": [2, 178]},
    "min length": {"min_length": 128, "eos_token_id": [2, 178]},
    "several ends": {"eos_token_id": list(range(60, 160))},
    "stop strings": {"stop_strings": ["c", "no such"]},
    "suppressed": {"suppress_tokens": list(range(60, 120))},
    "suppressed at the beginning": {"begin_suppress_tokens": [204]},
    "sequence bias": {"sequence_bias": [[[70], 9.0], [[80, 81], -5.0]]},
    "forced end": {"forced_eos_token_id": 90},
    "forced beginning": {"forced_bos_token_id": 91},
    "decaying length": {"exponential_decay_length_penalty": (3, 1.5)},
    "renormalized": {"renormalize_logits": True, "repetition_penalty": 1.2},
    "invalid values removed": {"remove_invalid_values": True},
    "temperature": SAMPLED | {"temperature": 1.7},
    "top-k": SAMPLED | {"top_k": 7},
    "the default top-k": {"do_sample": True},
    "top-p": SAMPLED | {"top_p": 0.7},
    "top-h": SAMPLED | {"top_h": 0.5},
    "min-p": SAMPLED | {"min_p": 0.05},
    "typical": SAMPLED | {"typical_p": 0.6},
    "epsilon": SAMPLED | {"epsilon_cutoff": 0.01},
    "eta": SAMPLED | {"eta_cutoff": 0.02},
    "watermark": SAMPLED
    | {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 2.0, "seeding_scheme": "lefthash"}},
    "guided": {"guidance_scale": 1.7},
    "all at once": SAMPLED
    | {
        "temperature": 0.9, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.95,
        "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_new_tokens": 5,
        "suppress_tokens": [70], "bad_words_ids": [[71]], "renormalize_logits": True,
    },
}  # fmt: skip

# The first acts only on NaN logits, the second only on a prompt of one token.
WITHOUT_EFFECT = {"invalid values removed", "forced beginning"}


def reference(lm: tt.LoadedModel, **settings: Any) -> list[int]:
    prompt = torch.tensor([IDS])
    if watermark := settings.pop("watermarking_config", None):
        # Not every release accepts a dictionary.
        settings["watermarking_config"] = WatermarkingConfig(**watermark)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        output = lm.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=16,
            tokenizer=lm.tokenizer,
            **settings,
        )
    tokens: list[int] = output[0, len(IDS) :].tolist()
    return tokens


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_gives_the_tokens_of_generate_and_is_replayed(
    name: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    settings = SETTINGS[name]
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        # The second time with a reused cache: processors get the complete prompt as well.
        generator.generate(IDS[:90], max_new_tokens=2, do_sample=False)
        result = generator.generate(IDS, max_new_tokens=16, seed=SEED, **settings)
    recording = store.recording(recorder.run_id)

    assert result["cache"].reused_tokens == 90
    assert result["generated_tokens"] == reference(lm, **settings)
    if name == "guided":
        assert recording.turns()[-1].started.unreplayable == ("guidance_scale",)
        with pytest.raises(tt.ReplayError, match="guidance_scale"):
            tt.verify(recording, lm)
    else:
        assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
        assert tt.regenerate(recording, lm, turns=[2]).verdict is tt.Verdict.EXACT


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - WITHOUT_EFFECT))
def test_each_setting_changes_the_reply(name: str, lm: tt.LoadedModel) -> None:
    """Check each setting for an effect, without which the test above could not fail."""
    settings = SETTINGS[name]
    plain = {"do_sample": settings.get("do_sample", False), "top_k": 0}
    if not plain["do_sample"]:
        del plain["top_k"]
    assert reference(lm, **settings) != reference(lm, **plain)


class Shifts(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.roll(scores, 1, dims=-1)


class StopsAt(StoppingCriteria):
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([input_ids.shape[1] >= self.tokens])


def test_custom_processors_and_criteria_are_applied(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    own: dict[str, Any] = {
        "logits_processor": LogitsProcessorList([Shifts()]),
        "stopping_criteria": StoppingCriteriaList([StopsAt(len(IDS) + 5)]),
        "do_sample": False,
    }
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        result = generator.generate(IDS, max_new_tokens=16, **own)
    (turn,) = store.recording(recorder.run_id).turns()

    assert result["generated_tokens"] == reference(lm, **own)
    assert result["stop_reason"] == "custom:StopsAt"
    assert turn.started.unreplayable == ("Shifts", "StopsAt")


def test_a_time_limit_is_recorded_as_not_replayable(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        result = generator.generate(IDS, max_new_tokens=16, max_time=0.0, do_sample=False)
    recording = store.recording(recorder.run_id)

    assert (result["stop_reason"], result["num_tokens"]) == ("max_time", 1)
    assert recording.turns()[0].started.unreplayable == ("max_time",)
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_beams": 3}, "beam search"),
        ({"num_beams": 3, "do_sample": True}, "beam sample"),
        ({"prompt_lookup_num_tokens": 3}, "assisted generation"),
        ({"penalty_alpha": 0.6, "top_k": 4, "do_sample": False}, "contrastive search"),
        ({"dola_layers": "high"}, "dola"),
        ({"token_healing": True}, "token_healing"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences"),
        ({"eos_token_id": "x"}, "rejects these settings"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"prompt": "half \ud800"}, "surrogate"),
    ],
)
def test_settings_that_do_not_act_token_by_token_are_rejected(
    settings: dict[str, Any], complaint: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(store))
    prompt = settings.pop("prompt", IDS)
    with pytest.raises(tt.ModelError, match=complaint):
        generator.generate(prompt, **settings)

    assert store.summaries() == []


def test_no_processor_is_created_per_token(lm: tt.LoadedModel) -> None:
    processors = hf.prepare(
        lm.model,
        lm.tokenizer,
        hf.effective_config(lm.model, do_sample=True, top_k=5, max_new_tokens=3),
        torch.tensor([IDS]),
    ).processors
    made: list[int] = []
    kind = type(processors[-1])
    before = kind.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        before(self, *args, **kwargs)

    counts = []
    kind.__init__ = counted  # type: ignore[method-assign]
    try:
        for tokens in (1, 10):
            made.clear()
            tt.ManualGenerator(lm.model, lm.tokenizer).generate(
                IDS, max_new_tokens=tokens, do_sample=True, top_k=5
            )
            counts.append(len(made))
    finally:
        kind.__init__ = before  # type: ignore[method-assign]

    assert counts[0] == counts[1] > 0
