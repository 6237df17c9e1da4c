# %% [markdown]
# # 08 Attribution on video, scored
#
# **Question.** Which pixels of which frames does an answer rest on, and how can we know that a map
# of them is right?
#
# **You will be able to** compute such a map, check that it adds up, choose what "taken away" means
# for a video, and score a method against clips whose truth is known.
#
# You need lessons 01 and 07. About 25 minutes; three exercises.

# %%
from lessons import preflight

preflight.check("captum", "ipywidgets")

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import analysis
from lessons import scrubber, stored
from lessons.checks import nb08
from lessons.clips import MovingDigits, RenderedClips, filmstrip, moving, normalise, pixels_of

# %% [markdown]
# ## Clips whose truth is known
#
# Moving digits are drawn by a program, so it also knows where the moving object is (`masks`) and in
# which frames it moves (`moving`). Everything else is distraction: still digits, a sliding
# background, noise.
#
# We keep clips that the toy model answers rightly and surely: a map of a wrong answer explains a
# mistake. **Your guess:** could you name the four classes below without their names?

# %%
model = stored.model()
digits = MovingDigits("test", num_clips=56)
drawn = digits.render(torch.arange(56))
with torch.no_grad():
    probabilities = model(normalise(drawn.clips)).softmax(-1)
chance = probabilities.gather(1, drawn.labels[:, None])[:, 0]
sure = torch.nonzero(chance > 0.7)[:, 0][:8]
sample = RenderedClips(*(tensor[sure] for tensor in drawn))
names = [digits.classes[label] for label in sample.labels]
print(f"{len(sure)} clips, probability of the right class {chance[sure].min():.2f} or more")

# %%
moving(sample.clips[:4], names[:4])

# %% [markdown]
# **Reading.** Hardly from one frame, but from the motion: one object moves, and all else stays or
# slides. **Your guess:** which of the digits is the one that moves?

# %%
title = "Four clips that the model answers rightly, the mover outlined"
filmstrip(sample.clips[:4], names[:4], title, masks=sample.masks, frame_inches=0.7)

# %% [markdown]
# **Reading.** The outline is the truth that maps will be held against.
#
# ## A first map
#
# *Integrated gradients* starts from a **baseline** clip, in which what matters is missing, and goes
# to the clip in small steps; each pixel earns the gradient along the way times its own change.
# Below: frames, the map (red speaks for the class, blue against), the object's outline, and each
# frame's share.
#
# **Your guess:** the object fills less than a tenth of the clip. What share of the map will lie on
# it?

# %%
clips = normalise(sample.clips)
maps = analysis.attribute(
    model, clips, sample.labels, "integrated_gradients", baseline="mean_frame"
)
truth = {"masks": sample.masks, "moving": sample.moving}
analysis.draw_attribution(maps, sample.clips, clip=0, target_name=names[0], **truth)
plt.show()

# %% [markdown]
# **Reading.** A good part of the relevance lies on the object, several times its size, and along
# its edges. The rest is spread thinly. Is that good? For that we need checks that do not rest on
# our taste.
#
# ## Check one: does it add up?
#
# Integrated gradients promises *completeness*: the sum of the map is the change in score from
# baseline to clip. With finitely many steps a gap remains, and it can be computed.
#
# ### Exercise 1: the completeness gap (easy, 3 minutes)
#
# |sum of values - change| as a share of |change|, where change is `score - baseline_score`.
#
# <details><summary>Hint</summary>
#
# Take absolute values at the end, above and below. Answers are in `lessons/solutions/nb08.py`.
#
# </details>


# %% tags=["exercise"]
def completeness_gap(values: np.ndarray, score: float, baseline_score: float) -> float:
    raise NotImplementedError


nb08.completeness_gap(completeness_gap)

# %% [markdown]
# **Your guess:** how many steps bring the gap below one per cent?

# %%
for num_steps in (4, 8, 16, 32):
    found = analysis.attribute(model, clips, sample.labels, num_steps=num_steps)
    print(f"{num_steps:2} steps: median gap {found.relative_gap.median():.1%}", end=", ")
    print(f"largest {found.relative_gap.max():.1%}")

# %% [markdown]
# **Reading.** The gap shrinks with the steps; print it in every caption. It says that the *sum* is
# right, not that it lies in the right place.
#
# ## Check two: does it depend on the model at all?
#
# Give the model fresh random weights and ask again. A map that stays as it is shows the *clip*,
# edges and contrasts, and nothing that was learned.
#
# **Your guess:** the randomised model knows nothing. How much of its map will lie on the object: as
# much as before, as little as of a uniform map, or something between?

# %% tags=["trained"]
random_weights = analysis.reinitialised(model)
noise = analysis.attribute(random_weights, clips, sample.labels, "integrated_gradients")
for name, found in (("trained", maps), ("random weights", noise)):
    shares = analysis.localisation(found, sample.masks)
    print(f"{name:14} {shares.mass_on_object.mean():.0%} of the map on the object,", end=" ")
    print(f"{shares.uniform_mass_on_object.mean():.0%} of a uniform one")

# %% [markdown]
# **Reading.** Between. Even without knowledge the map lies where the clip differs from its own
# baseline, and the object moves there; pixels that do not change earn nothing from *any* model.
#
# ## Check three: does it hit the object?
#
# ### Exercise 2: relevance on the object (easy, 5 minutes)
#
# The share of a map's size, |value|, that lies where `mask` is true; both are (T, H, W).
#
# <details><summary>Hint</summary>
#
# Evidence against a class counts as well: take `np.abs` first.
#
# </details>


# %% tags=["exercise"]
def mass_on_object(values: np.ndarray, mask: np.ndarray) -> float:
    raise NotImplementedError


