# %% [markdown]
# # 11 Your own video
#
# **Question.** How does a file on your disk become an answer, and what does that answer rest on?
#
# **You will be able to** run your own file or folder through decoding, prediction and attribution,
# and say what a model can mean by its answer, and what it cannot.
#
# You need lessons 01 and 08. About 20 minutes; three exercises. No data is needed: a clip is made
# on the spot. Give the path of your own below.

# %%
from lessons import preflight

preflight.check("av", "decord", "captum")

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from analysis import attribute, draw_attribution
from lessons import clips, stored, videos
from lessons.checks import nb11
from posmlp import TrainConfig, create_model, fit

# %% [markdown]
# ## A file
#
# Put the path of a video between the quotes, or leave it empty: then PyAV writes two seconds of a
# moving digit, 112 x 112 pixels, into an H.264 file as any camera would.

# %%
VIDEO = ""  # for example "/home/you/film.mp4"

folder = preflight.new_folder()
if VIDEO:
    video = Path(VIDEO)
else:
    digits = clips.MovingDigits("test", 2, difficulty="easy", num_frames=24, image_size=112)
    frames = digits.render(torch.tensor([0])).clips[0].numpy()
    video = videos.write_film(folder / "film.mp4", frames)
print(f"{video.name}: {video.stat().st_size / 1000:.0f} kB")

# %% [markdown]
# ## From file to clip
#
# A model takes a clip of a fixed size, here 8 frames of 32 x 32. A `ClipRule` says how a video
# becomes one: which frames, resized so that the short side fits, and the square in the middle.
# decord decodes; where it cannot, PyAV does.
#
# **Your guess:** the film made here has 24 frames. Which eight does the model get?

# %%
rule = videos.ClipRule(num_frames=8, image_size=32)
found = videos.load_clip(str(video), rule, videos.Draw())
print(f"{found.num_frames} frames at {found.fps} a second, read by {found.backend}")
print(f"the clip is frames {found.indices.tolist()}: {found.frames.shape}, {found.frames.dtype}")
clip = torch.from_numpy(found.frames)[None]
clips.filmstrip(clip, [video.stem], "All that the model gets of it")

# %%
clips.moving(clip, [video.stem])

# %% [markdown]
# **Reading.** The video is cut into as many equal segments as the clip has frames, and the middle
# of each is taken. All else is thrown away: whatever happens between two of these frames does not
# exist for the model.
#
# ### Exercise 1: which frames (medium, 6 minutes)
#
# With N frames and a clip of T, a segment is `(N - 1) / T` long. Segment i begins at `round(i *
# segment)`; add `int(segment / 2)`. Return the list of T indices.
#
# <details><summary>Hint</summary>
#
# One list comprehension over `range(num_frames)`. Answers are in `lessons/solutions/nb11.py`.
#
# </details>


# %% tags=["exercise"]
def frames_seen(num_frames_in_video: int, num_frames: int) -> list[int]:
    raise NotImplementedError


nb11.frames_seen(frames_seen)

# %% [markdown]
# ## The answer
#
# The toy model knows the fourteen classes of moving digits. It was trained on other digits, other
# backgrounds, smaller and noisier clips of eight frames, never on a video file.
#
# **Your guess:** will it be right? And how sure?

# %%
model = stored.model()
trained = videos.TrainedModel(model, clips.MovingDigits.classes, rule, seed=0)
answer = videos.predict_video(trained, video)
for name, probability in answer.top(5):
    print(f"{name:18} {probability:6.1%}  {'█' * round(40 * probability)}")

# %% [markdown]
# **Reading.** On the film made here it is right, and sure: this one has no noise. The same from a
# shell, for a run folder: `posmlp predict RUN VIDEO --annotate out.mp4`, which also writes the
# video with its classes below.
#
# ## What does the answer rest on?
#
# **Your guess:** in which frames will the relevance lie: the first, the middle, the last?

# %%
best = int(answer.probabilities.argmax())
maps = attribute(model, clips.normalise(clip), best, "integrated_gradients", baseline="mean_frame")
draw_attribution(maps, clip, target_name=answer.classes[best])
plt.show()

