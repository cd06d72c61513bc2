"""The code that goes into checkpoints with test-time registers, and the same classes for transformers here.

Every file in this folder but this one stands alone: it is copied as it is.
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
AUTOS = ("AutoModel", "AutoModelForImageClassification")


class Family(NamedTuple):
    """A stock model type and the classes that give it registers."""

    model_type: str
    stem: str

    @property
    def module(self) -> str:
        return f"modeling_registers_{self.model_type}"

    @property
    def auto_map(self) -> dict[str, str]:
        """What config.json says of where the classes are."""
        names = {
            "AutoConfig": "Config",
            "AutoModel": "Model",
            "AutoModelForImageClassification": "ForImageClassification",
        }
        return {auto: f"{self.module}.Registers{self.stem}{name}" for auto, name in names.items()}

    def classes(self) -> dict[str, type]:
        """Name of the auto class → the class it loads."""
        module = import_module(f"{__name__}.{self.module}")
        return {auto: getattr(module, name.partition(".")[2]) for auto, name in self.auto_map.items()}

    @property
    def files(self) -> list[Path]:
        """What a checkpoint needs of this folder."""
        return [FOLDER / f"{name}.py" for name in ("register_model", self.module)]


FAMILIES = {family.model_type: family for family in (Family("dinov2", "Dinov2"), Family("vit", "ViT"))}


def register() -> None:
    """Make transformers' auto classes load these checkpoints without code of their own."""
    import transformers

    for family in FAMILIES.values():
        classes = family.classes()
        config_class = classes["AutoConfig"]
        transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        config_class.register_for_auto_class()  # so that a model saved again takes its code along
        for auto in AUTOS:
            getattr(transformers, auto).register(config_class, classes[auto], exist_ok=True)
            classes[auto].register_for_auto_class(auto)
