# %% [markdown]
# # 03 The relative position index
#
# **Question.** A tied relation keeps one number for each offset, in a small table, yet mixes with a
# full N x N matrix. What turns the one into the other, and does it still work when a token has a
# row, a column and a time?
#
# **You will be able to** write the index for any number of axes, read a table entry back as "two
# frames ago, one token to the left", and never mix up the sign again.
#
# You need lesson 02. About 20 minutes; three exercises.

# %%
from lessons import preflight

preflight.check()

# %%
import inspect

import matplotlib.pyplot as plt
import torch

from analysis import BiasExplorer, bias_maps, draw_spatial_bias
from lessons.checks import nb03
from lessons.figures import draw_index
from posmlp import load, relative_position_index

# %% [markdown]
# ## One axis
#
# The convention of this whole project, stated once: **offset = query - key**. The query is the
# output token, the key the input token. Output frame 5 reading input frame 3 has dt = 5 - 3 = +2:
# *a positive dt looks into the past.*
#
# Offsets start at -(w-1), but a table's entries are counted from 0. So the entry of a pair is
#
# `index[m, n] = m - n + (w - 1)`
#
# **Your guess, before you run the next cell:** for w = 4, which number stands in the top right
# corner, where the first frame reads the last one? Which stands all along the main diagonal?

# %%
index = relative_position_index((4,))
fig, ax = plt.subplots(figsize=(3.4, 2.9))
image = ax.imshow(index - 3, vmin=-5, vmax=5)
for m, row in enumerate(index.tolist()):
    for n, entry in enumerate(row):
        ax.text(n, m, entry, ha="center", va="center")
ax.set(xlabel="key (input) frame n", ylabel="query (output) frame m")
ax.set(xticks=range(4), yticks=range(4), title="Each diagonal reads one entry")
fig.colorbar(image, label="dt = m - n")
plt.show()

# %% [markdown]
# **Reading.** 0 in the top right (dt = -3, the future), w - 1 = 3 along the main diagonal (dt = 0,
# the frame itself), and 6 in the lower left (dt = +3, the past).
#
# The rest is a look-up: `table[index]` has the shape of the index, and each diagonal repeats one
# entry.

# %%
table = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])  # entry k holds its own dt
matrix = table[index]
print(matrix)
print(f"{table.numel()} numbers became {matrix.numel()}")

# %% [markdown]
# **Reading.** Filled with its own offsets, the table turns into the matrix of all m - n. A good
# test of any index: the answer is known without trusting the code.
#
# ### Exercise 1: write it in one axis (easy, 5 minutes)
#
# Return the (w, w) index as a tensor. No loop is needed.
#
# <details><summary>Hint</summary>
#
# With `frame = torch.arange(w)`, `frame[:, None]` is a column (queries) and `frame[None, :]` a row
# (keys). A subtraction of the two has shape (w, w). An answer is in `lessons/solutions/nb03.py`.
# </details>


# %% tags=["exercise"]
def index_1d(w: int) -> torch.Tensor:
    raise NotImplementedError


nb03.index_1d(index_1d)

# %% [markdown]
# ## Two axes
#
# Tokens of a picture are numbered row by row. In a window of 3 x 3, token 5 is row 1, column 2.

# %%
coordinates = torch.cartesian_prod(torch.arange(3), torch.arange(3))
print("token  (row, column)")
for token in (0, 1, 3, 5, 8):
    print(f"{token:5}  {tuple(coordinates[token].tolist())}")

# %% [markdown]
# An offset is now a pair (dy, dx), each from -2 to 2: the table is 5 x 5, and flattened it has 25
# entries. *Row-major* again: dy picks a row of the table, dx a place in that row.
#
# **Your guess:** token 1 reads token 3. Is its dx the same as when token 1 reads token 0? And which
# pairs of tokens have the difference of numbers m - n = 1 but **not** the offset (0, 1)?

# %%
offset = coordinates[:, None] - coordinates[None, :]  # (N, N, 2)
for m, n in ((1, 0), (1, 3), (3, 2), (4, 3)):
    print(
        f"token {m} reads token {n}: m - n = {m - n:2}, (dy, dx) = {tuple(offset[m, n].tolist())}"
    )

