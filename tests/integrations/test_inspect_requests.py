"""What Inspect asks of a model and how it reads the reply, as the provider translates both."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
)
from inspect_ai.tool import ToolCall, ToolCallError, ToolFunction, ToolInfo, ToolParams
from inspect_ai.util import JSONSchema
from transformers import GenerationConfig

from tokentape.generation import ModelError, PromptError
from tokentape.generation.completions.completion import CompletedCall
from tokentape.inspect_provider.evaluated_sample import EvaluatedSample, sample_seed
from tokentape.inspect_provider.messages import (
    to_chat_messages,
    to_tool_calls,
    to_tool_schemas,
)
from tokentape.inspect_provider.model_arguments import read_model_arguments
from tokentape.inspect_provider.reasoning import to_content
from tokentape.inspect_provider.repetitions import Repetitions
from tokentape.inspect_provider.turn_config import to_settings
from tokentape.recorder import chat_messages as chat

OWN = GenerationConfig()
PROGRAM = """
import sys
import inspect_ai
from inspect_ai.model import get_model
get_model("mockllm/model")
from inspect_ai._util.entrypoints import ensure_entry_points
ensure_entry_points()
assert "tokentape.inspect_provider.registry" in sys.modules
heavy = {"torch", "transformers", "sqlalchemy", "pandas"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_an_evaluation_of_another_model_imports_neither_torch_nor_a_store() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "tokentape" not in done.stdout, "Inspect lists hooks that every evaluation would have"


def test_messages_become_those_of_chat_completions() -> None:
    call = ToolCall(id="c1", function="add", arguments={"x": 1})
    broken = ToolCall(id="c2", function="add", arguments={}, parse_error="no JSON")
    messages: list[ChatMessage] = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content=[ContentText(text="One"), ContentText(text="and one?")]),
        ChatMessageAssistant(content="Let me add <broken>.", tool_calls=[call, broken]),
        ChatMessageTool(content="2", tool_call_id="c1", function="add"),
        ChatMessageTool(
            content="", tool_call_id="c2", error=ToolCallError(type="parsing", message="no JSON")
        ),
    ]

    assert to_chat_messages(messages) == (
        chat.ChatMessage(role="system", content="Be brief."),
        chat.ChatMessage(role="user", content="One\nand one?"),
        chat.ChatMessage(
            role="assistant",
            content="Let me add <broken>.",
            tool_calls=(chat.ChatToolCall(call_id="c1", name="add", arguments={"x": 1}),),
        ),
        chat.ChatMessage(role="tool", content="2", tool_call_id="c1"),
        chat.ChatMessage(role="tool", content="Error: no JSON", tool_call_id="c2"),
    )


def test_an_image_is_refused_in_one_line() -> None:
    picture = ContentImage(image="data:image/png;base64,AAAA")

    with pytest.raises(PromptError, match=r"messages\[0\]: the model reads text only") as refused:
        to_chat_messages([ChatMessageUser(content=[picture])])
    assert "\n" not in str(refused.value)


@given(st.lists(st.sampled_from(["<think>", "</think>", " ", "\n", "a", "é"])).map("".join))
def test_a_reply_with_reasoning_is_sent_back_to_the_letter(text: str) -> None:
    content = to_content(text)

    (sent,) = to_chat_messages([ChatMessageAssistant(content=content)])
    assert sent.content == text


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("Hm.\n</think>\nYes.", "Hm.", "Yes."),
    ],
)
def test_a_scorer_reads_the_answer_without_the_reasoning(
    text: str, thought: str, answer: str
) -> None:
    message = ChatMessageAssistant(content=to_content(text))

    assert message.text == answer
    assert isinstance(message.content[0], ContentReasoning)
    assert message.content[0].reasoning == thought


def test_tools_have_their_schema_and_a_malformed_call_its_error() -> None:
    parameters = ToolParams(
        properties={"x": JSONSchema(type="integer", description="A number.")}, required=["x"]
    )
    tool = ToolInfo(name="double", description="Double it.", parameters=parameters)

    (schema,) = to_tool_schemas([tool], "auto")
    assert schema["name"] == "double"
    assert schema["description"] == "Double it."
    assert schema["parameters"]["required"] == ["x"]
    assert to_tool_schemas([tool], "none") == ()
    for forced in ("any", ToolFunction(name="double")):
        with pytest.raises(PromptError, match="forces a call"):
            to_tool_schemas([tool], forced)

    written = CompletedCall(call_id="c", name="", arguments={}, text="<x", error="it has no end")
    (call,) = to_tool_calls([written]) or ()
    assert (call.id, call.function, call.parse_error) == ("c", "unknown", "it has no end")
    assert to_tool_calls([]) is None


