"""llama.cpp: prompts decoded at once by its server, in this process.

`python -m benchmarks.rivals.llama_server TASK FOLDER`, in an environment with xllamacpp.
"""

import json
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xllamacpp

_CONTEXT_TOKENS = 512


def serve(task: dict[str, Any]) -> Any:
    """Load the model, with a slot for each prompt."""
    count = len(task["prompts"])
    longest = max(len(each) for each in task["prompts"]) + task["new_tokens"]
    settings = xllamacpp.CommonParams()
    settings.model.path = task["model"]
    settings.n_parallel = count
    settings.n_ctx = count * max(_CONTEXT_TOKENS, longest + 8)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = task["threads"]
    settings.n_gpu_layers = 0
    settings.cache_prompt = settings.fit_params = False
    settings.verbosity = -1
    return xllamacpp.Server(settings)


def decode(server: Any, task: dict[str, Any], new_tokens: int) -> dict[str, Any]:
    """Decode all prompts at once; return when each token came, in seconds from the start."""
    times: list[list[float]] = [[] for _ in task["prompts"]]
    began = time.perf_counter()

    def run(index: int) -> None:
        request = {
            "prompt": task["prompts"][index],
            "n_predict": new_tokens,
            "ignore_eos": True,
            "temperature": task["temperature"],
            "top_p": task["top_p"],
            "top_k": 0,
            "min_p": 0.0,
            "seed": task["seeds"][index],
            "cache_prompt": False,
            "stream": True,
        }
        server.handle_completions(request, lambda chunk: _stamp(times[index], began))

    threads = [threading.Thread(target=run, args=(each,)) for each in range(len(times))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The last message of a stream has no token.
    at_s = [each[:new_tokens] for each in times]
    return {"seconds": time.perf_counter() - began, "at_s": at_s}


def _stamp(times: list[float], began: float) -> bool:
    """Note that a token came; a true answer would end the stream."""
    times.append(time.perf_counter() - began)
    return False


def main() -> None:
    path, folder = sys.argv[1:]
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    server = serve(task)
    decode(server, task | {"prompts": [each[:8] for each in task["prompts"]]}, 2)
    result = decode(server, task, task["new_tokens"]) | {"version": version("xllamacpp")}
    (Path(folder) / "results.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
