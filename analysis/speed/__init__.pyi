from .speed import MODES as MODES, PHASES as PHASES, measure_speed as measure_speed
