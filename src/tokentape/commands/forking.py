"""What `fork` runs in a new run: the forked turn, then the later turns of the parent."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.investigations import print_run, run_json
from tokentape.recorder.events import InterventionRequested, InterventionWithdrawn, ToolCalled
from tokentape.recorder.events.run import FORK_CONTINUES
from tokentape.recorder.projections import Turn, join_rounds
from tokentape.recorder.selected_turns import SelectedEvents, read_turns, turn_numbers
from tokentape.screen import err, out

if TYPE_CHECKING:
    from tokentape.store import DatabaseStore

AtTokenOption = Annotated[
    int | None,
    typer.Option(
        help="Share the reply of the turn, too, up to this token, counted from zero.", min=0
    ),
]
TokenOption = Annotated[
    str | None, typer.Option(help="The text of the token that comes next instead.")
]
TokenIdOption = Annotated[
    int | None, typer.Option(help="The id of that token, in place of --token.", min=0)
]
ReplyPrefixOption = Annotated[str | None, typer.Option(help="Text with which the reply begins.")]
ContinueOption = Annotated[
    bool, typer.Option("--continue", help="Then send the later messages of the run, too.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest:
    """The turn or token at which a fork leaves its parent, and its changes."""

    at_turn: int
    at_token: int | None = None
    token: str | int | None = None
    message: str | None = None
    reply_prefix: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the forked turn; within a reply, of the rest of it."""
    continues: bool = False
    """Whether the parent's later messages are sent again."""

    def check(self) -> None:
        """Raise PromptError for a message that is empty, or requests that exclude each other."""
        from tokentape.generation.checks import check_text
        from tokentape.generation.setting_names import check_setting_names

        check_setting_names(self.settings)
        for name, text in (("--message", self.message), ("--reply-prefix", self.reply_prefix)):
            if text is not None and not text.strip() and name == "--message":
                raise tt.PromptError("--message is empty: there is nothing to reply to")
            check_text(name, text or "")
        if self.at_token is None:
            if self.token is not None:
                raise tt.PromptError("--token needs --at-token: which token of the reply it is")
            return
        if self.message is not None:
            raise tt.PromptError("--message begins the turn anew: leave out --at-token")
        if self.reply_prefix is not None:
            raise tt.PromptError(
                "--reply-prefix begins the reply: within a reply give --token, or leave out "
                "--at-token"
            )

    @property
    def changes(self) -> dict[str, Any]:
        """The changes that the fork records, and whether it continues."""
        named: dict[str, Any] = {"message": self.message, "reply_prefix": self.reply_prefix}
        named[FORK_CONTINUES] = self.continues or None
        return self.settings | {name: each for name, each in named.items() if each is not None}

    def turn_of(self, parent: tt.Recording) -> Turn | None:
        """Return the turn of the parent that is run again. Raise PromptError if one is needed."""
        turn = next((each.turn for each in read_turns(parent, [self.at_turn])), None)
        if turn is None and self.message is None:
            raise tt.PromptError(
                f"run {parent.run_id} has no turn {self.at_turn} to run again: give a new message "
                "with --message"
            )
        return turn

    def begin(
        self,
        opened: "DatabaseStore",
        parent: tt.Recording,
        lm: "tt.LoadedModel",
        *,
        turn: Turn | None,
        tools: "tt.ToolInterface | None",
        name: str,
        other_model: bool,
    ) -> "tt.Investigation":
        """Return the fork, to be entered. Raise for settings that the turn cannot have."""
        from tokentape.generation.investigation.recorded_settings import (
            check_changes,
            check_has_settings,
        )

        check_has_settings(self.settings)
        if turn is not None:
            check_changes(lm, turn, self.settings)
        return tt.Investigation.fork(
            opened,
            parent.run_id,
            lm,
            at_turn=self.at_turn,
            at_token=self.at_token,
            token=self.token,
            tools=tools,
            changes=self.changes,
            other_model=other_model,
            name=name,
        )

    def run(
        self, investigation: "tt.Investigation", parent: tt.Recording, turn: Turn | None
    ) -> None:
        """Run the forked turn, and the later ones if the fork continues; it has begun."""
        if self.at_token is None and turn is None:
            investigation.chat(
                self.message or "", reply_prefix=self.reply_prefix or "", **self.settings
            )
        elif self.at_token is None and turn is not None:
            investigation.retake(
                turn,
                message=self.message,
                tool_calls=calls_of(parent, self.at_turn),
                changes=self.settings,
                reply_prefix=self.reply_prefix,
            )
        if self.continues:
            _warn_of_interventions(parent, self.at_turn)
            send_later_messages(investigation, parent, self.at_turn)


