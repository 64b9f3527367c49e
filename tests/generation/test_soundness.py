"""Cases in which a recording could contradict what happened."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    RwkvConfig,
    RwkvForCausalLM,
)

import tokentape as tt
from tests.generation.cold_runs import GREEDY, PROMPT, cold
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.decoding import decode_after
from tokentape.generation.history.messages import NewMessage
from tokentape.recorder import Record
from tokentape.recorder.events import RunFailed, SystemPromptCached
from tokentape.store import DatabaseStore


def test_the_encoder_penalty_sees_the_prompt(lm: tt.LoadedModel) -> None:
    ids = torch.tensor([PROMPT])
    expected = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=6,
        encoder_repetition_penalty=3.0,
    )

    assert cold(lm, encoder_repetition_penalty=3.0) == expected[0, len(PROMPT) :].tolist()


@pytest.fixture
def longrope(tokenizer: PreTrainedTokenizerFast) -> tt.LoadedModel:
    """Return a model whose RoPE frequencies change at a length of 64 tokens."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Phi3ForCausalLM(
            Phi3Config(
                vocab_size=272,
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                original_max_position_embeddings=64,
                rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0} | factors,
                initializer_range=0.25,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
    return tt.LoadedModel(model.eval(), tokenizer, "tiny-longrope")


def test_a_rope_that_changes_with_length_is_neither_split_nor_reused(
    longrope: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(
            longrope.model, longrope.tokenizer, recorder, prefill_chunk_tokens=16
        )
        generator.cache_system_prompt("Be kind and brief.")
        for prompt in (PROMPT, PROMPT * 3):
            said = generator.generate(prompt, **GREEDY)
            ids = torch.tensor([prompt])
            expected = longrope.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6
            )

            assert said["generated_tokens"] == expected[0, len(prompt) :].tolist()
            assert (said["cache"].decision, said["cache"].reason) == ("bypass", "rope:longrope")
    recording = store.recording(recorder.run_id)

    assert [turn.prefill.chunks for turn in recording.turns() if turn.prefill] == [(30,), (90,)]
    assert tt.verify(recording, longrope).verdict is tt.Verdict.VERIFIED


def test_a_model_without_a_transformers_cache_is_refused(
    tokenizer: PreTrainedTokenizerFast, store: DatabaseStore
) -> None:
    config = RwkvConfig(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32
    )
    generator = tt.ManualGenerator(RwkvForCausalLM(config).eval(), tokenizer, tt.Recorder(store))
    with pytest.raises(tt.ModelError, match="no cache that tokentape supports"):
        generator.generate(PROMPT, **GREEDY)

    assert store.summaries() == []


def test_training_mode_is_refused_at_every_turn(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    generator.generate(PROMPT, **GREEDY)
    lm.model.train()
    recording = store.recording(recorder.run_id)
    for refused in (
        lambda: generator.generate(PROMPT, **GREEDY),
        lambda: tt.verify(recording, lm),
        lambda: tt.regenerate(recording, lm),
    ):
        with pytest.raises(tt.ModelError, match="training mode"):
            refused()


class BreaksOn:
    """A log that fails to store one event of a kind."""

    def __init__(self, store: DatabaseStore, kind: str) -> None:
        self._store = store
        self._kind = kind

    def append(self, envelope: tt.Envelope, record: Record, **more: Any) -> None:
        if type(envelope.event).__name__ == self._kind:
            self._kind = ""
            raise tt.StoreError("disk full")
        self._store.append(envelope, record, **more)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)


@pytest.mark.parametrize("kind", ["SystemPromptCached", "TurnStarted", "TokenSampled"])
def test_after_a_lost_event_only_the_failure_is_recorded(
    lm: tt.LoadedModel, store: DatabaseStore, kind: str
) -> None:
    with (
        pytest.raises(tt.StoreError, match="disk full"),
        tt.Investigation(
            lm, store=BreaksOn(store, kind), name="t", system_prompt="Be kind."
        ) as run,
    ):
        try:
            run.chat("One?", max_new_tokens=3)
        except tt.StoreError:
            with pytest.raises(tt.TokentapeError, match="lost an event"):
                run.chat("Two?", max_new_tokens=3)
            raise
    recording = store.recording(store.summaries()[0].run_id)
    events = [each.event for each in recording.events()]

    assert isinstance(events[-1], RunFailed)
    assert store.summaries()[0].status == "failed"
    assert all(turn.finished is None for turn in recording.turns())


