"""A chat template that comes with a model cannot take any amount of time or memory."""

import threading
import time

import pytest
from transformers.utils import chat_template_utils

import tokentape as tt
from tests.generation.text_tokenizers import byte_fallback
from tokentape.generation.hf import bounded_templates
from tokentape.generation.history.chat_template import ChatTemplate

_MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
HOSTILE = {
    "a text times a number": "{{ 'x' * 10**10 }}",
    "a number times a list": "{{ (10**10) * [1] }}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "a percent format": "{{ '%9999999999d' % 1 }}",
    "a percent format of an argument": "{{ '%*d' % (10**10, 1) }}",
    "a format": "{{ '{:>9999999999}'.format('x') }}",
    "a format of an argument": "{{ '{:>{}}'.format('x', 10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "the filter center": "{{ 'x' | center(10**10) }}",
    "the filter indent": "{{ 'x\nx' | indent(10**10) }}",
    "the filter batch": "{{ [1] | batch(10**10, 'x') | list }}",
    "doubling by +": "{% set n = namespace(s='x') %}"
    "{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(s='x') %}"
    "{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling by join": "{% set n = namespace(s='x') %}"
    "{% for i in range(60) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}",
    "growing by replace": "{% set n = namespace(s='x') %}"
    "{% for i in range(60) %}{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
    "a long output": "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
    "a macro that doubles": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}x{% endmacro %}{{ f(60) }}",
    "loops in loops": "{% set r = range(99999) %}"
    "{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
    "lorem ipsum": "{{ lipsum(n=10**9) }}",
}


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_templates, "TEMPLATE_SECONDS_MAX", 0.5)


def template(text: str) -> ChatTemplate:
    tokenizer = byte_fallback()
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_costly_template_is_refused(name: str) -> None:
    began = time.monotonic()

    with pytest.raises(tt.PromptError):
        template(HOSTILE[name]).render(_MESSAGES)

    assert time.monotonic() - began < 10


def test_an_honest_template_renders_as_transformers_does() -> None:
    text = (
        "{% for m in messages %}{{ '**' ~ m.role ~ '**: ' + m.content | trim }}"
        "{{ '%s-%05d' % (loop.index, 7) }}{{ '{:>4}'.format(loop.index) }}"
        "{{ [m.role, 'x'] | join(', ') | upper }}{{ m | tojson(indent=2) | indent(4) }}"
        "{{ namespace(function=1, context=2, self=3).context }}"
        "{{ m.content.replace('H', 'hh') }}{{ 3 * '-' }}{{ 2 ** 10 }}\n{% endfor %}"
    )
    given = template(text)

    rendered = given.render(_MESSAGES)

    assert rendered == given.tokenizer.apply_chat_template(_MESSAGES, tokenize=False)
    assert "**user**: Hello1-00007   1USER, X" in rendered


def test_templates_of_the_rest_of_the_process_keep_their_environment() -> None:
    before = (
        chat_template_utils._compile_jinja_template,
        chat_template_utils.ImmutableSandboxedEnvironment,
    )

    with pytest.raises(tt.PromptError):
        template("{{ 'x' * 10**10 }}").render(_MESSAGES)

    assert before == (
        chat_template_utils._compile_jinja_template,
        chat_template_utils.ImmutableSandboxedEnvironment,
    )


def test_a_costly_template_in_another_thread_is_refused() -> None:
    refused: list[BaseException] = []

    def render() -> None:
        try:
            template(HOSTILE["loops in loops"]).render(_MESSAGES)
        except tt.PromptError as error:
            refused.append(error)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join(timeout=10)

    assert not thread.is_alive()
    assert "takes longer than 0.5 seconds" in str(refused[0])
