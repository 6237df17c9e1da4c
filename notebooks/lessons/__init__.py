"""What stands behind the lessons: their sources, checks, solutions and helpers.

In: `src/NN_name.py`. Out: `../NN_name.ipynb` with what each cell shows. Read `make_notebooks.py`
first.
"""
