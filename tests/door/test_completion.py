"""What completion, `help` and `dir` list: public names, keywords of settings, and their choices."""

import inspect
import pydoc
from collections.abc import Callable
from typing import Any, get_args

import pytest
from transformers import GenerationConfig

import tokentape as tt
from tokentape.generation.engine.turn import turn_settings
from tokentape.generation.engine.turn_keywords import TURN_DEFAULTS, TurnKeywords
from tokentape.generation.models.loading_settings import LOADING_DEFAULTS, Dtype, Quantization
from tokentape.generation.models.model_names import QUANTO_WEIGHTS
from tokentape.generation.models.model_sizes import DTYPES
from tokentape.generation.run_settings import AtContextLimit, RunSettings, setting_defaults
from tokentape.replay.options import CheckKeywords
from tokentape.store import DatabaseStore


def test_dir_lists_the_public_names_and_nothing_private() -> None:
    names = set(dir(tt))

    assert {each for each in names if not each.startswith("__")} == set(tt.__all__)
    assert {"__version__", "__doc__", "__all__"} <= names
    assert all(hasattr(tt, each) for each in names)
    text = pydoc.plaintext.document(tt)
    assert "flight recorder" in text
    assert all(each in text for each in ("Investigation", "load_model", "verify"))


@pytest.mark.parametrize(
    ("function", "keywords"),
    [
        (tt.Investigation, setting_defaults()),
        (tt.ManualGenerator.generate, TurnKeywords.__annotations__),
        (tt.ModelManager, LOADING_DEFAULTS),
        (tt.ModelManager.generate_manual, TurnKeywords.__annotations__),
        (tt.Investigation.chat, TurnKeywords.__annotations__),
        (tt.Investigation.resume, ("threads", "prefix_folder")),
        (tt.Investigation.fork, ("seed", "at_context_limit")),
        (tt.verify, CheckKeywords.__annotations__),
        (tt.retrace, CheckKeywords.__annotations__),
        (tt.regenerate, CheckKeywords.__annotations__),
    ],
)
def test_signatures_list_every_keyword(function: Callable[..., Any], keywords: Any) -> None:
    parameters = inspect.signature(function).parameters

    assert set(keywords) <= parameters.keys()
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def test_help_shows_choices_and_defaults() -> None:
    text = pydoc.plaintext.document(tt.Investigation)

    assert "Literal['refuse', 'prune_tool_results', 'prune_turns'] = 'refuse'" in text
    assert "temperature: float | None = None" in text
    assert "Literal['float32', 'bfloat16', 'float16', 'auto']" in pydoc.plaintext.document(
        tt.load_model
    )


def test_the_listed_choices_and_defaults_are_those_that_apply() -> None:
    dtypes, quantizations = (get_args(get_args(each)[0]) for each in (Dtype, Quantization))
    assert quantizations == QUANTO_WEIGHTS
    assert set(dtypes) - {"auto"} <= set(DTYPES)
    assert setting_defaults()["at_context_limit"] in get_args(AtContextLimit)
    assert RunSettings(**setting_defaults()) == RunSettings()  # type: ignore[arg-type]
    loading = inspect.signature(tt.load_model).parameters
    assert {name: loading[name].default for name in LOADING_DEFAULTS} == LOADING_DEFAULTS
    turn = inspect.signature(turn_settings).parameters
    for name in TurnKeywords.__annotations__:
        if name in turn:
            assert turn[name].default == TURN_DEFAULTS[name]
        else:
            assert hasattr(GenerationConfig(), name), name  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda lm, new: new(systm_prompt="x"), "did you mean 'system_prompt'"),
        (lambda lm, new: new(tool_call_max=1), "did you mean 'tool_calls_max'"),
        (lambda lm, new: new(at_context_limit="prune"), "did you mean 'prune_turns'"),
        (lambda lm, new: new().chat("Hi", temprature=1.0), "did you mean 'temperature'"),
        (lambda lm, new: new().watch(["model.layers.0.mpl"]), "model.layers.0.mlp"),
        (lambda lm, new: tt.load_model("x", quantization="int9"), "did you mean 'int"),
        (lambda lm, new: tt.load_model("x", dtype="bflot16"), "did you mean 'bfloat16'"),
        (lambda lm, new: tt.load_model(dtyp="x"), "did you mean 'dtype'"),
        (lambda lm, new: tt.open_store(upgrad=True), "did you mean 'upgrade'"),
        (lambda lm, new: tt.tokens_df(turn=1), "did you mean 'turns'"),
        (lambda lm, new: new(tool_call_format="hermess"), "did you mean 'hermes'"),
        (lambda lm, new: tt.Intervention.placebo("x", 1, position=1), "did you mean 'positions'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(
    act: Callable[..., Any], message: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def new(**settings: Any) -> tt.Investigation:
        given = {"store": store, "name": "t", "system_prompt": "Hi.", **settings}
        return tt.Investigation(lm, **given)

    with pytest.raises((tt.TokentapeError, TypeError), match=message):
        act(lm, new)


def test_an_unknown_name_of_the_package_gets_the_nearest_one() -> None:
    with pytest.raises(AttributeError, match="did you mean 'tokens_df'"):
        _ = tt.token_df
    assert not hasattr(tt, "__path_of_nothing__")


def test_unknown_options_and_interventions_get_the_nearest_name(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Hi.") as run:
        run.chat("Hi", max_new_tokens=1)
        run.intervene(tt.Intervention.placebo("steady", 1))
        with pytest.raises(tt.ModelError, match="did you mean 'steady'"):
            run.withdraw("stedy")
    options: Any = {"turn": [1]}
    with pytest.raises(TypeError, match="did you mean 'turns'"):
        tt.verify(store.recording(run.run_id), lm, **options)
    with pytest.raises(tt.PromptError, match="did you mean 'threads'"):
        tt.Investigation.resume(store, run.run_id, lm, thread=1)  # type: ignore[arg-type]
