"""A trainer's process that begins before its job is known: `python -P -m autoexp.model.standby`

It imports what a train.py will want and what does not depend on it, touches no GPU, says `ready` on stdout and waits on
stdin for one line of JSON:

    {"argv": ["python", "train.py"], "cwd": "...", "env": {"NAME": "value", "OTHER": null}, "log": "...", "since": 1.5}

It answers `taken` and is from then on what `python train.py` would be, started at `since` by time.monotonic(): its
directory, its output, its arguments, its exit code and its traceback. Where it cannot be that it ends without the
word, and nothing of the script has run. When stdin is closed before the line it ends too.
"""

from __future__ import annotations

import builtins
import gc
import json
import os
import re
import sys
import time
import types
from collections.abc import Mapping
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from autoexp.model.profiles import driver_in_sight

DECLINED = 3  # the exit code when the job was not taken
MARGIN_SECONDS = 1.0  # file systems stamp by a clock that is behind time.time()

# What the first compiled step would import. A release of torch that has no such module does without.
COMPILER = (
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch._inductor.async_compile",
    "torch._inductor.compiler_bisector",
    "torch._inductor.hooks",
    "torch._dynamo.dce_extra_outputs",
    "torch._export.db",
    "torch._higher_order_ops.passes",
    "torch._subclasses.schema_check_mode",
    "torch.export._trace",
    "torch.export._unlift",
    "torch.utils.cpp_extension",
)
# Of a script that prepares its environment before it imports torch: too late where torch is there already.
SETS_ENVIRONMENT = re.compile(
    rb"environ\s*(?:\[[^\]]*\]\s*=[^=]|\.(?:update|setdefault|pop|popitem|clear)\b|\|=)"
    rb"|\b(?:put|unset)env\b|\bdel\s+(?:os\s*\.\s*)?environ"
)


def main() -> int | None:
    """Wait for a job and be its trainer. Returns the exit code when there was none, or it was not taken."""
    began = time.time()
    answers = os.dup(1)  # not passed on to anybody
    _redirect(os.devnull, os.O_WRONLY, 1)
    prepare(compiles(os.environ))
    os.write(answers, b"ready\n")
    line = _line()
    if not line:
        return 0
    try:
        job = json.loads(line)
        code, path = _become(job, began)
        os.write(answers, b"taken\n")  # fails when nobody listens: a trainer without a keeper must not run
        os.close(answers)
    except (OSError, ValueError, SyntaxError) as error:  # the script may be wrong: python itself says that best
        print(f"not taken: {error}", file=sys.__stderr__)
        return DECLINED
    _run(code, path)
    return None


def compiles(environ: Mapping[str, str]) -> bool:
    """Whether a training here is likely to be compiled, as far as can be told without touching a device."""
    return (
        environ.get("AUTOEXP_DEVICE", "").partition(":")[0] not in ("cpu", "mps")
        and environ.get("AUTOEXP_COMPILE", "1") != "0"
        and environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1")
        and driver_in_sight()
    )


def prepare(compiled: bool) -> None:
    """Import what a training wants; `compiled`, also what compiles it and its attention."""
    gc.disable()  # a million objects come, and are there to stay: to look through them finds nothing
    _prepare(compiled)
    gc.freeze()
    gc.enable()


def _prepare(compiled: bool) -> None:
    import_module("autoexp.model.trial")
    import_module("autoexp.model.kernels")
    if not compiled:
        return
    # Some releases start their pool of compiling processes when this is imported; they are to start in a training.
    warm = os.environ.get("TORCH_WARM_POOL")
    os.environ["TORCH_WARM_POOL"] = "0"
    for name in COMPILER:
        _import(name)
    if warm is None:
        del os.environ["TORCH_WARM_POOL"]
    else:
        os.environ["TORCH_WARM_POOL"] = warm
    from autoexp.model.attention.ahead import import_ahead

    import_ahead(os.environ)
    for name in ("cross_entropy", "heads", "mlp"):
        _import(f"autoexp.model.kernels.triton_{name}")


def _import(name: str) -> None:
    try:
        import_module(name)
    except Exception as error:  # what is broken here breaks, or does not, where it is used
        print(f"{name} is left out: {error}", file=sys.__stderr__)


def _line() -> bytes:
    """The line on stdin; nothing when it ends before that. Read without a buffer: stdin is the script's later."""
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            return b""
        text += part
    return text


def _become(job: Mapping[str, Any], began: float) -> tuple[types.CodeType, str]:
    """Take on all of `python script.py` but its run: (the script's code, its path).

    Raises OSError, ValueError or SyntaxError when this process cannot be what a new one would be.
    """
    if changed := changed_since(began - MARGIN_SECONDS):
        raise ValueError(f"{changed} is another one than was imported")
    os.chdir(job["cwd"])
    script = job["argv"][1]
    path = os.path.abspath(script)  # noqa: PTH100 - as python does it: links stay
    source = Path(path).read_bytes()
    if SETS_ENVIRONMENT.search(source):
        raise ValueError(f"{script} sets its environment")
    code = compile(source, path, "exec", dont_inherit=True)
    for name, value in job["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.environ[import_module("autoexp.model.clock").HANDED_OVER] = f"{os.getpid()}:{job['since']}"
    sys.argv[:] = job["argv"][1:]
    sys.orig_argv[:] = job["argv"]  # what memory.py starts again with
    if not os.environ.get("PYTHONSAFEPATH"):
        sys.path.insert(0, str(Path(path).resolve().parent))
    sys.stdout.flush()
    _redirect(os.devnull, os.O_RDONLY, 0)
    _redirect(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 1)
    sys.stderr.flush()
    os.dup2(1, 2)
    return code, path


def changed_since(moment: float) -> str | None:
    """A file of an imported module that was written, replaced or removed since: an upgrade, say. By its inode's time,
    which no installer sets.
    """
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and os.path.isabs(file):  # noqa: PTH117 - thousands of them
            try:
                if os.stat(file).st_ctime >= moment:  # noqa: PTH116
                    return file
            except OSError:
                return file
    return None


def _redirect(path: str, flags: int, descriptor: int) -> None:
    opened = os.open(path, flags, 0o666)
    os.dup2(opened, descriptor)
    os.close(opened)


def _run(code: types.CodeType, path: str) -> None:
    """Run the script as `__main__`. What it raises goes on, and is shown as if this file had no part in it."""
    module = types.ModuleType("__main__")
    loader = SourceFileLoader("__main__", path)
    vars(module).update(__file__=path, __builtins__=builtins, __loader__=loader, __cached__=None, __annotations__={})
    sys.modules["__main__"] = module
    try:
        exec(code, vars(module))
    except BaseException:
        show = sys.excepthook  # perhaps the script's own

        def shown(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
            while trace is not None and trace.tb_frame.f_code is not code:
                trace = trace.tb_next
            show(kind, error.with_traceback(trace), trace)

        sys.excepthook = shown
        raise


if __name__ == "__main__":
    raise SystemExit(main())
