"""Several processes that torchrun has started: joining them, and one message if one of them fails."""

import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist

from utils import UserError

GONE = "another process of this run has ended; what was saved last stands, go on with the same command and --resume"


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes of torchrun (`--nproc_per_node`), if it has started this one. The first alone speaks.

    A process that fails ends the run, and one of them says why.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world == 1:
        yield
        return
    warnings.filterwarnings("ignore", message=".*broadcast_buffers")  # its new name is too new
    with contextlib.ExitStack() as stack, open(os.devnull, "w") as nowhere:
        if rank:  # Ctrl-C comes to all; the first one saves and stops the others
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield
            gc.collect()  # DDP, or its threads would outlive the interpreter
            dist.destroy_process_group()
        except (UserError, RuntimeError) as error:
            if not isinstance(error, UserError | dist.DistError) and "gloo" not in str(error):
                raise
            store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            if store.add("failures", 1) == 1:
                print(f"error: {error if isinstance(error, UserError) else GONE}", file=sys.__stderr__, flush=True)
            sys.stdout.flush()
            os._exit(2)  # without waiting for the others
