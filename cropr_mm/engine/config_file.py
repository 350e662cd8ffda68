"""Read a config file, and say in which file and line a mistake is.

mmengine runs a config as text without its name, and follows ``_base_`` until the stack ends.
"""

import ast
import traceback
from pathlib import Path

from mmengine.config import Config

from cropr_mm.engine.preflight.errors import SetupError

_SUFFIXES = (".py", ".json", ".yaml", ".yml")


def read_config(path: str) -> Config:
    """The config of a file, once its ``custom_imports`` are imported.

    Raises:
        SetupError: If the file, or one that it inherits from, is no config, names itself as its
            base, or fails while it is run.
    """
    if Path(path).suffix not in _SUFFIXES:
        raise SetupError(f"expected a config file with suffix {', '.join(_SUFFIXES)}, got {path}")
    _check_bases(Path(path).absolute(), ())
    try:
        return Config.fromfile(path)
    except ImportError as error:
        if "custom modules" not in str(error):
            raise _failed(path, error) from error
        # mmengine wraps what happened twice and lists every folder of sys.path.
        cause: BaseException = error
        while isinstance(deeper := cause.__cause__ or cause.__context__, ImportError):
            cause = deeper
        raise SetupError(
            f"{path}: {cause}; modules named in custom_imports are looked for in the folders of "
            "PYTHONPATH"
        ) from error
    except Exception as error:  # a config is a program, and fails in any way
        raise _failed(path, error) from error


def _check_bases(file: Path, children: tuple[Path, ...]) -> None:
    """Raise SetupError if a file is among those that inherit from it, or a base is missing."""
    if file in children:
        circle = [*children[children.index(file) :], file]
        raise SetupError(f"_base_ goes in a circle: {' -> '.join(map(str, circle))}")
    if not file.is_file():
        raise SetupError(f"{children[-1]}: expected the config of _base_, found none at {file}")
    for base in _bases(file):
        if _is_plain(base):
            _check_bases((file.parent / base).resolve(), (*children, file))


def _bases(file: Path) -> list[str]:
    """Paths that a config written in Python names in ``_base_``."""
    try:
        statements = ast.parse(file.read_bytes()).body if file.suffix == ".py" else []
    except (SyntaxError, ValueError):  # mmengine knows some forms that Python does not
        return []
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id="_base_")], value=value):
                try:
                    names = ast.literal_eval(value)
                except ValueError:  # computed
                    return []
                return [names] if isinstance(names, str) else list(names)
    return []


def _is_plain(base: str) -> bool:
    """Whether it is a path: neither a config of a host library nor with mmengine's variables."""
    return "::" not in base and "{{" not in base


def _failed(path: str, error: Exception) -> SetupError:
    """What to say of a config that cannot be read: where, and why."""
    frames = traceback.extract_tb(error.__traceback__)
    ran = next((f"{f.filename}, line {f.lineno}" for f in frames if f.name == "<module>"), None)
    unread = _place_of_syntax_error(Path(path).absolute())
    if isinstance(error, SyntaxError):
        return SetupError(f"{unread or ran or path}: {error.msg}")
    text = " ".join(str(error).split())
    return SetupError(f"{ran or unread or path}: {type(error).__name__}: {text}")


def _place_of_syntax_error(file: Path) -> str | None:
    """File and line of the first mistake in a config written in Python, or in one of its bases."""
    if file.suffix != ".py":
        return None
    try:
        ast.parse(file.read_bytes())
    except SyntaxError as error:
        return f"{file}, line {error.lineno}" if error.lineno else str(file)
    except ValueError:  # of null bytes, in some versions of Python
        return str(file)
    places = (_place_of_syntax_error(file.parent / b) for b in _bases(file) if _is_plain(b))
    return next(filter(None, places), None)
