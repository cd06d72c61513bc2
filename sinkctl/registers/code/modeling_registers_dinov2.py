"""DINOv2 with test-time registers; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import Dinov2Config, Dinov2ForImageClassification, Dinov2Model

from .register_model import RegisterModel


class RegistersDinov2Config(Dinov2Config):
    model_type = "registers_dinov2"


class RegistersDinov2Model(RegisterModel, Dinov2Model):
    config_class = RegistersDinov2Config


class RegistersDinov2ForImageClassification(RegisterModel, Dinov2ForImageClassification):
    config_class = RegistersDinov2Config
