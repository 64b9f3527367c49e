"""Tiny random models, a byte-level tokenizer made here, and stores in memory."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import tokentape as tt
from store import DatabaseStore

# Injects a default system prompt, as the demo model's own template does.
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 272


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIAL, *letters))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def _config(kind: type, **settings: Any) -> Any:
    return kind(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **settings)


def _build(family: str) -> torch.nn.Module:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        # Wide enough for a distribution with favourites: flat logits hide every mistake.
        "initializer_range": 0.25,
    }
    if family == "llama":
        return LlamaForCausalLM(_config(LlamaConfig, **sizes))
    if family == "qwen3":
        return Qwen3ForCausalLM(_config(Qwen3Config, head_dim=16, **sizes))
    if family == "mistral-window":
        return MistralForCausalLM(_config(MistralConfig, sliding_window=16, **sizes))
    return GPT2LMHeadModel(
        _config(
            GPT2Config, n_embd=64, n_layer=3, n_head=4, n_positions=2048, initializer_range=0.25
        )
    )


@pytest.fixture(scope="session")
def make_lm(tokenizer: PreTrainedTokenizerFast) -> Callable[..., tt.LoadedModel]:
    """A tiny model of a family: llama, qwen3, gpt2 or mistral-window."""

    def make(family: str = "llama", *, seed: int = 0) -> tt.LoadedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _build(family)
        return tt.LoadedModel(model.eval(), tokenizer, f"tiny-{family}")

    return make


@pytest.fixture
def lm(make_lm: Callable[..., tt.LoadedModel]) -> tt.LoadedModel:
    """A tiny Llama of one's own, to change at will."""
    return make_lm("llama")


@pytest.fixture(scope="session")
def tiny_folder(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny Llama saved as a model folder, for what loads by name."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny = make_lm("llama")
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def demo_lm() -> tt.LoadedModel:
    return tt.load_model("smollm2-demo")


@pytest.fixture
def store() -> Iterator[DatabaseStore]:
    with tt.open_store("sqlite://") as opened:
        yield opened


@pytest.fixture
def altered() -> Callable[[tt.LoadedModel, Callable[[Any], None]], tt.LoadedModel]:
    """A copy of a model with something done to it."""

    def alter(lm: tt.LoadedModel, change: Callable[[Any], None]) -> tt.LoadedModel:
        model = copy.deepcopy(lm.model)
        with torch.no_grad():
            change(model)
        return tt.LoadedModel(model, lm.tokenizer, lm.name)

    return alter


GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_p": 0.9}


@pytest.fixture(scope="session")
def record() -> Callable[..., tt.Recording]:
    """Record a conversation: turn 1 greedy, 2 sampled, 3 greedy with a penalty, 4 sampled."""

    def run(lm: tt.LoadedModel, store: DatabaseStore, *, tokens: int = 12) -> tt.Recording:
        settings = (GREEDY, SAMPLED, GREEDY | {"repetition_penalty": 1.2}, SAMPLED)
        tools = tt.default_tools(lm)
        layer = next(iter(dict(lm.model.named_parameters())))
        call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
        with tt.Investigation(
            lm, store=store, name="test", system_prompt="Be kind and brief.", tools=tools, seed=7
        ) as investigation:
            for index, chosen in enumerate(settings):
                investigation.chat(
                    f"What of layer {index}?",
                    tool_calls=[call] if index == 1 else [],
                    max_new_tokens=tokens,
                    **chosen,
                )
        return store.recording(investigation.run_id)

    return run


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, standard output, standard error."""
    from tokentape.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tokentape", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run