# %% [markdown]
# **Reading.** The bars answer, and may well differ from your guess. But where the truth is not
# known, nobody tells you whether this map is right. Lesson 08's checks still can be made:
# completeness (in the caption), and the same map on random weights.
#
# ## More than one look
#
# A long video may be looked at several times, at other frames (views) or places (crops). The logits
# of all looks are averaged.
#
# ### Exercise 2: average over views (easy, 4 minutes)
#
# From logits (views, classes) return the probabilities (classes,): the softmax of the mean.
#
# <details><summary>Hint</summary>
#
# First `logits.mean(dim=0)`, then `softmax`. The order matters: try the other one.
#
# </details>


# %% tags=["exercise"]
def over_views(logits: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


nb11.over_views(over_views)

# %% [markdown]
# **Your guess:** does a second look change the answer?

# %%
for num_views in (1, 2, 4):
    name, probability = videos.predict_video(trained, video, num_views=num_views).top(1)[0]
    print(f"{num_views} views: {name} {probability:.1%}")

# %% [markdown]
# **Reading.** Hardly, for a film this short: all looks see nearly the same frames. In a long one
# each sees another part.
#
# ## A folder
#
# A folder of videos is a data set: `FOLDER/CLASS/*.mp4`, or the layouts of Kinetics,
# Something-Something, UCF101 and HMDB51, which are recognised. Give yours, or leave it empty for
# some small files.

# %%
FOLDER = ""  # for example "/home/you/videos"

root = Path(FOLDER) if FOLDER else folder / "videos"
if not FOLDER:
    videos.write_dataset(root, num_train=56, num_test=84, difficulty="easy", progress=False)
listing = videos.list_videos(root, "test")
print(f"{len(listing.paths)} test videos of {len(listing.classes)} classes")

# %% [markdown]
# **Your guess:** how many of the test files, easy clips, will be answered rightly?

# %%
rows = []
for path, label in zip(listing.paths, listing.labels, strict=True):
    (first, sure), (second, _) = videos.predict_video(trained, path).top(2)
    truth = listing.classes[label]
    rows.append({"file": path.name, "class": truth, "answer": first, "sure": sure, "next": second})
table = pd.DataFrame(rows)
wrong = table[table["class"] != table.answer]
print(f"right: {len(table) - len(wrong)} of {len(table)}; of the wrong ones", end=" ")
print(f"{(wrong['class'] == wrong.next).sum()} have the truth as second choice")
wrong.round(2).head(8)

# %% [markdown]
# **Reading.** Look at the wrong ones: how sure was the model? On videos of other classes than it
# knows every answer is wrong, of course.
#
# ## What the surest answer rests on
#
# **Your guess:** of the answers that are wrong the surest is explained (or, if none is wrong, the
# surest of all). Will the map lie on the moving digit?

# %%
chosen = (table if wrong.empty else wrong).sure.idxmax()
read = videos.load_clip(str(listing.paths[chosen]), rule, videos.Draw())
one = torch.from_numpy(read.frames)[None]
named = list(trained.classes).index(table.answer[chosen])
maps = attribute(model, clips.normalise(one), named, "integrated_gradients", baseline="mean_frame")
name = f"{table.answer[chosen]}, of a clip of class {table['class'][chosen]}"
draw_attribution(maps, one, target_name=name)
plt.show()

# %% [markdown]
# **Reading.** On it, as a rule: a map that lies on the object does not say that the answer is
# right.
#
# ## Do your labels need time?
#
# Before any training: five simple readers are fitted to small grey frames of the folder, and tested
# on clips that they were not fitted on. One sees each pixel's values sorted, so in no order.
#
# **Your guess:** how much will order carry in moving digits, whose classes are reversed pairs?

# %% tags=["trained"]
with videos.reports():
    need = videos.need_of_time(root, num_clips=140, num_folds=4, num_workers=0)
print("\n".join(need.lines()[1:]))

# %% [markdown]
# **Reading.** A clip and its reversal have the same values and another class, so that values alone
# cannot tell the two. Where order carries nothing in your folder, a model of single frames may do.
# From a shell: `posmlp data time FOLDER --out need.png`.
#
# ## Train on your folder
#
# One epoch, to see that it runs. In earnest, from a shell: `posmlp train --config toy --data FOLDER
# --out runs/mine`.
#
# **Your guess:** will so few clips bring the loss below that of guessing?

# %% tags=["trained"]
config = create_model("toy", num_classes=len(listing.classes)).config
recipe = TrainConfig(epochs=1, batch_size=min(14, len(videos.list_videos(root, "train").paths)))
with videos.reports() as said:  # what it found in the folder
    history = fit(config, recipe, str(root), progress=False)
print(said.getvalue().replace(str(root), "FOLDER"))
print(f"{len(history)} epoch, training loss {history[-1]['train_loss']:.2f}")
guessing = torch.tensor(float(config.num_classes)).log()
print(f"guessing among {config.num_classes} would be {guessing:.2f}")

# %% [markdown]
# **Reading.** They teach next to nothing in one epoch; but the folder was read, and it runs.
#
# ## Files that cannot be read
#
# Real folders hold broken files. Nothing is skipped in silence: a file is read or its reason is
# given. **Your guess:** what will be said of a file that was cut short, and of one that is missing?

# %%
broken = folder / "broken.mp4"
broken.write_bytes(video.read_bytes()[:900])
for path in (broken, folder / "missing.mp4"):
    try:
        videos.predict_video(trained, path)
    except videos.VideoError as error:
        print(str(error).replace(str(folder), "..."))

# %% [markdown]
# **Reading.** `posmlp data check FOLDER` reads every file once and lists what is wrong, before a
# training starts.
#
# ## What does the answer mean?
#
# Four versions of the film's clip: as it is, played backwards, mirrored, and frozen at its first
# frame. **Your guess:** in which of them does the digit travel to the left?

# %%
versions = {
    "as it is": clip,
    "backwards": clip.flip(1),
    "mirrored": clip.flip(3),
    "frozen": clip[:, :1].expand_as(clip),
}
with torch.no_grad():
    logits = model(clips.normalise(torch.cat(list(versions.values()))))
probabilities = logits.softmax(-1).numpy()
clips.moving(torch.cat(list(versions.values())), list(versions))

# %% [markdown]
# **Reading.** Backwards and mirrored, on our film; frozen, nothing travels.
#
# ### Exercise 3: classes in a mirror (easy, 4 minutes)
#
# Mirroring training clips at random is a common augmentation. For which classes does it change the
# label? Return the class that a clip of class `name` has after mirroring left for right. (The
# classes: `MovingDigits.classes`.)
#
# <details><summary>Hint</summary>
#
# Two pairs of classes change places; the others stay. Think of a clock in a mirror.
#
# </details>


# %% tags=["exercise"]
def mirrored(name: str) -> str:
    raise NotImplementedError


nb11.mirrored(mirrored)

# %% [markdown]
# ## The figure to remember
#
# **Your guess:** the four answers. What does a model say that has no word for "nothing moves"?

# %%
fig, axes = plt.subplots(1, 4, figsize=(9, 3), sharex=True, sharey=True)
for ax, name, values in zip(axes, versions, probabilities, strict=True):
    hues = ["#D55E00" if value == values.max() else "0.7" for value in values]
    ax.barh(answer.classes, values, color=hues)
    ax.set(title=f"{name}:\n{answer.classes[values.argmax()]}", xlim=(0, 1), xlabel="probability")
    ax.tick_params(axis="y", labelsize=7)
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# **Reading.** Backwards and mirrored our film gets the opposite direction. The frozen clip gets an
# answer, too: a classifier always answers, among the words that it has. A probability compares
# these words with each other; it does not say that any of them fits.
#
# ## What to remember
#
# - A model sees the few frames that a rule takes, small and cropped; look at *them* before you
#   judge it.
# - It answers among its own words, always. Frozen, mirrored and reversed versions show what it
#   attends to.
# - Mirroring changes some labels; so does reversing.
#
# Next: lesson 12 asks where in the network the direction of time becomes the answer.
