"""The settings by which VIBE's features are learnt without labels: views of images and self-supervision."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Ge, Interval

from raybd.pretraining import PretrainConfig, Views, default_views
from raybd.utils.constraints import NonNegative, Positive, Share

ADDED: dict[str, Any] = {"since": "0.2"}
VIEWS = ("noise", "brightness", "contrast", "rotate", "shear", "translate", "scale", "crop", "flip", "erase")
Size = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Views and self-supervision. A view's setting that is None is that of `default_views` of the images.

    What views leave alone, features keep: a trigger that no view disturbs is learnt like content.
    """

    view_noise: NonNegative | None = field(default=None, metadata=ADDED)  # largest deviation, pixels in [0, 1]
    view_brightness: NonNegative | None = field(default=None, metadata=ADDED)  # b: a factor of 1 - b to 1 + b
    view_contrast: NonNegative | None = field(default=None, metadata=ADDED)  # likewise
    view_rotate: NonNegative | None = field(default=None, metadata=ADDED)  # degrees to either side
    view_shear: Annotated[float, Interval(ge=0, lt=90)] | None = field(default=None, metadata=ADDED)  # likewise
    view_translate: Share | None = field(default=None, metadata=ADDED)  # share of the side, to either side
    view_scale: Annotated[float, Interval(ge=0, lt=1)] | None = field(default=None, metadata=ADDED)  # s: 1 - s to 1 + s
    view_crop: Annotated[float, Interval(gt=0, le=1)] | None = field(default=None, metadata=ADDED)  # least share kept
    view_flip: Share | None = field(default=None, metadata=ADDED)  # probability of a mirror image
    view_erase: Share | None = field(default=None, metadata=ADDED)  # side of a black square over the image's shorter
    pretrain_temperature: Positive = field(default=PretrainConfig.temperature, metadata=ADDED)
    pretrain_hidden: Size = field(default=PretrainConfig.hidden, metadata=ADDED)  # units of the projector
    pretrain_projection: Size = field(default=PretrainConfig.projection, metadata=ADDED)  # its dimensions
    pretrain_batch_size: Annotated[int, Ge(2)] = field(default=PretrainConfig.batch_size, metadata=ADDED)
    pretrain_learning_rate: Positive = field(default=PretrainConfig.learning_rate, metadata=ADDED)  # the peak

    def views(self, shape: tuple[int, int, int]) -> Views | None:
        """The views of images of `shape` (C, H, W); None for the default ones, so that their encoders are shared."""
        given = {name: getattr(self, f"view_{name}") for name in VIEWS}
        found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.view_scale is not None:
            found["scale"] = (1 - self.view_scale, 1 + self.view_scale)
        if self.view_crop is not None:
            found["crop"] = (self.view_crop, 1.0)
        if self.view_erase is not None:
            found["erase"] = round(self.view_erase * min(shape[1:]))
        usual = default_views(shape)
        made = replace(usual, **found)
        return None if made == usual else made

    def pretraining(self, method: Any, epochs: int, shape: tuple[int, int, int]) -> PretrainConfig:
        """How an encoder of images of `shape` is pretrained by `method` for `epochs`."""
        return PretrainConfig(
            method=method,
            epochs=epochs,
            batch_size=self.pretrain_batch_size,
            learning_rate=self.pretrain_learning_rate,
            temperature=self.pretrain_temperature,
            hidden=self.pretrain_hidden,
            projection=self.pretrain_projection,
            views=self.views(shape),
        )
