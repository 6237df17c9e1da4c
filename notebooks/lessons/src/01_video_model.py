# %% [markdown]
# # 01 A video model in fifteen minutes
#
# **Question.** What does a video model need that an image model has not? Here a small PosMLP-Video
# meets clips whose class is *how they move*, and a twin that never mixes over time.
#
# **You will be able to** follow a clip through the model with its shape at each step, train a
# model, and test whether a model sees the order of frames at all.
#
# You need PyTorch. About 15 minutes, of which training takes less than one; three exercises.
#
# ![Answers as the tables turn](../ablations/results/pictures/arrow-of-time.png)
#
# *Where this leads: a small network tells a clip from its reversal by a few tables of numbers.
# Reverse them in time, and its answers change places. `posmlp try` writes a page where you do it.*

# %%
from lessons import preflight

preflight.check()

# %%
import inspect

import matplotlib.pyplot as plt
import pandas as pd
import torch

from analysis import cost
from lessons.checks import nb01
from lessons.clips import GeneratedClips, MovingDigits, filmstrip, moving, normalise
from posmlp import TrainConfig, create_model, fit, load

# %% [markdown]
# ## The clips
#
# Handwritten digits move over photographs; nothing needs to be downloaded. There are 14 classes in
# 7 pairs, and the two classes of a pair are **exact time reversals** of each other.

# %%
digits = MovingDigits("test", num_clips=280, difficulty="easy", paired=True)
test_clips = GeneratedClips(digits)
pairs = list(zip(digits.classes[::2], digits.classes[1::2], strict=True))
print(", ".join(" / ".join(pair) for pair in pairs))

# %% [markdown]
# **Your guess, before you run the next cell:** four clips will play, two pairs. Which two would you
# take for one clip and its reversal?

# %%
rendered = digits.render(torch.tensor([0, 1, 8, 9]))
names = [digits.classes[label] for label in rendered.labels]
moving(rendered.clips[[0, 2, 3, 1]], list("ABCD"))

# %% [markdown]
# **Reading.** A and D, and B and C. Below, the same clips lie open, pair by pair and frame by
# frame; the outline marks what moves.
#
# **Your guess:** could you tell the upper two apart if the frames were shuffled?

# %%
title = "Two pairs of clips: the second of each is the first, backwards"
filmstrip(rendered.clips, names, title, masks=rendered.masks)

# %% [markdown]
# **Reading.** No: a pair consists of the same eight pictures. Only their order tells the classes
# apart, so a model blind to order must guess, whatever else it sees.

# %%
clips = normalise(rendered.clips)
forwards, backwards = clips[0], clips[1]
print(f"stored {tuple(rendered.clips.shape)} {rendered.clips.dtype}: clip, frame, row, column, RGB")
print(f"given to the model {tuple(clips.shape)} {clips.dtype}: clip, RGB, frame, row, column")
assert torch.equal(backwards, forwards.flip(1))  # axis 1 of (RGB, frame, row, column)

# %% [markdown]
# ### Exercise 1: play clips backwards (easy, 2 minutes)
#
# You will need this as a test of models. Input and output: (B, 3, T, H, W).
#
# <details><summary>Hint</summary>
#
# `Tensor.flip` takes the axis to reverse. Count the axes from 0. An answer is in
# `lessons/solutions/nb01.py`.
# </details>


