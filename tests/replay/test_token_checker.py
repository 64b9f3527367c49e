"""Near ties and edges of filters, on made logits."""

import dataclasses
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.noise_floor import FLOORS
from tokentape.replay.checking.token_checker import CheckedToken, TokenChecker
from tokentape.replay.results.verdict import DivergenceKind
from tokentape.store import DatabaseStore

FLOOR = FLOORS["float32"]


@pytest.fixture
def recorded(lm: tt.LoadedModel, store: DatabaseStore) -> Any:
    """Record a turn of one token; return it with the logits that it was sampled from."""

    def make(**settings: Any) -> tuple[Turn, torch.Tensor]:
        kept: list[torch.Tensor] = []
        with tt.Recorder(store) as recorder:
            tt.ManualGenerator(lm.model, lm.tokenizer, recorder).generate(
                "Hi", max_new_tokens=1, callback=lambda _, row: kept.append(row[None]), **settings
            )
        return store.recording(recorder.run_id).turns()[0], kept[0].clone()

    return make


def checked_token(turn: Turn, lm: tt.LoadedModel, logits: torch.Tensor) -> CheckedToken:
    """Check the token against logits, with its log-probability changed to fit them."""
    token = turn.tokens[0]
    logprob = torch.log_softmax(logits, dim=-1)[0, token.token_id].item()
    honest = dataclasses.replace(token, logprob=logprob)
    return (
        TokenChecker(dataclasses.replace(turn, tokens=(honest,)), lm, FLOOR).check(logits).tokens[0]
    )


def kind(turn: Turn, lm: tt.LoadedModel, logits: torch.Tensor) -> DivergenceKind | None:
    return checked_token(turn, lm, logits).kind


@pytest.mark.parametrize("settings", [{"do_sample": False}, {"do_sample": True, "seed": 3}])
def test_the_same_logits_give_the_same_token(
    recorded: Any, lm: tt.LoadedModel, settings: dict[str, Any]
) -> None:
    turn, logits = recorded(**settings)
    found = TokenChecker(turn, lm, FLOOR).check(logits).tokens[0]

    assert found.kind is None
    assert found.margin == 0.0
    assert found.logprob_difference == 0.0


@pytest.mark.parametrize(
    ("lead", "expected"), [(0.5 * FLOOR.margin_eps, "near_tie"), (2 * FLOOR.margin_eps, "token")]
)
def test_a_pick_by_less_than_the_noise_is_a_near_tie(
    recorded: Any, lm: tt.LoadedModel, lead: float, expected: str
) -> None:
    turn, logits = recorded(do_sample=False)
    said = turn.tokens[0].token_id
    other = (said + 1) % 272
    logits[0, other] = logits[0, said] + lead

    assert kind(turn, lm, logits) == expected


def test_an_exact_tie_is_never_a_failure(recorded: Any, lm: tt.LoadedModel) -> None:
    turn, logits = recorded(do_sample=False)
    said = turn.tokens[0].token_id
    logits[0, 0 if said else 1] = logits[0, said]

    assert kind(turn, lm, logits) in ("near_tie", None)


@pytest.mark.parametrize(
    ("short_by", "expected"),
    [(0.5 * FLOOR.margin_eps, "near_tie"), (2 * FLOOR.margin_eps, "filtered")],
)
def test_a_token_just_outside_the_filter_is_a_near_tie(
    recorded: Any, lm: tt.LoadedModel, short_by: float, expected: str
) -> None:
    turn, logits = recorded(do_sample=True, top_k=1, seed=3)
    said = turn.tokens[0].token_id
    other = (said + 1) % 272
    logits[0, other] = logits[0, said] + short_by

    found = checked_token(turn, lm, logits)
    assert found.kind == expected
    assert found.margin is None
    assert found.boundary_gap == pytest.approx(short_by, rel=1e-2)


def test_the_lowest_token_that_was_kept_excuses_no_other(recorded: Any, lm: tt.LoadedModel) -> None:
    """The filter leaves two tokens; the one that was not drawn is recorded."""
    turn, logits = recorded(do_sample=True, top_k=2, seed=3)
    first, second = logits[0].topk(2).indices.tolist()
    other = second if turn.tokens[0].token_id == first else first
    forged = dataclasses.replace(turn.tokens[0], token_id=other)

    assert kind(dataclasses.replace(turn, tokens=(forged,)), lm, logits) == "token"


def test_a_suppressed_token_is_no_near_tie(recorded: Any, lm: tt.LoadedModel) -> None:
    turn, logits = recorded(do_sample=False, suppress_tokens=[40])
    forged = dataclasses.replace(turn.tokens[0], token_id=40)

    assert kind(dataclasses.replace(turn, tokens=(forged,)), lm, logits) == "filtered"


def test_another_log_probability_is_no_near_tie(recorded: Any, lm: tt.LoadedModel) -> None:
    turn, logits = recorded(do_sample=False)
    said = turn.tokens[0].token_id
    logits[0, (said + 1) % 272] = logits[0, said] + 0.1 * FLOOR.margin_eps

    assert kind(turn, lm, logits) == "near_tie"
    # The two tokens are as close as before, but the model gives other log-probabilities.
    assert TokenChecker(turn, lm, FLOOR).check(logits).tokens[0].kind == "logprob"


def test_a_filter_whose_edge_the_noise_moves_is_no_other_setting(
    recorded: Any, lm: tt.LoadedModel
) -> None:
    """If the sum of probabilities is almost top-p, noise decides whether one more token is kept."""
    _, first_logits = recorded(do_sample=True, top_p=0.9, top_k=0, seed=3)
    probabilities = torch.softmax(first_logits, dim=-1)[0].sort(descending=True).values.double()
    edge = float(probabilities.cumsum(0)[int((probabilities.cumsum(0) < 0.9).sum())])
    turn, logits = recorded(do_sample=True, top_p=edge - 1e-5, top_k=0, seed=3)

    def with_settings(**changed: Any) -> Turn:
        sampling = dict(turn.started.sampling) | changed
        return dataclasses.replace(
            turn, started=dataclasses.replace(turn.started, sampling=sampling)
        )

    assert kind(with_settings(top_p=edge + 1e-5), lm, logits) is None
    assert kind(with_settings(top_p=edge + 1e-2), lm, logits) == "sampler"
    assert kind(with_settings(temperature=1.02), lm, logits) in ("sampler", "token")
