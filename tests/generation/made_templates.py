"""Chat templates with the traits that make real ones difficult."""

from dataclasses import dataclass

EMPTY = "empty"
"""Stands for a first reply without text."""
OPENING = "<|im_start|>assistant\n"
_OPENED = "{% if add_generation_prompt %}" + OPENING + "{% endif %}"
_HEADER = "<|im_start|>{{ m['role'] }}\n"
_MESSAGE = _HEADER + "{{ m['content'] }}<|im_end|>\n"
PLAIN = "{% for m in messages %}" + _MESSAGE + "{% endfor %}" + _OPENED


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTemplate:
    """A chat template, and what a run with it should record."""

    template: str
    opening: str = r"<\|im_start\|>assistant\n"
    """Pattern of the text after which a reply begins."""
    chosen: tuple[tuple[str, object], ...] = ()
    """Fields of the conversation format that have not their usual value."""
    first_reply: str = ""
    """A first reply that the template rejects later; empty for one of the model's own."""


def raised_if(condition: str, message: str) -> str:
    return "{% if " + condition + " %}{{ raise_exception('" + message + "') }}{% endif %}"


ALTERNATES = (
    "{{ bos_token }}{% set ns = namespace(first='') %}"
    "{% if messages[0]['role'] == 'system' %}{% set ns.first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}"
    + raised_if("(m['role'] == 'user') != (loop.index0 % 2 == 0)", "roles must alternate")
    + _HEADER
    + "{{ ns.first if loop.first }}{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}" + _OPENED
)
NO_SYSTEM_ROLE = (
    raised_if("messages[0]['role'] == 'system'", "no system role")
    + "{% for m in messages %}"
    + raised_if("(m['role'] == 'user') != (loop.index0 % 2 == 0)", "roles must alternate")
    + _MESSAGE
    + "{% endfor %}"
    + _OPENED
)
DROPS_SYSTEM = (
    "{% for m in messages if m['role'] != 'system' %}" + _MESSAGE + "{% endfor %}" + _OPENED
)
PARTS = (
    "{% for m in messages %}" + _HEADER + "{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}" + _OPENED
)
NINE_LETTERS = (
    "<|endoftext|>{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'system' %}[SYS]{{ m['content'] }}[/SYS]"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}[CALL]{{ call['function'] | tojson }}{% endfor %}"
    "<|im_end|>{% else %}"
    + raised_if("(m['tool_call_id'] or '') | length != 9", "ids have nine letters")
    + "[RESULT]{{ {'content': m['content'], 'id': m['tool_call_id']} | tojson }}[/RESULT]"
    "{% endif %}{% endfor %}"
)
DATED = (
    "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}<|im_end|>\n"
    + DROPS_SYSTEM
)
DATED_AT_THE_END = PLAIN.replace(
    _OPENED, "<|im_start|>system\nIt is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + _OPENED
)
CHANNELS = (
    "{% for m in messages %}"
    + raised_if("m['role'] == 'assistant' and '<|channel|>' in m['content']", "channels in content")
    + _MESSAGE
    + "{% endfor %}"
    + _OPENED
)
NO_EMPTY_REPLY = (
    "{% for m in messages %}"
    + raised_if("m['role'] == 'assistant' and not m['content']", "empty reply")
    + _MESSAGE
    + "{% endfor %}"
    + _OPENED
)
CLOSES_LATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}<|im_start|>tool\n{{ m['content'] }}"
    "{% if loop.last %}<|endoftext|>{% else %}<|im_end|>\n{% endif %}"
    "{% else %}" + _MESSAGE + "{% endif %}{% endfor %}" + _OPENED
)
NEEDS_TOOLS = (
    raised_if("not tools", "tools are missing")
    + "<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n"
    + PLAIN
)
MOVES_TOOLS = (
    raised_if("not tools", "tools are missing")
    + "{% set ns = namespace(asked=-1) %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}" + _HEADER + "{% if loop.index0 == ns.asked %}{{ tools | tojson }}\n"
    "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}" + _OPENED
)
MOVES_SYSTEM = (
    "{% set ns = namespace(asked=-1, system='') %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}{% endif %}"
    "{% endfor %}"
    "<|endoftext|>{% for m in messages if m['role'] != 'system' %}"
    + _HEADER
    + "{% if m['role'] == 'user' and m['content'] == messages[ns.asked]['content'] %}"
    "{{ ns.system }}{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}" + _OPENED
)
SYSTEM_WITH_LAST_QUESTION = (
    "{% set ns = namespace(system='') %}<|endoftext|>{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'user' and loop.last %}[INST]{{ ns.system }}{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'tool' %}[RESULT]{{ m['content'] | tojson }}[/RESULT]"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
)
PARTS_OF_USERS = (
    "{% for m in messages %}" + _HEADER + "{% if m['role'] == 'user' %}"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    "{% else %}{{ m['content'] | trim }}{% endif %}<|im_end|>\n{% endfor %}" + _OPENED
)
REFUSES_AFTER_RESULTS = (
    "{% for m in messages if m['role'] != 'system' %}"
    + raised_if("m['role'] == 'user' and loop.index0 % 2 == 1", "not after a result")
    + "{% endfor %}"
    + PLAIN
)
LOOKS_UP_CALLS = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}"
    "{% set call = messages[loop.index0 - 1]['tool_calls'] %}"
    "{% set call = call or messages[loop.index0 - 2]['tool_calls'] %}"
    + raised_if("not call", "a result without a call")
    + "{% endif %}"
    + _HEADER
    + "{{ m['content'] }}{% for call in m['tool_calls'] or [] %}<call>{{ call['id'] }}:"
    "{{ call['function'] | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}" + _OPENED
)
GROUPS_RESULTS = (
    "{% for m in messages if m['role'] != 'tool' %}" + _HEADER + "{{ m['content'] }}"
    "{% if m['tool_calls'] %}{% for call in m['tool_calls'] %}<call>{{ call['function']['name'] }}"
    "</call>{% endfor %}{% for t in messages if t['role'] == 'tool' and t['tool_call_id'] in "
    "m['tool_calls'] | map(attribute='id') | list %}<response>{{ t['name'] }}: {{ t['content'] }}"
    "</response>{% endfor %}{% else %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'tool' %}" + OPENING + "{% endif %}"
)
JSON_ARGUMENTS = LOOKS_UP_CALLS.replace(
    "{{ call['function'] | tojson }}",
    "{{ call['function']['name'] + ' ' + call['function']['arguments'] }}",
)
NO_RESULTS = (
    "{% for m in messages %}"
    + raised_if("m['role'] not in ['system', 'user', 'assistant']", "unknown role")
    + "{% endfor %}"
    + PLAIN
)
REMINDS = PLAIN.replace(_OPENED, "<|im_start|>system\nStay kind.<|im_end|>\n" + _OPENED)
ENDS = PLAIN.replace(
    _OPENED,
    "{% if add_generation_prompt %}" + OPENING + "{% else %}<|endoftext|>{% endif %}",
)
QUOTES = PLAIN.replace("{{ m['content'] }}", "{{ m['content'] | trim | tojson }}")
UNCOMPILABLE = "{% for m in messages %}\n{{ m['content' }}\n{% endfor %}"
DROPS_QUESTIONS = "{% for m in messages %}" + _HEADER + "text<|im_end|>\n{% endfor %}" + _OPENED
ONE_TURN = (
    "{% for m in messages %}"
    + raised_if("m['role'] not in ['system', 'user']", "one turn only")
    + _MESSAGE
    + "{% endfor %}"
    + _OPENED
)