# %% tags=["exercise"]
def play_backwards(clips: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


nb01.play_backwards(play_backwards)

# %% [markdown]
# ## A clip goes through
#
# The model is four *stages* after a *stem*. The stem makes a *token* of C channels for every 4 x 4
# pixels: two strided convolutions, through which a token sees 7 x 7 pixels. Each later stage starts
# by halving height and width and doubling the channels. Nothing ever halves the time axis.
#
# **Your guess:** a toy clip has 8 frames of 32 x 32 pixels; the stages have 16, 32, 64 and 128
# channels. Write down (T, H, W, C) after the stem and after each stage.

# %%
model = create_model("toy", layout="T+S")
names = ["stem", *(f"stage {i}" for i in range(1, 5))]
features = model.forward_features(clips)
for name, x in zip(names, features, strict=True):
    print(f"{name:8} {tuple(x.shape)}   tokens of a clip: {x[0, ..., 0].numel()}")
print(f"logits   {tuple(model(clips).shape)}")

# %% [markdown]
# **Reading.** 8 x 8 tokens a frame shrink to a single one, while all 8 frames stay to the end; then
# a mean over all tokens and one linear layer give a score for each class.
#
# ### Exercise 2: predict the shapes (medium, 5 minutes)
#
# For any number of frames, side in pixels (a multiple of 32) and channels a stage: the list of (T,
# H, W, C) after the stem and each stage.
#
# <details><summary>Hint</summary>
#
# The stem's output and stage 1's have the same shape. Stage i (from 1) has side / 4 / 2^(i-1).
# </details>


# %% tags=["exercise"]
def feature_shapes(num_frames: int, side: int, dims: tuple[int, ...]) -> list[tuple[int, ...]]:
    raise NotImplementedError


nb01.feature_shapes(feature_shapes)

# %% [markdown]
# ## Inside a block
#
# Each stage is a few *blocks*. A block of layout `T+S` adds two branches to its input:
#
# `x + T(x) + S(x)`
#
# Branch `T` mixes the 8 frames at one place; branch `S` mixes the places of one frame, in windows
# of 4 x 4 tokens. The twin has layout `S`: the same without `T`.
#
# **Your guess:** a branch has two linear layers, `fc1` and `fc2`, and a gate, in which **tokens are
# mixed by a small learned table** (lessons 02 to 05). In which order do they stand?

# %%
branch = model.stages[0].blocks[0].steps[0]["T"]
unit = branch.gate
for part in (branch.forward, unit.forward, unit.mix, unit.positions.forward):
    print(inspect.getsource(part))

# %% [markdown]
# **Reading.** This is a whole branch, read from the outside in: the branch, its gate, the gate's
# mixing, and the matrix that it mixes by. The order is a norm, `fc1`, a GELU, the gate, `fc2`.
# `to_mixed_axis` only rearranges axes: it puts what is mixed, frames or places, last but one. The
# norm, the GELU and the linear layers treat every token alone. Tokens meet in one line, the
# `einsum`: token `n` is read and token `m` written, and a channel is its group `g` and its place
# `v` in it (lesson 05). The gate multiplies what was mixed from `u` with the other half, in the
# code another `v`: the token's own valve (lesson 04).
#
# **Your guess:** which share of the parameters makes the tokens mix, as opposed to the channels?

# %%
rows = []
for layout in ("T+S", "S"):
    found = cost(create_model("toy", layout=layout))
    share = found["relation_params"] / found["params"]
    rows.append({"layout": layout, "parameters": f"{found['params']:,}"})
    rows[-1] |= {"of them tables": f"{found['relation_params']:,} ({share:.1%})"}
    rows[-1] |= {"million multiply-adds a clip": f"{found['macs'] / 1e6:.1f}"}
pd.DataFrame(rows)

# %% [markdown]
# **Reading.** Less than one part in a hundred. Places also meet in the 3 x 3 convolutions of the
# stem and of the down-sampling; but frames meet nowhere else than in those few numbers of branch
# `T`, before the mean at the end, which does not know their order.
#
# ## Can it see order, before any training?
#
# **Your guess:** an untrained model gives a clip and its reversal some meaningless logits. How far
# apart are they for `S`, how far for `T+S`?

# %%
exact = clips.double()  # so that rounding is not taken for a difference
for layout in ("S", "T+S"):
    torch.manual_seed(0)
    untrained = create_model("toy", layout=layout).double().eval()
    with torch.no_grad():
        gap = (untrained(exact) - untrained(exact.flip(2))).abs().max().item()
    found = f"differ by {gap:.1e}" if gap > 1e-12 else "are equal"
    print(f"{layout:4} forwards and backwards {found}")

# %% [markdown]
# **Reading.** `S` treats each frame alone and averages in the end: order cannot reach its output,
# trained or not, and no training can mend what the wiring rules out. In `T+S` the difference is
# tiny, since the tables start small, but it is there for training to enlarge.
#
# ## Train both
#
# **Your guess:** with 14 classes guessing is right in 7 of 100 clips. What will `S` reach, what
# `T+S`? The same clips, the same steps, the same seed; some twenty seconds for both, while you see
# the loss fall. To be this quick, it has 800 easy clips; figures elsewhere are of 4,000 harder
# ones. *Val* clips are looked at after every epoch, so that choices can be made by them; test clips
# only at the end.

# %% tags=["trained"]
train_clips = GeneratedClips(MovingDigits("train", num_clips=800, difficulty="easy"))
val_clips = GeneratedClips(MovingDigits("val", num_clips=280, difficulty="easy", paired=True))
recipe = TrainConfig(epochs=3, batch_size=16, lr=6e-3)
runs = preflight.new_folder()
history, live = {}, preflight.live_loss()
for layout in ("S", "T+S"):
    config = create_model("toy", layout=layout).config
    data, watch = (train_clips, val_clips, test_clips), live.line(layout)
    rows = fit(config, recipe, data, [0], runs / layout, progress=False, watch=watch)
    history[layout] = pd.DataFrame(rows)
live.end()

# %% tags=["trained"]
titles = {"val_top1": "All classes: S learns little", "val_within_pair": "Within pairs: T+S alone"}
fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.8), sharey=True)
for ax, (metric, title), chance in zip(axes, titles.items(), (1 / 14, 1 / 2), strict=True):
    for layout, rows in history.items():
        ax.plot(rows["epoch"], rows[metric], "o-", label=layout)
    ax.axhline(chance, color="0.5", linestyle="--")
    ax.set(xlabel="epoch", title=title, ylim=(0, 1.03), xticks=range(1, 4))