# %% [markdown]
# **Reading.** Token 3 stands at the start of the second row and token 2 at the end of the first:
# neighbours in number, two columns apart in the picture. This is why a 2-D window is not a 1-D
# window of h * w tokens, and why the 2-D matrix is Toeplitz only block by block.
#
# ### Exercise 2: write it in two axes (medium, 10 minutes)
#
# Return the (N, N) index of a window of `height` x `width` tokens, N = height * width, entries
# counted row-major in (dy, dx). The second case is not square: it finds the classic mistake.
#
# <details><summary>Hint</summary>
#
# Row and column of token i are `i // width` and `i % width`. Make dy and dx as in exercise 1, each
# moved so that it starts at 0. One step of dy skips a whole row of the table: how many dx are
# there?
# </details>


# %% tags=["exercise"]
def index_2d(height: int, width: int) -> torch.Tensor:
    raise NotImplementedError


nb03.index_2d(index_2d)

# %% [markdown]
# ## Any number of axes
#
# **Your guess:** the package serves one, two and three axes. Does it need three functions?

# %%
print(inspect.getsource(relative_position_index))

# %% [markdown]
# **Reading.** A single loop: each further axis multiplies what is there by its number of offsets
# and adds its own. (T,), (H, W) and (T, H, W) are the paper's PoTGU, PoSGU and PoSTGU; the gating
# unit is one class.
#
# Check it as before: fill a table with known offsets, look up, compare with subtraction.

# %%
window = (3, 2, 4)
sides = [torch.arange(-(w - 1), w) for w in window]
table = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 2)  # (L, 3)
looked_up = table[relative_position_index(window)]  # (N, N, 3)
coordinates = torch.cartesian_prod(*map(torch.arange, window))
assert torch.equal(looked_up, coordinates[:, None] - coordinates[None, :])
print(f"{len(coordinates)} tokens, {len(table)} offsets: every pair finds its own (dt, dy, dx)")

# %% [markdown]
# ## How often is each number used?
#
# **Your guess:** in a window of 4 x 4, which offset is read by the most pairs, and which by only
# one?

# %%
used = torch.bincount(relative_position_index((4, 4)).flatten()).view(7, 7)
fig, ax = plt.subplots(figsize=(3.6, 3.1))
image = ax.imshow(used, cmap="viridis", extent=(-3.5, 3.5, 3.5, -3.5))
for dy, row in enumerate(used.tolist(), start=-3):
    for dx, count in enumerate(row, start=-3):
        ax.text(dx, dy, count, ha="center", va="center", color="w" if count < 9 else "k")
ax.set(xlabel="dx", ylabel="dy", title="Far offsets are read by few pairs")
plt.show()

# %% [markdown]
# **Reading.** (0, 0) is read by every token, (3, 3) by a single pair: the corners of a learned
# table rest on little evidence and little effect. Remember it when you read learned maps in lesson
# 07.
#
# ## From a table to pictures, and back
#
# A trained model's tables can be looked at in two ways. First **the table**, in offset coordinates.
#
# **Your guess:** where will the largest weights lie: at the token itself, beside it, or far away?

# %%
model = load("toy-ts")
maps = bias_maps(model).query("stage == 1 and block == 1 and branch == 'S'")
largest = maps.loc[maps.groupby("group").bias.transform(lambda b: b.abs().max()) == maps.bias.abs()]
places = " and ".join(f"({row.dy}, {row.dx})" for row in largest.itertuples())
title = f"Stage 1, trained: the largest weights stand at (dy, dx) = {places}"
draw_spatial_bias(maps, view="by offset", title=title)
plt.show()

# %%
for group, rows in maps.groupby("group"):
    largest = rows.loc[rows.bias.abs().nlargest(3).index].itertuples()
    places = ", ".join(f"({row.dy}, {row.dx}) {row.bias:+.2f}" for row in largest)
    own = rows.query("dy == 0 and dx == 0").bias.item()
    print(f"group {group}: largest at (dy, dx) {places}; the token itself {own:+.2f}")
    assert abs(own) < rows.bias.abs().max() / 2