def test_a_run_that_cannot_begin_leaves_the_store_unchanged(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    with pytest.raises(tt.ModelError, match="64 bits"):
        tt.Investigation(
            lm, store=store, name="t", system_prompt="Be kind.", seed=2**70
        ).__enter__()

    assert store.summaries() == []
    assert len(record(lm, store).turns()) == 4


def test_a_callback_cannot_begin_another_turn(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    refused: list[str] = []

    def nest(token_id: int, logits: torch.Tensor) -> None:
        for begin in (
            lambda: generator.generate("Hi"),
            lambda: generator.cache_system_prompt("Be kind."),
        ):
            with pytest.raises(tt.TokentapeError, match="a turn is running") as caught:
                begin()
            refused.append(str(caught.value))

    generator.generate("Hello", max_new_tokens=2, callback=nest)

    assert len(refused) == 4
    assert tt.verify(store.recording(recorder.run_id), lm).passes


def test_a_recorder_serves_one_generator(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recorder = tt.Recorder(store)
    tt.ManualGenerator(lm.model, lm.tokenizer, recorder).generate("Hi", max_new_tokens=2)
    with pytest.raises(tt.TokentapeError, match="has a run already"):
        tt.ManualGenerator(lm.model, lm.tokenizer, recorder)


def test_an_interrupted_turn_leaves_no_message_in_the_history(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def stop(token_id: int, logits: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        with pytest.raises(KeyboardInterrupt):
            run.chat("Lost?", max_new_tokens=3, callback=stop)
        run.chat("Kept?", max_new_tokens=3)
    turns = store.recording(run.run_id).turns()

    assert "Lost?" not in turns[1].prompt_text
    assert turns[1].started.history_reason == "after_unfinished_turn"
    assert tt.verify(store.recording(run.run_id), lm).passes


def test_single_prompts_are_not_part_of_the_conversation(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be kind.")
    generator.generate("AAA", max_new_tokens=2)
    prompt = generator.conversation.extend([NewMessage(role="user", content="CCC")])

    assert "AAA" not in prompt.text
    assert "CCC" in prompt.text


FOLDS_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set lead = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if message['role'] == 'user' %}"
    "[INST] {% if loop.first %}{{ lead }}{% endif %}{{ message['content'] }} [/INST]"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
)


GROUPS_TOOLS = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}"
    "<|im_start|>user\n{% endif %}"
    "<r>{{ message['content'] }}</r>"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def template(tokenizer: PreTrainedTokenizerFast) -> Any:
    before = tokenizer.chat_template

    def use(text: str) -> None:
        tokenizer.chat_template = text

    yield use
    tokenizer.chat_template = before


def test_a_template_that_folds_the_system_prompt_into_the_first_message(
    lm: tt.LoadedModel, store: DatabaseStore, template: Any
) -> None:
    template(FOLDS_SYSTEM)
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("One?", max_new_tokens=3)
        reply = run.chat("Two?", max_new_tokens=3)
    recording = store.recording(run.run_id)
    cached = next(e.event for e in recording.events() if isinstance(e.event, SystemPromptCached))

    first = recording.turns()[0]
    assert 0 < sum(cached.chunks) == len(cached.ids) < len(first.prompt_ids)
    assert first.prompt_ids[: len(cached.ids)] == cached.ids
    assert lm.tokenizer.decode(cached.ids) == "[INST] Be kind."
    assert first.prompt_text == "[INST] Be kind.\n\nOne? [/INST]"
    assert reply.cache.reason == "extends"
    assert tt.verify(recording, lm).passes


def test_messages_without_a_boundary_extend_the_history(lm: tt.LoadedModel, template: Any) -> None:
    template(GROUPS_TOOLS)
    conversation = Conversation(lm.tokenizer)
    conversation.restart("Be kind.")
    conversation.begin_turn(conversation.extend([NewMessage(role="user", content="Look.")]))
    conversation.finish_turn((250, 251), "\ufffd\ufffd", "")
    results = [NewMessage(role="tool", content=text) for text in ("one", "two")]
    prompt = conversation.extend(results)

    assert prompt.history_reason == ""
    assert prompt.kept_tokens == len(conversation.ids)
    assert prompt.text.endswith("<r>one</r><r>two</r><|im_end|>\n<|im_start|>assistant\n")
    assert [message.ids for message in prompt.messages] == [(), ()]


def test_a_character_that_begins_in_the_prompt_is_not_lost(lm: tt.LoadedModel) -> None:
    ids = lm.tokenizer.encode("😀 the", add_special_tokens=False)

    assert decode_after(lm.tokenizer, ids[:2], ids[2:]) == "😀 the"


class Spoils(LogitsProcessor):
    """A processor that writes into the logits it is given."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.mul_(0.1)


def test_a_processor_that_works_in_place_does_not_change_what_is_recorded(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    raw: list[torch.Tensor] = []
    tt.ManualGenerator(lm.model, lm.tokenizer, recorder).generate(
        PROMPT,
        logits_processor=LogitsProcessorList([Spoils()]),
        callback=lambda token_id, logits: raw.append(torch.log_softmax(logits, dim=-1)),
        **GREEDY,
    )
    expected = cold(lm)
    tokens = store.recording(recorder.run_id).turns()[0].tokens

    assert [token.token_id for token in tokens] == expected
    assert [token.logprob for token in tokens] == [
        row[token].item() for row, token in zip(raw, expected, strict=True)
    ]


def test_a_tensor_and_a_generation_config_work_as_in_generate(
    lm: tt.LoadedModel,
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    config = GenerationConfig(do_sample=False, repetition_penalty=1.5)
    said = generator.generate(torch.tensor([PROMPT]), generation_config=config, max_new_tokens=6)

    assert said["generated_tokens"] == cold(lm, repetition_penalty=1.5)


def test_processors_that_leave_no_token_raise_a_model_error(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    with pytest.raises(tt.ModelError, match="leave no token"):
        generator.generate(PROMPT, suppress_tokens=list(range(272)), **GREEDY)


def test_a_tool_result_with_half_a_character_is_an_error(lm: tt.LoadedModel) -> None:
    def broken_text() -> str:
        """Return half of a surrogate pair."""
        return "\ud83d"

    result = tt.ToolInterface([broken_text]).call("broken_text", {})

    assert "UnicodeEncodeError" in (result.error or "")
    assert b"error" in result.payload


def test_a_recorder_refuses_the_turns_of_a_second_one(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    ids = torch.tensor([PROMPT])
    with pytest.raises(tt.TokentapeError, match="by another generator"):
        tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    generator.generate(PROMPT, **GREEDY)
    with pytest.raises(tt.TokentapeError, match="by another generator"):
        lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=tt.decode,
            recorder=recorder,
            text_tokenizer=lm.tokenizer,
            **GREEDY,
        )
    generator.generate([*PROMPT, 7], **GREEDY)

    assert [turn.number for turn in store.recording(recorder.run_id).turns()] == [1, 2]
