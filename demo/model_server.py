"""A real language model in a process of its own, OpenAI-compatible: llama.cpp's server, from the ``xllamacpp`` wheel.

    python model_server.py --model FILE.gguf --port 8091 --name smollm2-135m

One thread computes: on small machines two busy threads are several times slower than one. The process ends with
SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True, help="what requests call it")
    parser.add_argument(
        "--cap", type=int, default=-1, help="tokens of an answer when a request does not say (-1: no limit)"
    )
    parser.add_argument("--slots", type=int, default=4, help="requests at one time")
    parser.add_argument("--context", type=int, default=1024, help="tokens per slot")
    chosen = parser.parse_args(arguments)

    os.environ["OMP_WAIT_POLICY"] = "passive"  # read once, when the library below is loaded
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(chosen.model)
    params.model_alias = {chosen.name}
    params.hostnames = ["127.0.0.1"]
    params.port = chosen.port
    params.n_parallel = chosen.slots
    params.n_ctx = chosen.context * chosen.slots
    params.n_predict = chosen.cap
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 4
    params.cache_ram_mib = 0  # prompts are short; the host-side cache would only grow
    params.ui = False
    params.verbosity = 1
    try:
        server = xllamacpp.Server(params)
    except Exception as error:  # the binding raises bare RuntimeErrors
        print(f"{chosen.model} could not be loaded as a GGUF language model: {error}", file=sys.stderr)
        return 1
    print(f"serving {chosen.name} at {server.listening_address}", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
