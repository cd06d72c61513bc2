"""ViT with test-time registers; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import ViTConfig, ViTForImageClassification, ViTModel

from .register_model import RegisterModel


class RegistersViTConfig(ViTConfig):
    model_type = "registers_vit"


class RegistersViTModel(RegisterModel, ViTModel):
    config_class = RegistersViTConfig


class RegistersViTForImageClassification(RegisterModel, ViTForImageClassification):
    config_class = RegistersViTConfig
