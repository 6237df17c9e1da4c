from .batches import normalise as normalise
from .fitting import TrainConfig as TrainConfig, fit as fit, usable_device as usable_device
from .optimisation import Optimiser as Optimiser, learning_rate as learning_rate
from .scoring import evaluate as evaluate, metrics as metrics, predict as predict, score as score
