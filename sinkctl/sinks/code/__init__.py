"""The code that goes into checkpoints no stock class can hold, and the same classes for transformers here.

Every file in this folder but this one stands alone: it is copied as it is.
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
SHARED = ("sink_weights", "sink_attention", "sink_model")


class Family(NamedTuple):
    """A stock model type and the classes that give it a sink."""

    model_type: str
    stem: str  # of Sink<stem>Config, Sink<stem>Model and Sink<stem>ForCausalLM

    @property
    def module(self) -> str:
        return f"modeling_sink_{self.model_type}"

    def classes(self) -> dict[str, type]:
        """Name of the auto class → the class it loads."""
        module = import_module(f"{__name__}.{self.module}")
        return {auto: getattr(module, name.partition(".")[2]) for auto, name in self.auto_map.items()}

    @property
    def auto_map(self) -> dict[str, str]:
        """What config.json says of where the classes are."""
        return {
            "AutoConfig": f"{self.module}.Sink{self.stem}Config",
            "AutoModel": f"{self.module}.Sink{self.stem}Model",
            "AutoModelForCausalLM": f"{self.module}.Sink{self.stem}ForCausalLM",
        }

    @property
    def files(self) -> list[Path]:
        """What a checkpoint needs of this folder."""
        return [FOLDER / f"{name}.py" for name in (*SHARED, self.module)]


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "Llama"),
        Family("mistral", "Mistral"),
        Family("qwen2", "Qwen2"),
        Family("qwen3", "Qwen3"),
        Family("gemma2", "Gemma2"),
        Family("gemma3_text", "Gemma3"),
        Family("gpt_neox", "GPTNeoX"),
    )
}


def register() -> None:
    """Make transformers' auto classes load these checkpoints without code of their own."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    for family in FAMILIES.values():
        classes = family.classes()
        config_class = classes["AutoConfig"]
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        config_class.register_for_auto_class()  # so that a model saved again takes its code along
        for auto in (AutoModel, AutoModelForCausalLM):
            auto.register(config_class, classes[auto.__name__], exist_ok=True)
            classes[auto.__name__].register_for_auto_class(auto.__name__)
