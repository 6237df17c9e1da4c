from .checkpoint import (
    inflate as inflate,
    load as load,
    load_released as load_released,
    save as save,
)
from .config import PosMLPConfig as PosMLPConfig, TrainConfig as TrainConfig
from .gates.registry import GATES as GATES
from .gating import PositionalGatingUnit as PositionalGatingUnit
from .model import PosMLP as PosMLP, PosMLPVideo as PosMLPVideo, create_model as create_model
from .positions import relative_position_index as relative_position_index
from .presets import PRESET_SOURCES as PRESET_SOURCES, PRESETS as PRESETS
from .train.fitting import fit as fit
from .train.scoring import evaluate as evaluate

__version__: str
