"""The error of a file, image or package that does not fit an exported model."""


class ExportError(ValueError):
    """What was expected and what came; its message needs no traceback."""
