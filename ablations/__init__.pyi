from .grid.grid import Cell as Cell, Grid as Grid, read_grid as read_grid
from .grid.gridfile import GridError as GridError
from .plan.planned import plan as plan
from .report.compare import compare as compare
from .run import run as run
from .store.table import load as load
