"""Made-up chat templates that write tool calls, one for each kind of syntax."""

import copy
import json
from collections.abc import Mapping

from transformers import PreTrainedTokenizerFast

import tokentape as tt

_MESSAGES = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{{ message.content or '' }}{% if message.tool_calls %}CALLS{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_EACH = "{% for call in message.tool_calls %}{% set f = call.function %}"
_PAIRS = "{% for key, value in f.arguments.items() %}"
_PLAIN = "{{ value if value is string else value | tojson }}"

# Writes a value with bare names and strings between two tags.
_BARE = (
    "{% macro bare(value) %}{% if value is string %}<'>{{ value }}<'>"
    "{% elif value is mapping %}{{ '{' }}{% for key, each in value.items() %}{{ key }}:"
    "{{ bare(each) }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}"
    "{% elif value is iterable %}[{% for each in value %}{{ bare(each) }}"
    "{% if not loop.last %},{% endif %}{% endfor %}]"
    "{% else %}{{ value | tojson }}{% endif %}{% endmacro %}"
)

_CALLS: Mapping[str, str] = {
    "object in tags": _EACH
    + "\n<call>{{ {'tool': f.name, 'input': f.arguments} | tojson }}</call>{% endfor %}",
    "nested object in tags": _EACH
    + "<|act|>{{ {'type': 'call', 'do': {'name': f.name, 'with': f.arguments}} | tojson }}"
    "<|/act|>{% endfor %}",
    "array in tags": "<CALLS>["
    + _EACH
    + '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]</CALLS>",
    "array of one-key objects": "<|tools|>["
    + _EACH
    + '{"{{ f.name }}": {{ f.arguments | tojson }}}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]<|/tools|>",
    "array after a word": "Action: ```json\n["
    + _EACH
    + '\n  {"tool_name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    "{% if not loop.last %},{% endif %}{% endfor %}\n]\n```",
    "bare object": _EACH
    + '{"action": "{{ f.name }}", "action_input": {{ f.arguments | tojson }}}\n{% endfor %}',
    "words before name and object": "{% if message.content %}{{ '\n' }}{% endif %}"
    + _EACH
    + "Action: {{ f.name }}\nAction Input: {{ f.arguments | tojson }}\n{% endfor %}",
    "signs before a name": "{% if message.content %}{{ '\n' }}{% endif %}"
    + _EACH
    + ">>>{{ f.name }}\n{{ f.arguments | tojson }}\n{% endfor %}",
    "name and object": "{% if message.content %}\n{% endif %}"
    + _EACH
    + "[CALL]{{ f.name }}[WITH]{{ f.arguments | tojson }}{% endfor %}",
    "name, id and object": _EACH
    + "[CALL]{{ f.name }}[ID]{{ call.id }}[WITH]{{ f.arguments | tojson }}[END]{% endfor %}",
    "section of names and objects": "<｜calls｜>"
    + _EACH
    + "<｜call｜>function<｜sep｜>{{ f.name }}\n```json\n{{ f.arguments | tojson }}\n```<｜end｜>"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}<｜/calls｜>",
    "ids that are names": "<|calls|>"
    + _EACH
    + "<|call|>{{ call.id }}<|with|>{{ f.arguments | tojson }}<|/call|>{% endfor %}<|/calls|>",
    "channel": "{% if message.content %}<|im_end|>\n<|im_start|>assistant{% endif %}"
    "{% set f = message.tool_calls[0].function %} to=tools.{{ f.name }}<|channel|>side json"
    "<|message|>{{ f.arguments | tojson }}<|call|>",
    "bare names": _BARE + _EACH + "<|do>call:{{ f.name }}{{ bare(f.arguments) }}<do|>{% endfor %}",
    "tagged arguments": _EACH
    + "\n<do>\n<use={{ f.name }}>\n"
    + _PAIRS
    + "<set={{ key }}>\n"
    + _PLAIN
    + "\n</set>\n{% endfor %}</use>\n</do>{% endfor %}",
    "keys and values": _EACH
    + "\n<do>{{ f.name }}\n"
    + _PAIRS
    + "<key>{{ key }}</key>\n<value>"
    + _PLAIN
    + "</value>\n{% endfor %}</do>{% endfor %}",
    "attributes in a section": "<my:calls>\n"
    + _EACH
    + '<invoke name="{{ f.name }}">\n'
    + _PAIRS
    + '<parameter name="{{ key }}">'
    + _PLAIN
    + "</parameter>\n{% endfor %}</invoke>\n{% endfor %}</my:calls>",
    "typed attributes": _EACH
    + '<invoke name="{{ f.name }}">'
    + _PAIRS
    + '<p name="{{ key }}" text="{{ "true" if value is string else "false" }}">'
    + _PLAIN
    + "</p>{% endfor %}</invoke>{% endfor %}",
    "python with JSON values": "<|start|>["
    + _EACH
    + "{{ f.name }}("
    + _PAIRS
    + "{{ key }}={{ value | tojson }}{% if not loop.last %}, {% endif %}{% endfor %})"
    "{% if not loop.last %}, {% endif %}{% endfor %}]<|end|>",
    "text arguments": _EACH
    + "<fn name={{ f.name }}>{{ f.arguments if f.arguments is string else 0 / 0 }}</fn>"
    "{% endfor %}",
}
TEMPLATES: Mapping[str, str] = {
    name: _MESSAGES.replace("CALLS", calls) for name, calls in _CALLS.items()
}
"""They write any arguments in a way that can be read back, but for texts with their own tags."""
WRITES_NO_CALLS = _MESSAGES.replace("CALLS", "")
NOT_UNDERSTOOD = _MESSAGES.replace(
    "CALLS",
    _EACH + "<|do|>{{ f.name }}:{{ f.arguments.values() | list | join('+') }}<|/do|>{% endfor %}",
)


def with_template(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    """Return a copy of a tokenizer with another chat template."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def speaking(lm: tt.LoadedModel, name: str) -> tt.LoadedModel:
    """Return the model with one of the templates."""
    return tt.LoadedModel(lm.model, with_template(lm.tokenizer, TEMPLATES[name]), lm.name)


def written_reply(
    tokenizer: PreTrainedTokenizerFast, *calls: tuple[str, Mapping[str, object]], text: str = ""
) -> str:
    """Return a reply with calls as the tokenizer's template writes it, without its end."""
    as_text = tokenizer.chat_template == TEMPLATES["text arguments"]

    def given(index: int, name: str, arguments: Mapping[str, object]) -> dict[str, object]:
        written = json.dumps(arguments, ensure_ascii=False) if as_text else dict(arguments)
        function = {"name": name, "arguments": written}
        return {"type": "function", "id": f"functions.{name}:{index}", "function": function}

    asked: list[dict[str, object]] = [{"role": "user", "content": "?"}]
    reply = {
        "role": "assistant",
        "content": text,
        "tool_calls": [given(index, *each) for index, each in enumerate(calls)],
    }
    before = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    after = tokenizer.apply_chat_template([*asked, reply], tokenize=False)
    assert isinstance(before, str)
    assert isinstance(after, str)
    return after.removeprefix(before).rstrip().removesuffix("<|im_end|>")
