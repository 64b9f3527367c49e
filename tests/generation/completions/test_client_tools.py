"""Where the tools of a client are described to the model."""

from collections.abc import Callable

import tokentape as tt
from tests.generation.completions.requests import ADD, SYSTEM, asked, user
from tokentape.generation.completions.conversations import Conversations
from tokentape.store import DatabaseStore

WITH_TOOLS = (
    "{% if tools %}<|system|>Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_that_writes_tools_describes_them(
    lm_with: Callable[[str], tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = lm_with(WITH_TOOLS)
    with Conversations(lm, store) as conversations:
        done = conversations.complete(asked(SYSTEM, user("One?"), tools=(ADD,)))

    recording = store.recording(done.run_id)
    chosen = recording.started().conversation_format
    assert chosen is not None
    assert chosen["reasons"]["tools"] == "the template describes the tools to the model"
    (turn,) = recording.turns()
    assert turn.prompt_text.count("Add two numbers.") == 1
    assert f"<|system|>{SYSTEM.content}\n" in turn.prompt_text


def test_another_template_leaves_them_to_the_end_of_the_system_prompt(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with Conversations(lm, store) as conversations:
        done = conversations.complete(asked(SYSTEM, user("One?"), tools=(ADD,)))
        plain = conversations.complete(asked(SYSTEM, user("One?")))

    system = store.recording(done.run_id).messages()[0].content
    assert system.startswith(f"{SYSTEM.content}\n\nYou can call these tools:\n\nadd: Add two")
    assert system.endswith("You get its result and can then continue.")
    assert store.recording(plain.run_id).messages()[0].content == SYSTEM.content
