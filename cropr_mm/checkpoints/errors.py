"""What is raised where a checkpoint is at fault."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; its message needs no traceback."""