# %% [markdown]
# **Reading.** Not at the token itself, which stands at the cross-hair: its weight is less than half
# of the largest. (A positive dx reads a token to the left.) Weights nearly as large stand near the
# rim, where few pairs read them.
#
# Now **one row of the matrix**, drawn as the picture that one query token sees.
#
# **Your guess:** the query in the upper left corner of a 4 x 4 window reads 16 entries of this 7 x
# 7 table. Which part of the table are they?

# %%
relation = model.stages[0].blocks[0].steps[0]["S"].gate.relation()[0].detach()
limit = relation.abs().max()
fig, axes = plt.subplots(1, 3, figsize=(7.8, 2.5))
for ax, query in zip(axes, (0, 5, 15), strict=True):
    image = ax.imshow(relation[query].view(4, 4), vmin=-limit, vmax=limit)
    ax.plot(query % 4, query // 4, "k*", markersize=12)
    ax.set(title=f"what token {query} reads", xticks=range(4), yticks=range(4))
fig.colorbar(image, ax=axes, label="mixing weight")
plt.show()

# %% [markdown]
# **Reading.** Each is a 4 x 4 cut-out of the same table, *turned by half a turn*: key = query -
# offset, so moving right over keys moves left over offsets. The corner token 0 has dy <= 0 and dx
# <= 0 alone, so it reads the table's upper left quarter.
#
# ### Exercise 3: read an entry back (medium, 5 minutes)
#
# A paper says "entry 24 is large". Which (dy, dx) is that? Return it for an entry of the flattened
# table of a `height` x `width` window.
#
# <details><summary>Hint</summary>
#
# `divmod(entry, row_length)` gives the row and the column in the table. Then undo the move to 0.
# </details>


# %% tags=["exercise"]
def offset_of(entry: int, height: int, width: int) -> tuple[int, int]:
    raise NotImplementedError


nb03.offset_of(offset_of)

# %% [markdown]
# ## Walk through it
#
# The explorer shows both views at once; first its picture. **Your guess:** where in the table
# stands the weight that the query gives to itself?

# %%
explorer = BiasExplorer(model, view="by offset")
explorer.branch = "S"
explorer.draw()
plt.show()

# %% [markdown]
# **Reading.** Above, the query's row of the matrix as a picture, the query itself marked; below,
# the table, and dashed what the row reads of it. The query's own weight stands in the middle, at
# offset (0, 0). The row lists keys, the table offsets: one is the other turned. (The other view,
# *from the token*, turns the table round; lesson 07 and reports draw tables so.)
#
# Now the explorer itself. Run the cell, click it, move the query with the arrow keys and watch the
# cut-out slide over the table. **Your guess:** the query moves one token to the right. In which
# direction does its cut-out of the table move?

# %%
explorer

# %% [markdown]
# **Reading.** To the right, too: a query further right has more keys on its left, hence larger dx.
#
# ## The figure to remember
#
# **Your guess:** sketch the N x N index of 8 frames, of 4 x 4 tokens, and of 2 frames of 3 x 3,
# each cell coloured by its offset along the last axis. Where are the edges between the blocks?

# %%
titles = ("8 frames: diagonals", "4 x 4: diagonals of blocks", "2 x 3 x 3: blocks of blocks")
fig, axes = plt.subplots(1, 3, figsize=(10, 3.9), width_ratios=[1, 1.1, 1.4])
for ax, title, window in zip(axes, titles, ((8,), (4, 4), (2, 3, 3)), strict=True):
    image = draw_index(window, ax)
    ax.set_title(title)
fig.colorbar(image, ax=axes, label="offset along the last axis", ticks=range(-7, 8), shrink=0.8)
plt.show()

# %% [markdown]
# **Reading.** A colour is an offset along the last axis, and colours run along diagonals. The
# numbers in a block are its offsets along the other axes, dy or (dt, dy): blocks with the same
# numbers read the same entries of the table, and they, too, lie along diagonals.
#
# ## What to remember
#
# - offset = query - key; a positive dt looks into the past.
# - index = row-major position of (dt, dy, dx) in the (2t-1) x (2h-1) x (2w-1) table; the matrix is
#   `table[index]`.
# - 1-D: diagonals. 2-D: diagonals of blocks. Large offsets are read by few pairs.
#
# Next: lesson 04 lets the mixed half *gate* the other half.
