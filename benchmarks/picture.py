"""Draw docs/step.png, the picture of the README, from benchmarks/results/step.json and many.json.

python benchmarks/picture.py
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
LIMIT = "memory limit: v+=g; p-=g"
CONTENDERS = {
    "ours: update()": ("rmsprop.numpy", "#D55E00"),
    "ours: rmsprop.torch": ("rmsprop.torch", "#E69F00"),
    "ours: rmsprop.torch, 1 byte": ("rmsprop.torch, 1-byte state", "#F0C860"),
    "torch Adagrad, fused": ("torch Adagrad, fused", "#56B4E9"),
    "torch RMSprop, compiled": ("torch RMSprop, compiled", "#009E73"),
    "torch RMSprop, foreach": ("torch RMSprop, foreach", "#0072B2"),
    "torch RMSprop, loop": ("torch RMSprop, loop", "#4060A0"),
    "NumPy as in the seeds": ("NumPy, as tutorials write it", "#8A8A8A"),
}
CASES = {
    "1 x 25M float32": "25M parameters,\n1 array",
    "GPT-2 small": "GPT-2 small,\n148 arrays",
    "ResNet: ": "ResNet-like,\n96 arrays",
}


def main() -> None:
    """Median time of a step over that of a loop with the same memory traffic, in the same run."""
    rows = [
        row
        for name in ("step", "many")
        for row in json.loads((HERE / "results" / f"{name}.json").read_text("utf-8"))["rows"]
    ]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(CONTENDERS)
    for j, (start, label) in enumerate(CASES.items()):
        case = {r["contender"]: r["median_s"] for r in rows if r["case"].startswith(start)}
        for k, (name, (_, color)) in enumerate(CONTENDERS.items()):
            if name in case:
                height = case[name] / case[LIMIT]
                x = j + (k - len(CONTENDERS) / 2 + 0.5) * width
                ax.bar(x, height, width * 0.92, color=color)
                ax.text(x, height, f"{height:.1f}", ha="center", va="bottom", fontsize=8)
        ax.text(j, -0.06, label, ha="center", va="top", transform=ax.get_xaxis_transform())
    for label, color in CONTENDERS.values():
        ax.bar(0, 0, color=color, label=label)
    ax.axhline(1, color="0.3", lw=0.8, ls="--")
    ax.set(xticks=[], ylabel="time of a step / memory limit", yscale="log", ylim=(0.7, None))
    ax.set_title(f"float32, {rows[0]['device']}", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(HERE.parent / "docs" / "step.png", dpi=130)


if __name__ == "__main__":
    main()
