"""Reports made by hand: of every verdict, with hostile texts, and huge ones."""

import random
from dataclasses import replace
from typing import Any

from tokentape.replay.checking.noise_floor import FLOORS
from tokentape.replay.results.report import (
    Cause,
    Divergence,
    FingerprintDifference,
    Report,
    ScoredToken,
    ToolDrift,
    TurnVerdict,
)
from tokentape.replay.results.verdict import CauseKind, DivergenceKind, Verdict

HOSTILE = {
    "ANSI": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "line ends": "a\r\nb\x0bc\u2028d\u2029e",
    "nul and backspace": "\x00abc\x08\x7f\x9b31m",
    "direction": "\u202eevil\u2066x\u2069",
    "lone surrogates": "\ud800 and \udcff",
    "noncharacters": "\ufffe\uffff\U0001fffe",
    "markup": "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "quotes": "\" onload=alert(1) x=' &amp;&lt;`]]>-->",
    "template": "{{ 7 * 7 }}{% raw %}{# #}",
    "rich markup": "[bold red]x[/]",
    "css": "</style><style>*{display:none}</style>",
    "emoji": "👩\u200d👩\u200d👧 ☺\ufe0f 🇩🇪",
    "wide": "漢字かな",
    "right to left": "שלום عالم",
    "stacked marks": "Z" + "\u0310\u0333\u0489" * 40,
    "blanks": "\u3164\u2800\xa0\u200b\ufeff\xad",
    "backslashes": "C:\\new\\table 'quoted'",
    "empty": "",
    "long": "abcdefgh" * 20_000,
}
"""Hostile texts by their defect."""


def candidate(token_id: int, text: str, logprob: float, **more: Any) -> ScoredToken:
    return ScoredToken(token_id=token_id, text=text, logprob=logprob, **more)


def divergence(**changes: Any) -> Divergence:
    """Return a divergence at token 5 of turn 2, far above the noise."""
    recorded = (
        candidate(812, " norm", -0.4127),
        candidate(44, " weight", -1.8813),
        candidate(9120, " matrices", -3.0034),
        candidate(11, ",", -4.51),
        candidate(200, "\n", -6.02),
    )
    replayed = (
        candidate(812, " norm", -0.4126, score=21.4413),
        candidate(44, " weight", -1.8815, score=17.3002),
        candidate(9120, " matrices", -3.0031, score=16.0119),
        candidate(11, ",", -4.5099, filtered_by="top_p"),
        candidate(200, "\n", -6.0188, filtered_by="top_p"),
    )
    made = Divergence(
        kind=DivergenceKind.TOKEN,
        turn=2,
        step=5,
        position=1415,
        recorded=recorded[2],
        replayed=replayed[0],
        margin=5.4294,
        boundary_gap=None,
        logprob_difference=0.0003,
        processed_difference=None,
        text_before="user\nWhat is this layer like?<|im_end|>\n<|im_start|>assistant\n"
        "The layer has",
        text_after=" of the largest size,\nand most of its weights are close to zero.",
        recorded_top=recorded,
        replayed_top=replayed,
    )
    return replace(made, **changes)


def turn(number: int, verdict: Verdict = Verdict.VERIFIED, **changes: Any) -> TurnVerdict:
    """Return the verdict on a turn of forty tokens within the noise."""
    numbers = random.Random(number)
    differences = tuple(abs(numbers.gauss(0.0, 4e-6)) for _ in range(40))
    made = TurnVerdict(
        turn=number,
        verdict=verdict,
        tokens=len(differences),
        sampled=number % 2 == 0,
        mismatches=0,
        near_ties=0,
        margin_max=0.0,
        logprob_difference_max=max(differences),
        logprob_difference_mean=sum(differences) / len(differences),
        processed_difference_max=0.0,
        generator_matches=True if number % 2 == 0 else None,
        logprob_differences=differences,
        margins=(0.0,) * len(differences),
    )
    return replace(made, **changes)


def tampered_turn(number: int = 2) -> TurnVerdict:
    """Return the verdict on a turn with one tampered token, which affects the tokens after it."""
    plain = turn(number)
    differences = list(plain.logprob_differences)
    margins: list[float | None] = [0.0] * len(differences)
    for step, difference in ((5, 3e-4), (6, 0.61), (7, 0.08), (8, 0.02), (9, 0.004), (10, 6e-4)):
        differences[step] = difference
    margins[5], margins[6], margins[12] = 5.4294, None, 4e-4
    return replace(
        plain,
        verdict=Verdict.DIVERGED,
        mismatches=2,
        near_ties=1,
        margin_max=5.4294,
        logprob_difference_max=max(differences),
        logprob_difference_mean=sum(differences) / len(differences),
        logprob_differences=tuple(differences),
        margins=tuple(margins),
    )


