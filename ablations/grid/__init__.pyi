from .grid import Cell as Cell, Grid as Grid, Job as Job, read_grid as read_grid
from .gridfile import GridError as GridError
