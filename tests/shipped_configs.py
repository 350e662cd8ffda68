"""Find the configs that ship with the project by their names."""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"


def config_file(name: str) -> Path:
    """The one config called ``name`` (without ``.py``), whatever folder it is in."""
    (found,) = CONFIGS.rglob(f"{name}.py")
    return found
