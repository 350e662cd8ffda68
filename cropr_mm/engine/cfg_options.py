"""The option ``--cfg-options``."""

from argparse import ArgumentParser, Namespace
from typing import Any

from mmengine.config import DictAction


def add_cfg_options(parser: ArgumentParser, example: str) -> None:
    """Let a program take ``--cfg-options``, a dict of values by dotted key; None if not given.

    Args:
        parser: Parser of the program.
        example: A KEY=VALUE pair for its help.
    """
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help=f"replace config entries, one key at a time, such as {example}",
    )


class ConfigOptions(DictAction):
    """mmengine's action for KEY=VALUE pairs, which ends the program where it cannot read one."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Put the pairs into the namespace, or end the program."""
        for value in values:
            if "=" not in value:
                parser.error(f"{option_string} expects KEY=VALUE, got {value}")
            key, _, content = value.partition("=")
            if content.startswith(("{", "dict(")):  # which mmengine takes for a text or a list
                parser.error(
                    f"{option_string} expects one value a key, such as {key}.type=..., got {value}"
                )
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError):  # brackets that it cannot read
            parser.error(f"{option_string} cannot read {' '.join(values)}")