axes[0].set_ylabel("share of val clips (dashed: chance)")
axes[1].legend(title="layout")
plt.show()

# %% tags=["trained"]
for layout, rows in history.items():
    last = rows.iloc[-1]
    top1, pair = last["test_top1"], last["test_within_pair"]
    print(f"{layout:4} own class first (top-1): {top1:.3f}; within reversed pairs: {pair:.3f}")

# %% [markdown]
# **Reading.** `S` learns a little: which *pair* of classes a clip belongs to can be seen in the
# pictures themselves. Within a pair it stays at one half, to the last digit. `T+S` learns both.
#
# ## How the pairs are scored
#
# *Within pair* asks of each clip only: does its own class score higher than the class of its time
# reversal? It leaves out everything that does not need time.
#
# ### Exercise 3: write that score (medium, 5 minutes)
#
# `logits` (N, K), `labels` (N,), and `reverse_of` (K,): the class of each class's reversal. Return
# the share of clips whose own class wins; a tie counts one half.
#
# <details><summary>Hint</summary>
#
# `logits[torch.arange(N), labels]` is the score of each clip's own class; `reverse_of[labels]` are
# the classes to compare with. Ties matter: a model that gives both the same score has guessed.
# </details>


# %% tags=["exercise"]
def within_pair(
    logits: torch.Tensor, labels: torch.Tensor, reverse_of: torch.Tensor
) -> torch.Tensor:
    raise NotImplementedError


nb01.within_pair(within_pair)

# %% [markdown]
# ## What it cannot tell yet
#
# For each test clip take the *margin*: score of its own class minus score of the reversed class.
# We shall need it twice, with the clip played forwards and played backwards.

# %% tags=["trained"]
labels, reverse_of = test_clips.labels, test_clips.reverse_of
batch = normalise(next(test_clips.batches([torch.arange(len(test_clips))])))
margins = {}
for layout in ("S", "T+S"):
    trained = load(runs / layout / "model-seed0.safetensors").eval()
    with torch.no_grad():
        for direction, shown in (("forwards", batch), ("backwards", batch.flip(2))):
            logits = trained(shown)
            own, other = (logits.gather(1, k[:, None])[:, 0] for k in (labels, reverse_of[labels]))
            margins[layout, direction] = own - other

# %% [markdown]
# **Your guess:** which of the seven pairs is hardest for `T+S`?

# %% tags=["trained"]
right = (margins["T+S", "forwards"] > 0).float()
shares = {" / ".join(pair): right[labels // 2 == k].mean().item() for k, pair in enumerate(pairs)}
shares = pd.Series(shares).sort_values()
ax = shares.plot.barh(figsize=(5.6, 2.6), color="C1")
ax.axvline(0.5, color="0.4", linestyle="--")
ax.set(xlabel="share of clips right within their pair (dashed: chance)")
ax.set_title(f"Hardest for T+S: {shares.idxmin()}")
plt.show()
print(f"{len(labels) // len(pairs)} clips a pair, one seed")

# %% [markdown]
# **Reading.** Two pairs are hard: a digit that turns, and a zero that fades into a one, or back.
# With one seed and so few clips a bar moves by several hundredths by luck alone: lesson 10 shows
# how to claim more than that.
#
# ## The figure to remember
#
# Each test clip is a point: its margin played forwards, and its margin played backwards.
#
# **Your guess:** where do the points of a blind model lie, where those of one that sees order?

# %% tags=["trained"]
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.7))
for ax, layout, colour in zip(axes, ("S", "T+S"), ("C0", "C1"), strict=True):
    x, y = margins[layout, "forwards"], margins[layout, "backwards"]
    share = history[layout]["test_within_pair"].iloc[-1]
    ax.axline((0, 0), slope=1 if layout == "S" else -1, color="0.8", zorder=0)
    ax.axhline(0, color="0.6", linewidth=0.7)
    ax.axvline(0, color="0.6", linewidth=0.7)
    ax.scatter(x, y, s=9, alpha=0.6, edgecolors="none", color=colour)
    ax.locator_params(nbins=5)
    ax.set(title=f"{layout}: right within pairs {share:.1%}", xlabel="margin, played forwards")
axes[0].set_ylabel("margin, played backwards")
plt.show()

# %% [markdown]
# **Reading.** `S` lies on the diagonal: backwards or forwards, the same answer. So of the two clips
# of a pair one is right and the other wrong by the same margin: one half, exactly. `T+S` lies lower
# right: the right answer forwards, and backwards the *reversed* class, which is then the true one.
# (Mind the scales: the margins of `S` are far smaller than those of `T+S`.)
#
# ## What to remember
#
# - A clip is tokens (T, H, W, C); space shrinks from stage to stage, time does not.
# - Test a video model on clips that differ in order alone. Accuracy over all classes hides whether
#   time is seen; *within reversed pairs* shows it, and chance is exactly one half.
# - All that carries anything from one frame to another, before the mean at the end, are small
#   tables.
#
# Next: lesson 02 looks at mixing as what it is, a matrix.
