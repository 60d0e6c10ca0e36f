"""The candidate's model, asked: `python -P -m autoexp.model.examinee DESCRIPTOR`, in the folder of its program.

The judge (judge.py) starts it, and only its child runs the candidate's code. It is sent token ids and gives logits; it
is sent no target, and has no file of the data. Requests are lines of JSON through the socket that is
stdin, answers lines on stdout, ids and logits lie in the memory behind DESCRIPTOR, or logits on a GPU, in memory whose
descriptor comes with "build":

    {"do": "import", "program": "train.py"}             {"said": "ready"}
    {"do": "build", "rows": 64, ...}                    {"said": "built"}
    {"do": "load"}, and the checkpoint                  {"said": "loaded"}
    {"do": "answer", "rows": 64, "number": 7}           {"said": "done", "number": 7}

Where something goes wrong it says {"said": "failed", "reason": "..."} and ends. Nothing that is done here is believed:
the code that runs here may do all of it differently.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from autoexp.model.contract import BUILDER, HEAD_DIM, MODEL, MODULE
from autoexp.model.sharing import Sheet, borrow

NO_SHARING = "this GPU's memory cannot be shared"


def main(argv: list[str]) -> int:
    """Answer requests until there are no more. Returns the exit code."""
    descriptor = int(argv[1])
    answers = os.dup(1)  # what the candidate prints goes where its errors go
    os.dup2(2, 1)
    requests = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def say(said: str, **fields: Any) -> None:
        os.write(answers, json.dumps({"said": said, **fields}).encode() + b"\n")

    try:
        model: Asked | None = None
        program: ModuleType | None = None
        for request, files in received(requests):
            if request["do"] == "import":
                program = load_program(Path(request["program"]))
                say("ready")
            elif request["do"] == "build":
                assert program is not None
                model = Asked(program, request, descriptor, files)
                say("built")
            elif request["do"] == "load":
                assert model is not None
                model.load(files[0])
                say("loaded")
            else:
                assert model is not None
                model.answer(request["rows"])
                say("done", number=request["number"])
    except BaseException as error:  # the candidate's exit is a failure too
        import traceback

        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        say("failed", reason=f"{type(error).__name__}: {first}"[:500])
        return 1
    return 0


def received(requests: socket.socket) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """The requests, each with the files that came along."""
    text, files = b"", list[int]()
    while True:
        while b"\n" not in text:
            part, came, _, _ = socket.recv_fds(requests, 1 << 16, 2)
            if not part:
                return
            text, files = text + part, [*files, *came]
        line, _, text = text.partition(b"\n")
        yield json.loads(line), files
        files = []


def load_program(path: Path) -> ModuleType:
    """Import the program as a module of its own: its `main` is not run."""
    from autoexp.model.standby import compiles, prepare

    prepare(compiles(os.environ))
    path = path.absolute()
    sys.path.insert(0, str(path.parent))  # what lies beside it is found, as when it is run
    sys.argv[:] = [str(path)]
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


def build(program: ModuleType, vocab: int, tokens: int, dtype: Any) -> Any:
    """The program's model, with weights that are to be replaced."""
    if hasattr(program, BUILDER):
        return getattr(program, BUILDER)(vocab, tokens, dtype)
    model = getattr(program, MODEL)(vocab, tokens)
    if hasattr(model, "init_weights"):
        import torch

        model.init_weights(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    return model


class Asked:
    """The candidate's model, ready to be asked once it has its weights."""

    def __init__(self, program: ModuleType, request: Mapping[str, Any], descriptor: int, lent: list[int]) -> None:
        """`lent`: where logits are to lie on a GPU, the descriptor of that memory."""

        from autoexp.model import attention
        from autoexp.model.compiling import compile_regions, use_caches
        from autoexp.model.devices import open_device
        from autoexp.model.kernels import available
        from autoexp.model.prepared import cache_folder

        rows, self.tokens, self.vocab = request["rows"], request["tokens"], request["vocab"]
        threads = {"AUTOEXP_THREADS": str(request["threads"])} if request["threads"] else {}
        self.device = open_device({**os.environ, "AUTOEXP_DEVICE": request["device"], **threads})
        place = self.device.torch_device
        self.sheet = Sheet(descriptor, rows, self.tokens, self.vocab, logits=not lent)
        try:
            self.lent = borrow(lent[0], (rows, self.tokens, self.vocab)) if lent else None
        except OSError as error:
            raise OSError(f"{NO_SHARING}: {error}") from error
        if self.device.compiles:
            use_caches(cache_folder(os.environ) / "compiled")
        with place:
            model = build(program, self.vocab, self.tokens, self.device.dtype)
        model.to(place)
        model.eval()
        available.settle(place, self.device.compiles)
        attention.prepare(
            self.tokens,
            getattr(model, "windows", ()),
            place,
            self.device.compiles,
            dtype=self.device.dtype,
            head_dim=getattr(program, HEAD_DIM, 128),
        )
        self.model = model
        if self.device.compiles:
            compile_regions(model)
            self._logits(rows)  # which compiles it

    def load(self, file: int) -> None:
        """Give it the weights of a checkpoint."""
        import torch

        with os.fdopen(file, "rb") as checkpoint:
            stored = torch.load(checkpoint, map_location=self.device.torch_device, weights_only=True)
        self.model.load_state_dict(stored["model"])

    def answer(self, rows: int) -> None:
        """Put the logits of the first `rows` rows of ids where the judge reads them."""
        import torch

        logits = self._logits(rows)
        wanted = (rows, self.tokens, self.vocab)
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"logits(ids) gave {shape}, where {wanted} was asked for")
        target = torch.from_numpy(self.sheet.logits) if self.lent is None else self.lent
        target[:rows].copy_(logits)
        self.device.synchronize()

    def _logits(self, rows: int) -> Any:
        import torch

        ids = torch.from_numpy(self.sheet.ids[:rows].copy()).to(self.device.torch_device)
        with torch.no_grad(), self.device.autocast():
            return self.model.logits(ids)


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stderr.flush()
    os._exit(code)  # nothing of the candidate's is waited for