def send_later_messages(
    investigation: "tt.Investigation", parent: tt.Recording, at_turn: int
) -> None:
    """Send the messages of the parent after a turn, apart from those that were sent already."""
    sent = investigation.generator.turn - at_turn
    for index, later in enumerate(_later_turns(parent, at_turn)):
        if index >= sent:
            investigation.retake(later, tool_calls=calls_of(parent, later.number))


def chosen_token(text: str | None, token_id: int | None) -> str | int | None:
    """Return the token that --token or --token-id names. Raise PromptError for both."""
    if text is not None and token_id is not None:
        raise tt.PromptError("give --token or --token-id, not both")
    return text if token_id is None else token_id


def calls_of(recording: tt.Recording, turn: int) -> "list[tt.ToolCall]":
    """Return the tool calls that the user made for the model in a turn."""
    return [
        tt.ToolCall(name=each.event.name, arguments=each.event.arguments)
        for each in SelectedEvents.read(recording, [turn]).envelopes
        if isinstance(each.event, ToolCalled)
        and each.event.caller == "experimenter"
        and each.turn == turn
    ]


def _later_turns(parent: tt.Recording, at_turn: int) -> Iterator[Turn]:
    """Yield the first round of each turn after one that sent a user's message."""
    for number in turn_numbers(parent):
        if number <= at_turn:
            continue
        turn = next(each.turn for each in read_turns(parent, [number]))
        if any(each.role == "user" for each in turn.messages):
            yield turn


def _warn_of_interventions(parent: tt.Recording, at_turn: int) -> None:
    """Say on standard error which changes of interventions are not repeated."""
    requests = InterventionRequested | InterventionWithdrawn
    names = [
        each.event.name
        for each in parent.events()
        if isinstance(each.event, requests) and each.turn is not None and each.turn > at_turn
    ]
    if names:
        named = ", ".join(dict.fromkeys(names))
        err.line(
            f"tokentape: warning: after turn {at_turn} the parent requested or withdrew the "
            f"interventions {named}: that is not repeated"
        )


def print_fork(
    child: tt.Recording, parent: tt.Recording, at_turn: int, store: str, as_json: bool
) -> None:
    """Print the reply, the turns that the parent does not have, and the diff with the parent."""
    from tokentape.replay.reports.diff_report import headline, render

    found, forked = tt.diff(parent, child), child.forked()
    if forked is not None and forked.other_model:
        others = ", ".join(forked.other_model)
        err.line(
            f"tokentape: this fork has another model than its parent ({others}): replays check its "
            "own turns with it, and the shared ones belong to the parent"
        )
    if as_json:
        printed = run_json(child, store, first_turn=at_turn)
        diff = {"headline": headline(found)} | found.to_dict()
        output.print_json(printed | {"parent_run_id": parent.run_id, "diff": diff})
        return
    for turn in join_rounds(child.turns()):
        if turn.number >= at_turn and turn.finished is not None:
            out.line(f"reply of turn {turn.number}:")
            out.text(turn.finished.text + "\n\n")
    print_run(child, store, as_json, first_turn=at_turn)
    out.text("\n" + render(found, ()) + "\n")
