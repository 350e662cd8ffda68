"""Which exceptions are a mistake in the user's config or data, and which are a bug.

Checks raise ValueError on purpose, and so do constructors. A TypeError or a KeyError is a bug, of
this package or of a plug-in, unless mmengine's registry raises it: then a config names an argument
or a class that does not exist.
"""

import errno
import inspect
import io
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from mmengine import hooks
from mmengine.registry import build_functions

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.sample_errors import SampleError, short_message
from cropr_mm.registry import find_class, known_names

_PACKAGE = Path(__file__).parents[1]
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|size calculation overflowed")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_REGISTRY = Path(build_functions.__file__)
_HOOKS = Path(hooks.__file__).parent
_PREPROCESSOR = "data_preprocessor.py"
# Constructors that get settings of a config as they are.
_SETTINGS = re.compile(
    r"(DataLoader|MaskQueries|BaseStrategy|FullyShardedDataParallel)\.__init__\(\) "
    r"(got an unexpected keyword argument|missing \d)"
)
_RUNNING = {
    r"DataLoader worker \(pid.*": (
        "a process that loads data ended; is the memory, or /dev/shm, too small for num_workers? "
        "num_workers=0 shows other causes"
    ),
    r"stack expects each tensor to be equal size.*": (
        "images of one batch differ in size: expected a pipeline that gives all of them one, as "
        "Resize and crops do"
    ),
}


@contextmanager
def building_errors() -> Iterator[None]:
    """Take what constructors and the registry raise on purpose for a mistake in the config.

    Raises:
        SetupError: In the place of ValueError and AssertionError, of an ImportError (of a package
            that only some settings need), of a TypeError or KeyError of the registry, of a KeyError
            that is raised by name and of an argument that data loaders, strategies and mask queries
            do not take or miss, and of a RuntimeError for want of memory; others pass.
    """
    try:
        yield
    except (ValueError, AssertionError, ImportError) as error:
        raise _setup_error(error) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise SetupError(f"the model of this config is too large: {error}") from error
    except (TypeError, KeyError) as error:
        if not is_of_registry(error) and not _is_on_purpose(error):
            raise
        raise _setup_error(error) from error


@contextmanager
def running_errors() -> Iterator[None]:
    """Take what shows only while a loop runs for a mistake in the data.

    Such are images of a size that does not fit the patches or the schedule, which no config tells,
    or not each other, files that cannot be loaded, and processes that loaded data and ended. Hooks
    of mmengine look at their settings only then, too.

    Raises:
        SetupError: In the place of a ValueError of this package, of an AssertionError of a hook of
            mmengine, of these errors, and of images with more channels than numbers to normalize
            them; others pass.
    """
    try:
        yield
    except SampleError as error:
        raise SetupError(short_message(error)) from error
    except (SetupError, CheckpointError):
        raise
    except ValueError as error:
        if not Path(_place(error).filename).is_relative_to(_PACKAGE):
            raise
        raise _setup_error(error) from error
    except AssertionError as error:
        file = Path(_place(error).filename)
        if file.name == _PREPROCESSOR:
            raise _channels_error(error) from error
        if file.parent != _HOOKS:
            raise
        raise _setup_error(error) from error
    except RuntimeError as error:
        for pattern, meaning in _RUNNING.items():
            if found := re.search(pattern, str(error)):
                raise SetupError(f"{meaning} ({found[0]})") from error
        if Path(_place(error).filename).name != _PREPROCESSOR or is_out_of_memory(error):
            raise
        raise _channels_error(error) from error
    except KeyError as error:
        if Path(_place(error).filename).name != _PREPROCESSOR:
            raise
        raise SetupError(
            f"batches have no {error}: expected pipelines that end in PackDetInputs, "
            "PackSegInputs or PackInputs"
        ) from error


def _channels_error(error: BaseException) -> SetupError:
    """Images and the numbers that normalize them differ in channels."""
    return SetupError(
        "images do not fit mean and std of model.data_preprocessor: expected as many channels; "
        f"color_type='color' of LoadImageFromFile makes three ({message_of(error)})"
    )


def is_of_registry(error: BaseException) -> bool:
    """Whether mmengine's registry raised it, for an unknown class or argument in a config."""
    return Path(_place(error).filename) == _REGISTRY


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised it for want of memory, or for a size that no memory holds."""
    return bool(_OUT_OF_MEMORY.search(str(error)))


def with_file(error: OSError) -> OSError:
    """The same error with the name of its file, which those of a full disk lack.

    It is that of the file that is open where the error was raised.
    """
    if error.filename is not None or error.errno not in _NO_ROOM:
        return error
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for value in frame.f_locals.values():
            name = getattr(value, "name", None)
            if isinstance(value, io.IOBase) and isinstance(name, str):
                return OSError(error.errno, error.strerror, name)
    return error


def message_of(error: BaseException) -> str:
    """What an exception says, with the nearest known name where the registry knows none.

    A failed assertion without a message shows its condition.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    # mmengine's registries go on about what can be read elsewhere.
    short = str(text).partition(" Please check whether the value of")[0]
    if not short:
        return f"the condition '{_place(error).line}' does not hold"
    return short + (_known_instead(short) if is_of_registry(error) else "")


def _known_instead(text: str) -> str:
    """What is known, for a type or an argument of one of our classes that does not exist."""
    unknown = re.match(r"'?(?:\w+\.)?(\w+)'? is not in the", text)
    if unknown is not None:
        near = get_close_matches(unknown[1], known_names(), n=1)
        return f" The nearest name of this package is cropr_mm.{near[0]}." if near else ""
    option = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument", text)
    if option is not None and option[1] in known_names():
        options = [n for n in inspect.signature(find_class(option[1])).parameters if n != "self"]
        return f"; {option[1]} takes {', '.join(options)}"
    return ""


def _is_on_purpose(error: BaseException) -> bool:
    """Whether a constructor refuses what it is given, in kinds of errors that are bugs else."""
    if isinstance(error, KeyError):
        return (_place(error).line or "").startswith("raise KeyError")
    return _SETTINGS.match(str(error)) is not None


def _setup_error(error: BaseException) -> SetupError:
    if isinstance(error, SetupError):
        return error
    if is_of_registry(error):
        return SetupError(message_of(error))
    place = _place(error)
    return SetupError(f"{message_of(error)} (raised in {place.filename}:{place.lineno})")


def _place(error: BaseException) -> traceback.FrameSummary:
    """Where it was raised."""
    return traceback.extract_tb(error.__traceback__)[-1]