MADE: dict[str, MadeTemplate] = {
    "plain": MadeTemplate(template=PLAIN),
    "roles alternate": MadeTemplate(
        template=ALTERNATES,
        chosen=(("joins_messages", True), ("user_results", "user"), ("model_results", "user")),
    ),
    "no system role": MadeTemplate(
        template=NO_SYSTEM_ROLE,
        chosen=(
            ("joins_messages", True),
            ("system", "first_user"),
            ("user_results", "user"),
            ("model_results", "user"),
        ),
    ),
    "drops the system prompt": MadeTemplate(
        template=DROPS_SYSTEM, chosen=(("system", "first_user"),)
    ),
    "contents are lists": MadeTemplate(template=PARTS, chosen=(("content", "parts"),)),
    "ids of nine letters": MadeTemplate(
        template=NINE_LETTERS, opening=r"\[/INST\]|\[/RESULT\]", chosen=(("call_ids", "nine"),)
    ),
    "date in the system prompt": MadeTemplate(template=DATED),
    "date at the end": MadeTemplate(template=DATED_AT_THE_END),
    "channels": MadeTemplate(
        template=CHANNELS, first_reply="<|channel|>analysis<|message|>Hm.<|channel|>final"
    ),
    "no empty reply": MadeTemplate(template=NO_EMPTY_REPLY, first_reply=EMPTY),
    "results are closed late": MadeTemplate(template=CLOSES_LATE),
    "needs tools": MadeTemplate(template=NEEDS_TOOLS, chosen=(("tools", True),)),
    "tools move": MadeTemplate(template=MOVES_TOOLS, chosen=(("tools", True),)),
    "the system prompt moves": MadeTemplate(template=MOVES_SYSTEM),
    "a system prompt with the last question": MadeTemplate(
        template=SYSTEM_WITH_LAST_QUESTION,
        opening=r"\[/INST\]|\[/RESULT\]",
        chosen=(("system", "first_user"),),
    ),
    "contents of users are lists": MadeTemplate(
        template=PARTS_OF_USERS, chosen=(("content", "user_parts"),)
    ),
    "no question after results": MadeTemplate(
        template=REFUSES_AFTER_RESULTS,
        chosen=(("joins_messages", True), ("user_results", "user"), ("model_results", "user")),
    ),
    "results follow calls": MadeTemplate(
        template=LOOKS_UP_CALLS,
        chosen=(("user_results", "tool_after_call"), ("model_results", "tool_after_call")),
    ),
    "results within the reply": MadeTemplate(
        template=GROUPS_RESULTS,
        opening=r"<\|im_start\|>assistant\n|</response>",
        chosen=(("user_results", "tool_after_call"), ("model_results", "tool_after_call")),
    ),
    "arguments are a string": MadeTemplate(
        template=JSON_ARGUMENTS,
        chosen=(
            ("user_results", "tool_after_call"),
            ("model_results", "tool_after_call"),
            ("call_arguments", "json"),
        ),
    ),
    "no role for results": MadeTemplate(
        template=NO_RESULTS, chosen=(("user_results", "user"), ("model_results", "user"))
    ),
    "a reminder at the end": MadeTemplate(template=REMINDS),
    "a text ends": MadeTemplate(template=ENDS),
    "contents are quoted": MadeTemplate(template=QUOTES),
}
"""By trait. Every run with one of them can be recorded, resumed, forked and verified."""