nb08.mass_on_object(mass_on_object)

# %% [markdown]
# `localisation` computes this and two more: does the largest value of a frame lie on the object
# (pointing game), and how much relevance lies in frames in which something moves. Each stands
# beside the score of a map that is equal everywhere.
#
# **Your guess:** in which of the three does the trained model beat random weights?

# %%
scores = analysis.localisation(maps, **truth).drop(columns="clip")
against = analysis.localisation(noise, **truth).drop(columns="clip")
table = pd.DataFrame({"trained": scores.mean(), "random weights": against.mean()})
table.loc[[name for name in table.index if not name.startswith("uniform")]].assign(
    uniform=[scores[f"uniform_{name}"].mean() for name in scores if not name.startswith("uni")]
).round(2)

# %% [markdown]
# **Reading.** Compare the columns, not the number with zero: what the trained model adds to random
# weights and to a uniform map is what was learned. The last row is a warning: relevance does not
# keep to the frames in which something moves, since frames at rest, before and after, show where
# the object was and where it is.
#
# ## What is "taken away" in a video?
#
# For a photograph a black or blurred image may stand for "nothing there". A clip holds a
# *movement*, and the baseline should hold the scene without it.
#
# ### Exercise 3: a baseline without motion (medium, 5 minutes)
#
# From a clip (3, T, H, W) make one of the same shape in which every frame is the mean over time.
#
# <details><summary>Hint</summary>
#
# Time is axis 1. `mean(dim=1, keepdim=True)`, then `expand_as(clip)`.
#
# </details>


# %% tags=["exercise"]
def without_motion(clip: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


nb08.without_motion(without_motion)

# %% [markdown]
# **Your guess:** which of these four baselines still contains the movement?

# %%
BASELINES = ("mean_frame", "first_frame", "zero", "blur")
baselines = torch.cat([analysis.baseline_clips(name, clips[:1]) for name in BASELINES])
moving(pixels_of(baselines), BASELINES)

# %% [markdown]
# **Reading.** The blurred one: its blob travels. **Your guess:** which of them gives maps that hit
# the object best?

# %%
rows = []
for name in BASELINES:
    found = analysis.localisation(
        analysis.attribute(model, clips, sample.labels, baseline=name), **truth
    )
    with torch.no_grad():
        left = model(analysis.baseline_clips(name, clips)).softmax(-1)
    row = found[["mass_on_object", "pointing_game"]].mean()
    rows.append(row.rename(name))
    rows[-1]["probability left"] = left.gather(1, sample.labels[:, None]).mean().item()
pd.DataFrame(rows).round(2)

# %% [markdown]
# **Reading.** A blurred clip still moves. That this model cannot read it any more (last column) is
# no property of the baseline: a better one might. Zeros are a grey clip, as unlike the scene as can
# be, and the whole picture becomes evidence. The mean frame takes away the movement alone, and its
# maps point best.
#
# ## Which method?
#
# The scorecard runs methods through all checks: relevance on the object, deletion (the class's
# probability should fall soon when the most relevant pixels go) and insertion, and the rank
# correlation with the map of random weights. `random` looks at nothing; whatever does not beat it
# says nothing.
#
# **Your guess:** order integrated gradients, Grad-CAM, saliency and random.

# %%
methods = ["integrated_gradients", "grad_cam", "saliency", "random"]
card = analysis.attribution_scorecard({"toy": model}, methods, sample, num_steps=8)
kept = ["mass_on_object", "pointing_game", "deletion_auc", "rank_correlation_magnitude"]
hit = card[card.metric == "mass_on_object"].set_index("method")["mean"].drop("random")
title = f"{hit.idxmax()} hits the object best: {hit.max():.0%} of its map lies there"
analysis.draw_scorecard(card[card.metric.isin(kept)], title=title)
plt.show()

# %% [markdown]
# **Reading.** On these small clips integrated gradients hits the object far above chance; Grad-CAM,
# whose map comes from a stage of 4 x 4 tokens, and saliency are much nearer to a random one. And no
# score is perfect in all panels: report more than one.
#
# ## Frame by frame
#
# One frame under its map, first as a picture; run the cell after it for sliders.
#
# **Your guess:** this is the frame with the largest share. Red where the object is, or elsewhere?

# %%
largest = int(maps.frame_shares()[1].argmax())
scrubber.show_frame(maps, sample.clips, clip=1, frame=largest, masks=sample.masks)

# %% [markdown]
# **Reading.** The strongest red lies on the object. But much of this frame's map is elsewhere, and
# blue: the frame with the largest share need not have the cleanest map.

# %%
scrubber.scrubber(maps, sample.clips, clip=1, masks=sample.masks)

# %% [markdown]
# ## The figure to remember
#
# One clip, explained twice: by the trained model, and after weight randomisation.
#
# **Your guess:** if the titles were missing, by what would you know which is which?

# %% tags=["trained"]
analysis.draw_attribution(maps, sample.clips, clip=1, target_name=names[1], **truth)
plt.show()
analysis.draw_attribution(
    noise, sample.clips, clip=1, target_name=f"{names[1]}, random weights", **truth
)
plt.show()

# %% [markdown]
# **Reading.** Look at the colour bars first, as each map has its own scale: with random weights
# values are tens of times smaller. Their signs are mixed, and yet this map, too, prefers the
# object. Whoever shows only the first map lets the baseline do part of the convincing.
#
# ## What to remember
#
# - A map is a claim. Completeness checks its sum, weight randomisation its origin, a known object
#   its place.
# - For video the baseline should be the scene without the movement.
# - Always beside it: a uniform map, a random one, and the same method on random weights.
# - Eight clips of one model are an example. Write "in these clips".
#
# Next: lesson 09 asks what all this costs in time.