def test_a_configuration_becomes_settings_of_a_turn() -> None:
    config = GenerateConfig(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stop_seqs=["END"],
        logit_bias={3: -100},
        extra_body={"min_p": 0.1},
    )

    assert to_settings(config, OWN) == {
        "max_new_tokens": 7,
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop_strings": ["END"],
        "sequence_bias": [[[3], -100.0]],
        "min_p": 0.1,
    }
    greedy = {"max_new_tokens": 2048, "do_sample": False}
    assert to_settings(GenerateConfig(temperature=0, top_p=0.9), OWN) == greedy
    unfiltered = {"max_new_tokens": 2048, "do_sample": True, "top_k": 0}
    assert to_settings(GenerateConfig(), OWN) == unfiltered
    assert to_settings(GenerateConfig(), GenerationConfig(do_sample=False)) == greedy


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GenerateConfig(frequency_penalty=0.5), "cannot generate with frequency_penalty"),
        (GenerateConfig(best_of=2), "cannot generate with best_of"),
        (GenerateConfig(num_choices=2), "generates one choice"),
        (GenerateConfig(extra_body={"min_q": 1}), "'min_q'.*did you mean 'min_p'"),
    ],
)
def test_a_configuration_that_cannot_be_met_is_refused(
    config: GenerateConfig, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        to_settings(config, OWN)


def test_model_arguments_have_the_defaults_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TOKENTAPE_DATABASE_URL", raising=False)
    assert read_model_arguments({}).store == "sqlite:///tokentape.db"
    monkeypatch.setenv("TOKENTAPE_DATABASE_URL", "sqlite:///other.db")

    given = {"dtype": "bfloat16", "top_logprobs": 3, "sample_seeds": False}
    arguments = read_model_arguments(given, max_connections=3)
    assert arguments.store == "sqlite:///other.db"
    assert arguments.batch_size == 3
    assert arguments.loading == {"dtype": "bfloat16"}
    assert arguments.runs == {"top_logprobs": 3}
    with pytest.raises(ModelError, match=r"'dtyp' \(did you mean 'dtype'\?\)"):
        read_model_arguments({"dtyp": "bfloat16"})
    with pytest.raises(ModelError, match="batch_size"):
        read_model_arguments({"batch_size": 0})


def test_each_sample_epoch_and_repetition_has_a_seed_of_its_own_the_same_in_every_evaluation() -> (
    None
):
    def seed(sample_id: str, epoch: int, number: int, of_evaluation: int | None = 7) -> int:
        sample = EvaluatedSample(
            task="task",
            sample_id=sample_id,
            epoch=epoch,
            attempt=1,
            sample_uuid="uuid",
            eval_id="eval",
            eval_set_id=None,
            log="log",
        )
        return sample_seed(of_evaluation, sample, number)

    found = {seed(sample_id, epoch, n) for sample_id in "ab" for epoch in (1, 2) for n in (0, 1)}
    assert len(found) == 8
    assert seed("a", 1, 0) == seed("a", 1, 0)
    assert seed("a", 1, 0) != seed("a", 1, 0, of_evaluation=8)
    assert seed("a", 1, 0, of_evaluation=None) == seed("a", 1, 0, of_evaluation=0)


def test_equal_requests_are_numbered_and_a_failed_one_frees_its_number() -> None:
    repetitions = Repetitions()
    message = (chat.ChatMessage(role="user", content="Again?"),)

    def number(settings: dict[str, int], *, fails: bool = False) -> int:
        try:
            with repetitions.numbered(message, (), settings) as found:
                if fails:
                    raise PromptError("too long")
        except PromptError:
            pass
        return found

    assert [number({}), number({}, fails=True), number({}), number({"top_k": 1})] == [0, 1, 1, 0]
