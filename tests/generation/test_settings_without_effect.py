"""A setting that changes nothing is refused, and no warning that is false for a turn is shown."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from transformers import GenerationConfig, LogitsProcessorList, MinPLogitsWarper
from transformers.utils import logging as transformers_logging

import tokentape as tt
from tokentape.generation.errors import UnreplayableWarning
from tokentape.generation.hf.no_effect import IGNORED, SAMPLING_SETTINGS
from tokentape.store import DatabaseStore

GREEDY: dict[str, Any] = {"max_new_tokens": 2}
IDLE: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"temperature": 0.9}, r"temperature=0.9 has no effect on a greedy turn: add"),
    "two": ({"temperature": 2, "top_p": 0.5}, "temperature=2 and top_p=0.5 have no effect"),
    "top-k": ({"top_k": 50}, "top_k=50 has no effect"),
    "top-h": ({"top_h": 0.5}, "top_h=0.5 has no effect"),
    "min-p": ({"min_p": 0.1}, "min_p=0.1 has no effect"),
    "typical": ({"typical_p": 0.5}, "typical_p=0.5 has no effect"),
    "epsilon": ({"epsilon_cutoff": 0.1}, "epsilon_cutoff=0.1 has no effect"),
    "eta": ({"eta_cutoff": 0.1}, "eta_cutoff=0.1 has no effect"),
    "unset sampling": ({"do_sample": None, "top_p": 0.5}, "add do_sample=True"),
    "beams": ({"length_penalty": 2.0, "early_stopping": True}, "have no effect: replies are not"),
    "contrastive": ({"penalty_alpha": 0.6, "do_sample": True}, "contrastive search"),
    "assistant": ({"num_assistant_tokens": 5}, "no assistant model; leave it out"),
    "outputs": ({"output_scores": True}, "callback= is called"),
    "layers": ({"observe_layers": [0]}, "add observer="),
    "cache settings": ({"cache_config": {"nbits": 4}}, "add cache_implementation="),
    "two lengths": ({"min_length": 9, "min_new_tokens": 2}, "leave one of them out"),
    "minimum": ({"min_new_tokens": 3}, "add max_new_tokens=3"),
}  # fmt: skip
IN_VAIN_ON_PURPOSE: dict[str, dict[str, Any]] = {
    "greedy by choice": {"do_sample": False, "temperature": 0.9},
    "temperature of zero": {"temperature": 0, "top_p": 0.9},
    "neutral": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0, "typical_p": 1.0},
    "neutral for beams": {"num_beams": 1, "early_stopping": False, "length_penalty": 1.0},
    "seed": {"seed": 3},
    "config": {"generation_config": GenerationConfig(top_p=0.9, length_penalty=2.0)},  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("case", IDLE)
def test_a_setting_without_effect_is_refused_with_what_to_add(
    case: str, lm: tt.LoadedModel, run: tt.Investigation
) -> None:
    settings, complaint = IDLE[case]
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    for ask in (generator.generate, run.chat):
        with pytest.raises(tt.PromptError, match=complaint):
            ask("Hello", **GREEDY | settings)

    assert generator.turn == run.generator.turn == 0


@pytest.mark.parametrize("case", IN_VAIN_ON_PURPOSE)
def test_what_surprises_no_user_is_accepted(case: str, lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    plain = generator.generate("Hello", **GREEDY)
    said = generator.generate("Hello", **GREEDY | IN_VAIN_ON_PURPOSE[case])

    assert said["generated_tokens"] == plain["generated_tokens"]


def test_a_model_that_samples_by_default_takes_a_temperature(lm: tt.LoadedModel) -> None:
    lm.model.generation_config.do_sample = True
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)

    assert generator.generate("Hello", **GREEDY, temperature=0.9)["seed"] is not None


# What changes a turn of one sequence, or is checked where it is used.
ACTING = {
    "bad_words_ids", "begin_suppress_tokens", "cache_config", "cache_implementation", "do_sample",
    "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "eos_token_id",
    "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "guidance_scale", "max_cache_len", "max_length", "max_new_tokens", "max_time", "min_length",
    "min_new_tokens", "no_repeat_ngram_size", "prefill_chunk_size", "remove_invalid_values",
    "renormalize_logits", "repetition_penalty", "sequence_bias", "stop_strings",
    "suppress_tokens", "use_cache", "watermarking_config",
}  # fmt: skip
# What chooses another mode of `generate`, which is refused as such.
OTHER_MODES = {
    "assistant_early_exit", "constraints", "dola_layers", "force_words_ids", "num_beams",
    "num_return_sequences", "prompt_lookup_num_tokens", "token_healing", "use_mtp",
}  # fmt: skip
# What is given out of habit, and whose absence nobody notices.
HARMLESS = {
    "bos_token_id", "decoder_start_token_id", "disable_compile", "pad_token_id",
    "transformers_version",
}  # fmt: skip


def test_each_setting_of_this_release_acts_is_refused_or_harmless() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}  # type: ignore[no-untyped-call]
    groups = [ACTING, OTHER_MODES, HARMLESS, set(SAMPLING_SETTINGS), set(IGNORED)]

    assert known - set().union(*groups) == set()
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"temperature": 1.2}, "temperature=1.2 has no effect on a greedy turn"),
        ({"seed": 5}, "seed=5 has no effect on a greedy turn"),
        ({"length_penalty": 2.0}, "length_penalty=2.0 has no effect"),
        ({"min_new_tokens": 9}, "add max_new_tokens=9"),
    ],
)
def test_a_change_of_a_fork_without_effect_is_refused_and_leaves_no_run(
    changes: dict[str, Any],
    complaint: str,
    lm: tt.LoadedModel,
    store: DatabaseStore,
    run: tt.Investigation,
) -> None:
    run.chat("Hello", **GREEDY)
    turn = store.recording(run.run_id).turns()[0]
    with (
        pytest.raises(tt.PromptError, match=complaint),
        tt.Investigation.fork(store, run.run_id, lm, at_turn=1) as fork,
    ):
        fork.retake(turn, changes=changes)

    assert [each.run_id for each in store.summaries()] == [run.run_id]


def test_a_recorded_setting_without_effect_is_no_request(
    lm: tt.LoadedModel, store: DatabaseStore, run: tt.Investigation
) -> None:
    """Recordings of 0.1.0 have greedy turns with a temperature: they are resumed and forked."""
    run.chat("Hello", **GREEDY, temperature=0.9, check_effect=False)
    turn = store.recording(run.run_id).turns()[0]
    assert turn.started.sampling["temperature"] == 0.9

    with tt.Investigation.fork(store, run.run_id, lm, at_turn=1) as fork:
        fork.retake(turn, changes={"max_new_tokens": 3})
    assert tt.verify(store.recording(fork.run_id), lm).verdict is tt.Verdict.VERIFIED


def test_what_limits_replays_warns_once_when_it_is_asked_for(
    lm: tt.LoadedModel, run: tt.Investigation
) -> None:
    own = LogitsProcessorList([MinPLogitsWarper(0.1)])
    with pytest.warns(UnreplayableWarning, match="MinPLogitsWarper are replayed only if") as seen:
        run.chat("Hello", **GREEDY, logits_processor=own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.chat("Hello", **GREEDY, logits_processor=own)
    with pytest.warns(UnreplayableWarning, match="max_time can be verified but not") as seen:
        run.chat("Hello", **GREEDY, logits_processor=own, max_time=9.0)
    assert "MinPLogitsWarper" not in str(seen[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tt.ManualGenerator(lm.model, lm.tokenizer).generate("Hi", **GREEDY, max_time=9.0)


FALSE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature of the model": ({"temperature": 0.6, "top_p": 0.9, "top_k": 20}, {}),
    "the same, greedy by choice": ({"temperature": 0.6}, {"do_sample": False}),
    "other filters": ({"min_p": 0.1, "typical_p": 0.9, "epsilon_cutoff": 0.1}, {}),
    "beams of the model": ({"num_beams": 4, "early_stopping": True}, {"num_beams": 1}),
    "length penalty of the model": ({"length_penalty": 2.0}, {}),
    "padding of the model": ({"pad_token_id": -1}, {}),
    "no padding": ({"pad_token_id": None}, {}),
    "static length": ({"max_cache_len": 99}, {}),
    "outputs of the model": ({"output_scores": True, "return_dict_in_generate": False}, {}),
    "minimum of the model": ({"min_length": 4}, {"min_new_tokens": 1}),
    "length of the model": ({"max_length": 30}, {}),
    "no cache in the model": ({"use_cache": False, "cache_config": {"nbits": 4}}, {}),
    "sampled": ({}, {"do_sample": True, "temperature": 0.9}),
}  # fmt: skip


@pytest.mark.parametrize("case", FALSE)
def test_no_warning_that_is_false_for_the_turn_is_shown(
    case: str,
    lm: tt.LoadedModel,
    store: DatabaseStore,
    shown_by_transformers: Callable[[], list[str]],
) -> None:
    """In a turn, a fork of it, a regeneration, and a look at the settings."""
    own, settings = FALSE[case]
    for name, value in own.items():
        setattr(lm.model.generation_config, name, value)
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("Hello", **GREEDY, **settings)
    recording = store.recording(run.run_id)
    tt.regenerate(recording, lm)
    tt.verify(recording, lm)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=1) as fork:
        fork.retake(recording.turns()[0], changes={"max_new_tokens": 3})

    assert shown_by_transformers() == []


def test_the_users_own_calls_of_generate_warn_as_ever(
    lm: tt.LoadedModel, shown_by_transformers: Callable[[], list[str]]
) -> None:
    """transformers warns once: what was left out for a turn is not counted."""
    lm.model.generation_config.typical_p = 0.321
    tt.ManualGenerator(lm.model, lm.tokenizer).generate("Hello", **GREEDY)
    assert shown_by_transformers() == []
    GenerationConfig(do_sample=False, typical_p=0.321)  # type: ignore[no-untyped-call]

    (line,) = shown_by_transformers()
    assert "typical_p" in line
    with pytest.raises(tt.ModelError):
        tt.ManualGenerator(lm.model, lm.tokenizer).generate("Hello", eos_token_id="x")
    tt.ManualGenerator(lm.model, lm.tokenizer).generate("Hello", **GREEDY, eos_token_id=-5)
    assert "eos_token_id" in shown_by_transformers()[-1]


@pytest.fixture
def shown_by_transformers(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns the warnings in the log of transformers so far."""
    once: Any = logging.Logger
    once.warning_once.cache_clear()
    transformers_logging.enable_propagation()
    caplog.set_level(logging.WARNING, logger="transformers")
    return lambda: [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