def report(**changes: Any) -> Report:
    """Return the report on a recording of four turns in which one token was altered."""
    made = Report(
        replay="verify",
        run_id="01a20797-1cda-77cb-a4ac-61b65d8031e8",
        name="probe",
        model="smollm2-demo",
        verdict=Verdict.DIVERGED,
        reason="turn 2, token 5: the model did not produce this token: the token was altered",
        causes=(
            Cause(
                name=CauseKind.TOKEN,
                sentence="The model did not produce token 5 of turn 2: it was altered.",
                turn=2,
                step=5,
            ),
            Cause(
                name=CauseKind.SAMPLER,
                sentence="Or another sampler picked the tokens after it.",
                turn=2,
            ),
        ),
        turns=(turn(1), tampered_turn(), turn(3), turn(4)),
        divergences=(
            divergence(),
            divergence(
                kind=DivergenceKind.FILTERED,
                step=6,
                margin=None,
                boundary_gap=2.25,
                logprob_difference=0.61,
            ),
            divergence(kind=DivergenceKind.LOGPROB, step=7, margin=0.0, logprob_difference=0.08),
            divergence(kind=DivergenceKind.NEAR_TIE, step=12, margin=4e-4, logprob_difference=2e-6),
        ),
        differences=(
            FingerprintDifference(
                field="weights",
                recorded="a" * 64,
                replayed="b" * 64,
                forbids=True,
                ignored=True,
                detail="model.layers.3.mlp.up_proj.weight and 2 more tensors",
            ),
            FingerprintDifference(
                field="torch", recorded="2.12.1", replayed="2.13.0", forbids=False
            ),
        ),
        altered=("turn 2: the ids of the reply do not decode to its text",),
        floor=FLOORS["float32"],
        predicted_flips=0.0013,
        duration_us=2_134_500,
        generation_us=107_100_000,
        repro="tokentape verify 01a20797-1cda-77cb-a4ac-61b65d8031e8 --turn 2 --store runs/demo.db",
        tools=(
            ToolDrift(
                turn=3,
                call_id="call_1",
                tool="get_weight_statistics",
                field="mean",
                recorded="0.00012",
                replayed="0.00031",
            ),
        ),
    )
    return replace(made, **changes)


def of_verdict(verdict: Verdict) -> Report:
    """Return a report of that verdict, with nothing else in it."""
    turns = (turn(1), turn(2, Verdict.NEAR_TIE if verdict is Verdict.INCOMPARABLE else verdict))
    fingerprint = FingerprintDifference(field="dtype", recorded="a", replayed="b", forbids=True)
    return report(
        verdict=verdict,
        reason="",
        causes=(),
        turns=turns,
        divergences=() if verdict in (Verdict.EXACT, Verdict.VERIFIED) else (divergence(),),
        differences=(fingerprint,) if verdict is Verdict.INCOMPARABLE else (),
        altered=(),
        tools=(),
    )


def hostile(text: str) -> Report:
    """Return a report with the text in every field that a model, tool or file name can fill."""
    token = candidate(7, text, -1.0, score=1.0, filtered_by=text)
    drift = ToolDrift(turn=1, call_id=text, tool=text, field=text, recorded=text, replayed=text)
    difference = FingerprintDifference(
        field=text, recorded=text, replayed=text, forbids=True, detail=text
    )
    each = divergence(
        recorded=token,
        replayed=token,
        text_before=text,
        text_after=text,
        recorded_top=(token,) * 5,
        replayed_top=(token,) * 5,
    )
    return report(
        run_id=text,
        name=text,
        model=text,
        reason=text,
        causes=(Cause(name=CauseKind.TOKEN, sentence=text, turn=2, step=5),),
        divergences=(each, replace(each, step=6)),
        differences=(difference, replace(difference, ignored=True)),
        altered=(text,),
        floor=replace(FLOORS["float32"], version=text, dtype=text, measured_on=text),
        repro=text,
        tools=(drift,),
    )


def bare() -> Report:
    """Return a report in which every optional part is empty."""
    return report(
        name="",
        model="",
        reason="",
        causes=(),
        turns=(),
        divergences=(),
        differences=(),
        altered=(),
        floor=None,
        predicted_flips=0.0,
        repro="",
        tools=(),
    )


def not_numbers() -> Report:
    """Return the report on a model whose numbers are all NaN or infinite."""
    nan, inf = float("nan"), float("inf")
    broken = turn(
        2,
        Verdict.DIVERGED,
        tokens=4,
        margin_max=nan,
        logprob_difference_max=nan,
        logprob_difference_mean=inf,
        logprob_differences=(nan, inf, 0.0, 1e-300),
        margins=(nan, inf, None, 0.0),
    )
    each = divergence(
        step=3,
        margin=nan,
        boundary_gap=inf,
        logprob_difference=nan,
        processed_difference=inf,
        recorded=candidate(1, "a", -inf),
        replayed_top=(candidate(1, "a", nan, score=-inf),),
    )
    return report(turns=(broken,), divergences=(each,), predicted_flips=nan)


def huge(turns: int, tokens: int, divergences: int = 0) -> Report:
    """Return a report of many tokens, with one token of the last turn far above the noise."""
    numbers = random.Random(1)
    noise = [abs(numbers.gauss(0.0, 4e-6)) for _ in range(tokens)]
    every = [
        turn(
            number,
            tokens=tokens,
            logprob_differences=tuple(noise),
            margins=(0.0,) * tokens,
        )
        for number in range(1, turns + 1)
    ]
    noise[tokens // 3] = 0.5
    every[-1] = replace(
        every[-1],
        verdict=Verdict.DRIFTED,
        logprob_difference_max=0.5,
        logprob_differences=tuple(noise),
        margins=(*(0.0,) * (tokens - 1), 0.01),
    )
    found = tuple(divergence(turn=turns, step=step) for step in range(divergences))
    return report(turns=tuple(every), divergences=found, verdict=Verdict.DRIFTED)
