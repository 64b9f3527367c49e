"""The model class of the provider."""

from typing import Any

import anyio.to_thread
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Logprobs,
    ModelAPI,
    ModelCall,
    ModelOutput,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.completion import Completion
from tokentape.generation.errors import ModelError, PromptError, PromptTooLongError
from tokentape.generation.run_settings import TOP_LOGPROBS, InvestigationKeywords
from tokentape.inspect_provider.evaluated_sample import current_sample, sample_seed
from tokentape.inspect_provider.hooks import register_hooks
from tokentape.inspect_provider.messages import to_chat_messages, to_tool_schemas
from tokentape.inspect_provider.model_arguments import read_model_arguments
from tokentape.inspect_provider.open_models import OpenModel
from tokentape.inspect_provider.outputs import (
    to_model_call,
    to_model_output,
    too_long_output,
)
from tokentape.inspect_provider.refusals import refusals_shown
from tokentape.inspect_provider.sample_runs import SampleRuns
from tokentape.inspect_provider.turn_config import MAX_TOKENS, to_settings


class TokentapeAPI(ModelAPI):
    """A local model whose replies are recorded, each sample in a run of its own."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        **model_args: Any,
    ) -> None:
        """Load the model that `tt.load_model` finds by the name, and open the store."""
        super().__init__(model_name, base_url, api_key, config=config)
        with refusals_shown():
            if base_url is not None:
                raise ModelError(f"tokentape loads models on this machine: leave {base_url} out")
            self._arguments = read_model_arguments(
                model_args, max_connections=config.max_connections
            )
            self._open = OpenModel(model_name, self._arguments)
        register_hooks()

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput | tuple[ModelOutput | Exception, ModelCall]:
        """Return the reply, which is the next turn of the sample's run."""
        runs = self._open.runs_of(current_sample(), self._run_settings(config))
        messages = to_chat_messages(input)
        schemas = to_tool_schemas(tools, tool_choice)
        settings = to_settings(config, self._open.model.lm.model.generation_config)
        with runs.repetitions.numbered(messages, schemas, settings) as repetition:
            request = ChatRequest(
                messages=messages,
                tools=schemas,
                settings=settings,
                seed=self._seed(config, runs, repetition),
                fit_context=True,
                **runs.request_facts(),
            )
            try:
                completion = await runs.complete(request, batch_size=self._arguments.batch_size)
            except PromptTooLongError as error:
                return too_long_output(self.model_name, error)
        output = to_model_output(
            completion,
            self.model_name,
            max_tokens=settings["max_new_tokens"],
            store=self._open.store_url,
            logprobs=self._logprobs(config, completion),
        )
        return output, to_model_call(request, completion)

    def _run_settings(self, config: GenerateConfig) -> InvestigationKeywords:
        """Return the settings of a sample's runs, which record as many tokens as are asked for."""
        recorded = self._arguments.runs.get("top_logprobs", TOP_LOGPROBS)
        top = max(recorded, config.top_logprobs or 0)
        return {**self._arguments.runs, "top_logprobs": top}

    def _seed(self, config: GenerateConfig, runs: SampleRuns, repetition: int) -> int | None:
        if not self._arguments.sample_seeds:
            given: int | None = config.seed
            return given
        return sample_seed(config.seed, runs.sample, repetition)

    def _logprobs(self, config: GenerateConfig, completion: Completion) -> Logprobs | None:
        if not config.logprobs and config.top_logprobs is None:
            return None
        top = config.top_logprobs or 0
        shown = min((len(each.top_ids) for each in completion.tokens), default=top)
        if shown < top:
            raise PromptError(
                f"top_logprobs is {top}, but the sample's run records {shown}: give "
                f"-M top_logprobs={top}"
            )
        return self._open.model.logprobs.write(completion.tokens, completion.pieces, top=top)

    async def count_text_tokens(self, text: str) -> int:
        """Return how many tokens a text has, by the model's own tokenizer."""
        return len(await self.tokenize(text))

    async def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        tokenizer = self._open.model.logprobs.tokenizer
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    def max_tokens(self) -> int:
        """Return the most tokens of a reply if the evaluation does not say."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Return how many replies are generated at once."""
        return self._arguments.batch_size

    def close(self) -> None:
        """End the runs and close the store."""
        self._open.close()

    async def aclose(self) -> None:
        """Do as `close`, without blocking the event loop."""
        await anyio.to_thread.run_sync(self.close)
